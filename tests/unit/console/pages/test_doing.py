"""What the instructor's pages do, as forms that a browser sends: to a console in this process, without JavaScript."""

from __future__ import annotations

import json

import pytest
from unit.console.lab import a_lab, text_of
from unit.console.pages.browsing import Browser

from labspawner.model import CourseState


@pytest.fixture
async def lab(tmp_path):
    async with a_lab(tmp_path) as running:
        yield running


@pytest.fixture
def teacher(lab) -> Browser:
    return Browser(lab, "teacher")


async def a_course(teacher: Browser, **typed: str):
    """A course made in the form; the page that comes after it."""
    page = await teacher.get("courses/new")
    wish = {"title_en": "Deep Learning", "start": "notebook", **typed}
    return await teacher.submit(page, "#new-form", **wish)


# -- every page --------------------------------------------------------------------------------------------------------


async def test_what_the_hub_says_of_itself_stands_at_the_top_of_every_page_and_of_errors(lab, teacher):
    lab.hub.notes = {"demo": True, "bare": False, "pretended": True}

    for path in ("", "courses/py101/", "courses/py101/profiles/", "courses/no-such/"):
        page = await teacher.get(path)
        assert page.says("Loopback demo."), path
        assert page.says("Pretended GPU."), path


async def test_a_hub_that_says_nothing_of_itself_leaves_pages_as_they_are(lab, teacher):
    page = await teacher.get("")

    assert page.status == 200
    assert not page.html.select(".lab-demo")


# -- making ------------------------------------------------------------------------------------------------------------


async def test_a_course_is_made_in_one_form_with_its_students(lab, teacher):
    page = await a_course(teacher, title_zh="深度学习", roster="student1\r\nstudent2\r\n")

    assert page.status == 200, page.text
    assert "/courses/deep-learning/" in page.url
    assert page.says("The course is made.")
    assert lab.hub.groups["course-deep-learning"] == {"student1", "student2"}
    assert lab.hub.groups["course-deep-learning-instructors"] == {"teacher"}
    written = await lab.house.store.coursebook.get("deep-learning")
    assert written.state is CourseState.DRAFT


async def test_lines_that_cannot_be_taken_are_shown_before_anybody_is_added(lab, teacher):
    page = await a_course(teacher, roster="student1\r\nno name at all/..\r\n")

    assert page.html.select_one("#refused")
    assert not lab.hub.groups["course-deep-learning"]
    applied = await teacher.submit(page, "#apply-form", do="apply")
    assert applied.says("The list of people is changed.")
    assert lab.hub.groups["course-deep-learning"] == {"student1"}


@pytest.mark.parametrize(
    ("typed", "field"),
    [
        ({"title_en": "", "title_zh": "  "}, "title_en"),
        ({"slug": "Bad Slug!"}, "slug"),
        ({"slug": "py101"}, "slug"),
        ({"start": "no-such"}, "start"),
        ({"start": "slice"}, "start"),
    ],
)
async def test_what_is_missing_is_said_beside_its_field_and_nothing_typed_is_lost(lab, teacher, typed, field):
    page = await a_course(teacher, **{"roster": "kept1\r\nkept2", **typed})

    assert page.status == 422
    assert page.html.select_one(f"#{field}-wrong") or field == "start"
    assert page.html.select_one("#roster").text.split() == ["kept1", "kept2"]
    assert await lab.house.store.coursebook.all() == []


async def test_a_course_of_a_name_that_is_taken_is_not_overwritten(lab, teacher):
    await a_course(teacher)
    before = await lab.house.store.coursebook.get("deep-learning")

    second = await a_course(teacher, slug="deep-learning")

    assert second.status == 422
    assert (await lab.house.store.coursebook.get("deep-learning")) == before


async def test_the_short_name_of_a_second_course_of_the_same_title_is_another_one(lab, teacher):
    await a_course(teacher)

    page = await a_course(teacher)

    assert "/courses/deep-learning-2/" in page.url


async def test_a_course_begins_with_a_file_that_somebody_has(lab, teacher):
    page = await teacher.get("courses/new")

    made = await teacher.submit(page, "#import-form", text=text_of("vision"))

    assert "/courses/vision/" in made.url
    assert (await lab.house.store.coursebook.get("vision")).text == text_of("vision")


async def test_a_file_that_cannot_be_read_is_given_back_with_its_reason(lab, teacher):
    page = await teacher.get("courses/new")

    again = await teacher.submit(page, "#import-form", text="course: [\n")

    assert again.status == 422
    assert again.html.select_one("#text").text.strip() == "course: ["
    assert again.html.select_one("#text-wrong")


async def test_a_kubespawner_list_becomes_a_course(lab, teacher):
    page = await teacher.get("courses/new")
    text = "- display_name: Small notebook\n  kubespawner_override: {image: 'lab/scipy:1', mem_limit: 2G}\n"

    made = await teacher.submit(page, "#import-form", text=text, slug2="old")

    assert made.status in {200, 422}, made.text
    if made.status == 422:  # this console has no provider `kubernetes`, and says so
        assert made.says("kubernetes")
        assert made.html.select_one("#text").text.strip() == text.strip()


async def test_who_may_make_no_course_sees_no_way_to_and_none_is_made(lab):
    student = Browser(lab, "student1")

    assert (await student.get("")).html.select_one("#new-course") is None
    assert (await student.get("courses/new")).status == 403
    page = await student.get("")
    refused = await student.post(
        "courses/new", {"_xsrf": student.cookies.get("_xsrf", ""), "title_en": "x", "start": "notebook"}
    )
    assert refused.status == 403
    assert page.html.select_one("#empty")
    assert await lab.house.store.coursebook.all() == []


# -- changing ----------------------------------------------------------------------------------------------------------


async def test_a_profile_is_changed_by_its_form(lab, teacher):
    await a_course(teacher)
    page = await teacher.get("courses/deep-learning/profiles/notebook/edit")

    saved = await teacher.submit(page, "#editor", **{"variants.0.memory": "3GiB", "comment": "more", "save": "form"})

    assert saved.says("Saved.")
    written = await lab.house.store.coursebook.get("deep-learning")
    assert "memory: 3GiB" in written.text
    assert (await lab.house.store.coursebook.revisions("deep-learning"))[0].comment == "more"


async def test_a_profile_is_changed_by_its_text(lab, teacher):
    await a_course(teacher)
    page = await teacher.get("courses/deep-learning/profiles/notebook/edit")
    text = page.html.select_one("#text").text.removeprefix("\n").replace("2GiB", "3GiB")

    await teacher.submit(page, "#editor", text=text.replace("\n", "\r\n"), save="yaml")

    written = await lab.house.store.coursebook.get("deep-learning")
    assert "memory: 3GiB" in written.text
    assert "\r" not in written.text


@pytest.mark.parametrize("save", ["form", "yaml"])
async def test_a_mistake_is_not_saved_and_what_was_typed_stays_on_the_page(lab, teacher, save):
    await a_course(teacher)
    before = await lab.house.store.coursebook.get("deep-learning")
    page = await teacher.get("courses/deep-learning/profiles/notebook/edit")
    text = page.html.select_one("#text").text.removeprefix("\n")
    typed = {"text": text.replace("2GiB", "two")} if save == "yaml" else {"variants.0.memory": "two"}

    again = await teacher.submit(page, "#editor", **typed, save=save, comment="mine")

    assert again.status == 422
    assert again.html.select("#problems li")
    assert "two" in again.html.select_one("#text").text
    assert again.html.select_one("#comment")["value"] == "mine"
    assert (await lab.house.store.coursebook.get("deep-learning")) == before


async def test_while_one_types_the_other_side_problems_and_places_are_told(lab, teacher):
    await a_course(teacher)
    page = await teacher.get("courses/deep-learning/profiles/notebook/edit")
    typed = {**page.form("#editor"), "profile": "notebook", "students": "12"}
    sent = {"X-XSRFToken": page.html.select_one("[name=_xsrf]")["value"], "Sec-Fetch-Mode": "cors"}

    form = await teacher.post(
        "courses/deep-learning/lint", {**typed, "side": "form", "variants.0.memory": "3GiB"}, **sent
    )
    text = await teacher.post(
        "courses/deep-learning/lint",
        {**typed, "side": "yaml", "text": str(typed["text"]).replace("2GiB", "two")},
        **sent,
    )

    assert form.status == 200, form.text
    assert "memory: 3GiB" in json.loads(form.text)["text"]
    assert json.loads(text.text)["lines"]
    assert 'value="two"' in json.loads(text.text)["form"]
    assert (await lab.house.store.coursebook.get("deep-learning")).revision == 1


async def test_a_mistake_is_said_in_the_readers_language(lab):
    teacher = Browser(lab, "teacher", "zh-CN")
    await a_course(teacher)
    page = await teacher.get("courses/deep-learning/yaml")
    text = page.html.select_one("#text").text.removeprefix("\n")

    again = await teacher.submit(page, "#editor", text=text.replace("2GiB", "2"), save="yaml")

    assert again.html.html["lang"] == "zh-CN"
    (said,) = again.html.select("#problems li span")
    assert "unit" not in said.text
    assert "2GiB" in said.text


async def test_a_profile_that_got_another_name_leads_to_the_list(lab, teacher):
    await a_course(teacher)
    page = await teacher.get("courses/deep-learning/profiles/notebook/edit")
    text = page.html.select_one("#text").text.removeprefix("\n").replace("slug: notebook", "slug: exam")

    saved = await teacher.submit(page, "#editor", text=text, save="yaml")

    assert saved.status == 200
    assert saved.html.select_one("#profile-exam")


async def test_a_check_saves_nothing(lab, teacher):
    await a_course(teacher)
    before = await lab.house.store.coursebook.get("deep-learning")
    page = await teacher.get("courses/deep-learning/yaml")

    checked = await teacher.submit(page, "#editor", text=before.text + "# more\n", save="check")

    assert checked.says("All good. It is not saved yet.")
    assert "# more" in checked.html.select_one("#text").text
    assert (await lab.house.store.coursebook.get("deep-learning")) == before


async def test_two_who_save_at_once_lose_not_a_word(lab, teacher):
    await a_course(teacher)
    text = (await lab.house.store.coursebook.get("deep-learning")).text
    mine = await teacher.get("courses/deep-learning/yaml")
    lab.hub.groups["course-deep-learning-instructors"].add("rival")
    lab.forget_who()
    rival = Browser(lab, "rival")
    theirs = await rival.get("courses/deep-learning/yaml")
    await rival.submit(theirs, "#editor", text=text.replace("2GiB", "4GiB"), save="yaml")

    conflict = await teacher.submit(
        mine, "#editor", text=text + "# from the teacher\n", save="yaml", comment="my words"
    )

    assert conflict.status == 412
    assert conflict.says("rival saved this course while you were writing.")
    assert "# from the teacher" in conflict.html.select_one("#text").text
    assert conflict.html.select_one("#comment")["value"] == "my words"
    assert "4GiB" in conflict.html.select(".con-diff-side")[0].text
    assert "4GiB" not in conflict.html.select(".con-diff-side")[1].text
    saved = await teacher.submit(conflict, "#editor", save="yaml")
    assert saved.says("Saved.")
    texts = [one.text for one in await lab.house.store.coursebook.revisions("deep-learning")]
    assert "# from the teacher" in texts[0]
    assert "4GiB" in texts[1]


async def test_an_older_text_comes_back_as_a_new_revision(lab, teacher):
    await a_course(teacher)
    first = (await lab.house.store.coursebook.get("deep-learning")).text
    page = await teacher.get("courses/deep-learning/yaml")
    await teacher.submit(page, "#editor", text=first.replace("2GiB", "3GiB"), save="yaml")
    history = await teacher.get("courses/deep-learning/history?revision=1")

    back = await teacher.post(
        "courses/deep-learning/rollback", {**history.form("form:has(#rollback)"), "revision": "1"}
    )

    assert back.says("The older text is in force again")
    written = await lab.house.store.coursebook.get("deep-learning")
    assert (written.text, written.revision) == (first, 3)


async def test_what_changed_is_shown_line_by_line_and_in_words(teacher, lab):
    await a_course(teacher)
    page = await teacher.get("courses/deep-learning/yaml")
    first = (await lab.house.store.coursebook.get("deep-learning")).text
    await teacher.submit(page, "#editor", text=first.replace("2GiB", "3GiB"), save="yaml")

    history = await teacher.get("courses/deep-learning/history")

    assert "3GiB" in history.html.select_one("tr.con-added").text
    assert "2GiB" in history.html.select_one("tr.con-removed").text
    assert history.says("2GiB, now 3GiB")


async def test_the_courses_own_words_are_changed_and_its_comments_stay(lab, teacher):
    await a_course(teacher)
    page = await teacher.get("courses/deep-learning/yaml")
    first = (await lab.house.store.coursebook.get("deep-learning")).text
    await teacher.submit(page, "#editor", text="# mine\n" + first, save="yaml")
    page = await teacher.get("courses/deep-learning/profiles/")

    saved = await teacher.submit(
        page, "#about-form", **{"title.zh-CN": "深度学习", "summary.en": "All of it.", "timezone": "Asia/Shanghai"}
    )

    assert saved.says("Saved.")
    written = await lab.house.store.coursebook.get("deep-learning")
    course = (await lab.house.parsed(written)).course
    assert course.title == {"en": "Deep Learning", "zh-CN": "深度学习"}
    assert (course.summary, course.timezone) == ({"en": "All of it."}, "Asia/Shanghai")
    assert written.text.startswith("# mine\n")


async def test_a_course_keeps_a_name(lab, teacher):
    await a_course(teacher)
    page = await teacher.get("courses/deep-learning/profiles/")

    refused = await teacher.submit(page, "#about-form", **{"title.en": " ", "title.zh-CN": ""})

    assert refused.status == 409
    assert (await lab.house.store.coursebook.get("deep-learning")).revision == 1


async def test_an_error_after_a_form_leads_back_to_the_page_of_the_form(lab, teacher):
    await a_course(teacher)
    page = await teacher.get("courses/deep-learning/profiles/")

    refused = await teacher.post(
        "courses/deep-learning/profiles/notebook/change",
        {**page.form("form[action$='/notebook/change']"), "do": "remove"},
        Referer=page.url,
    )

    assert refused.status == 409
    assert refused.html.select_one("#back")["href"].endswith("/courses/deep-learning/profiles/")
    elsewhere = await teacher.post(
        "courses/deep-learning/profiles/notebook/change",
        {**page.form("form[action$='/notebook/change']"), "do": "remove"},
        Referer="https://evil.example/services/labspawner/",
    )
    assert elsewhere.html.select_one("#back") is None


async def test_profiles_are_added_copied_moved_and_removed(lab, teacher):
    await a_course(teacher)

    async def profiles() -> list[str]:
        written = await lab.house.store.coursebook.get("deep-learning")
        return [profile.slug for profile in (await lab.house.parsed(written)).course.profiles]

    async def change(name: str, wish: str) -> None:
        page = await teacher.get("courses/deep-learning/profiles/")
        place = f"courses/deep-learning/profiles/{name}/change"
        done = await teacher.post(place, {**page.form(f"form[action$='/{name}/change']"), "do": wish})
        assert done.status == 200, done.text

    page = await teacher.get("courses/deep-learning/profiles/")
    await teacher.submit(page, "#add-form", start="notebook", title_en="For the exam")
    assert await profiles() == ["notebook", "for-the-exam"]
    await change("for-the-exam", "up")
    assert await profiles() == ["for-the-exam", "notebook"]
    await change("notebook", "duplicate")
    assert await profiles() == ["for-the-exam", "notebook", "notebook-copy"]
    await change("for-the-exam", "remove")
    assert await profiles() == ["notebook", "notebook-copy"]


async def test_a_course_is_published_taken_back_and_archived(lab, teacher):
    await a_course(teacher)

    async def state(wish: str) -> CourseState:
        page = await teacher.get("courses/deep-learning/archive" if wish == "archive" else "courses/deep-learning/")
        await teacher.post("courses/deep-learning/state", {**page.form("form[action$='/state']"), "to": wish})
        return (await lab.house.store.coursebook.get("deep-learning")).state

    assert await state("publish") is CourseState.PUBLISHED
    assert await state("unpublish") is CourseState.DRAFT
    assert await state("archive") is CourseState.ARCHIVED
    mine = await teacher.get("")
    assert mine.html.select_one("details #course-deep-learning")


async def test_where_the_courses_are_on_the_machine_is_told_to_administrators_alone(lab, teacher):
    folder = str(lab.house.catalog.folder)

    for path in ("profiles/", "", "yaml", "history", "roster"):
        page = await teacher.get(f"courses/py101/{path}")
        assert page.status == 200
        assert folder not in page.text, path

    assert (await teacher.get("courses/py101/profiles/")).says("in the file py101.yaml")
    assert (await Browser(lab, "boss").get("courses/py101/profiles/")).says(f"in the file {folder}/py101.yaml")


async def test_a_second_file_of_the_same_course_does_not_tell_where_the_first_is(lab, teacher):
    folder = lab.house.catalog.folder
    (folder / "zz.yaml").write_text((folder / "py101.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    lab.house.catalog.refresh()

    assert [str(folder) in problem.message for problem in lab.house.catalog.problems] == [False]


GIVEN = {"file": "c.KubeSpawner.profile_list", "text": text_of("profiles").replace("Deep Learning", "Profiles")}


async def test_a_course_of_the_hubs_configuration_is_shown_and_can_only_be_copied(lab):
    lab.hub.given = [GIVEN]
    boss = Browser(lab, "boss")

    assert (await boss.get("")).html.select_one("#course-profiles .con-tag-hub")
    for path in ("", "profiles/", "profiles/gpu/edit", "roster", "links", "usage", "history", "yaml"):
        page = await boss.get(f"courses/profiles/{path}")
        assert page.status == 200, (path, page.text)
        assert page.html.select_one("#save") is None, path
    assert (await boss.get("courses/profiles/profiles/")).says(
        "in c.KubeSpawner.profile_list: here it can be looked at"
    )
    page = await boss.get("courses/profiles/duplicate")
    copied = await boss.submit(page, "form[action$='/duplicate']", slug="of-mine")
    assert copied.status == 200
    assert "/courses/of-mine/" in copied.url


async def test_a_course_of_the_hubs_configuration_is_written_by_nobody_and_seen_by_its_staff(lab, teacher):
    lab.hub.given = [GIVEN]
    boss = Browser(lab, "boss")
    page = await boss.get("courses/profiles/yaml")

    fields = {**page.form("#editor"), "text": text_of("profiles"), "save": "yaml"}
    refused = await boss.post("courses/profiles/yaml", fields)

    assert refused.status == 409
    assert refused.says("stands in the hub's configuration, in c.KubeSpawner.profile_list")
    assert await lab.house.store.coursebook.all() == []
    assert (await teacher.get("courses/profiles/")).status == 404
    lab.hub.person("teacher", "instructors", "course-profiles-instructors")
    lab.forget_who()
    assert (await teacher.get("courses/profiles/")).status == 200


async def test_a_hub_that_has_no_answer_leaves_its_courses_as_they_were(lab):
    lab.hub.given = [GIVEN]
    await lab.house.read_files()

    lab.hub.away = True
    lab.house._given_at = lab.house._read_at = float("-inf")
    await lab.house.read_files()

    assert [one.file for one in lab.house.catalog.given] == ["c.KubeSpawner.profile_list"]


async def test_a_course_of_the_hubs_configuration_that_is_gone_is_gone_here(lab):
    lab.hub.given = [GIVEN, {"file": "x", "text": "course: ["}]
    await lab.house.read_files()

    lab.hub.given = []
    lab.house._given_at = lab.house._read_at = float("-inf")
    await lab.house.read_files()

    assert lab.house.catalog.given == ()
    assert lab.house.file_course("profiles") is None


async def test_a_file_course_is_shown_and_can_only_be_copied(lab, teacher):
    page = await teacher.get("courses/py101/yaml")

    assert page.html.select_one("#read-only")
    assert page.html.select_one("#save") is None
    refused = await teacher.post("courses/py101/yaml", {"_xsrf": teacher.cookies["_xsrf"], "text": "x", "save": "yaml"})
    assert refused.status == 409
    form = await teacher.get("courses/py101/duplicate")
    copied = await teacher.submit(form, "form[action$='/duplicate']", slug="py102")
    assert copied.status == 200
    assert "course: py102" in (await lab.house.store.coursebook.get("py102")).text


# -- people ------------------------------------------------------------------------------------------------------------


async def test_a_list_is_shown_as_what_it_changes_before_it_changes_anything(lab, teacher):
    await a_course(teacher, roster="student1")
    page = await teacher.get("courses/deep-learning/roster")

    preview = await teacher.submit(page, "#roster-form", roster="student2\r\nstudent3", mode="replace", do="preview")

    assert [one.text for one in preview.html.select("#added li")] == ["student2", "student3"]
    assert [one.text for one in preview.html.select("#removed li")] == ["student1"]
    assert lab.hub.groups["course-deep-learning"] == {"student1"}
    await teacher.submit(preview, "#apply-form", do="apply")
    assert lab.hub.groups["course-deep-learning"] == {"student2", "student3"}


async def test_a_list_that_changed_since_it_was_shown_is_not_replaced(lab, teacher):
    await a_course(teacher, roster="student1")
    page = await teacher.get("courses/deep-learning/roster")
    preview = await teacher.submit(page, "#roster-form", roster="student2", mode="replace", do="preview")
    lab.hub.groups["course-deep-learning"].add("student3")

    again = await teacher.submit(preview, "#apply-form", do="apply")

    assert again.status == 412
    assert again.html.select_one("#trouble")
    assert lab.hub.groups["course-deep-learning"] == {"student1", "student3"}
    assert again.html.select_one("#roster").text.strip() == "student2"


async def test_the_last_instructor_cannot_be_removed(lab, teacher):
    await a_course(teacher)
    page = await teacher.get("courses/deep-learning/roster")

    again = await teacher.post("courses/deep-learning/roster", {**page.form("#remove-form"), "who": "teacher"})

    assert again.status == 409
    assert again.says("last instructor")
    assert lab.hub.groups["course-deep-learning-instructors"] == {"teacher"}


async def test_names_in_an_export_are_no_formulas(lab, teacher):
    lab.hub.person("=cmd|calc")
    await a_course(teacher, roster="student1")
    lab.hub.groups["course-deep-learning"].add("=cmd|calc")

    found = await teacher.get("courses/deep-learning/roster.csv")

    assert "'=cmd|calc" in found.text
    assert "\n=cmd" not in found.text
    assert found.headers["Content-Disposition"].startswith("attachment")


# -- the class ---------------------------------------------------------------------------------------------------------


async def test_a_class_action_is_confirmed_and_then_done_by_the_console(tmp_path):
    async with a_lab(tmp_path, working=True) as lab:
        teacher = Browser(lab, "teacher")
        page = await teacher.get("courses/py101/")
        assert {one["value"] for one in page.html.select("[name=who]")} == {"student1", "student2", "student3"}
        wish = {**page.form("#wall-form"), "who": ["student1", "student2"], "verb": "start"}

        asked = await teacher.post("courses/py101/confirm", wish)

        assert asked.says("Start a server for 2 students?")
        assert lab.hub.acts == []
        job = await teacher.submit(asked, "#confirm-form", verb="start")
        assert "/jobs/" in job.url
        assert job.html.select_one(".con-job")


async def test_a_confirmation_names_only_people_of_the_course(lab, teacher):
    page = await teacher.get("courses/py101/")

    asked = await teacher.post(
        "courses/py101/confirm", {**page.form("#wall-form"), "who": ["student1", "rival", "../x"], "verb": "start"}
    )

    assert asked.form("#confirm-form")["who"] == "student1"


async def test_a_student_is_asked_before_anybody_opens_their_server(lab, teacher):
    lab.hub.servers["student1"] = "py101/base"
    page = await teacher.get("courses/py101/")
    button = page.html.select_one("#row-student1 button[name=visit]")

    asked = await teacher.post(button["formaction"], {**page.form("#wall-form"), "visit": button["value"]})

    assert asked.html.select_one("#visit")["data-state"] == "asked"
    assert asked.html.select_one("#open") is None
    assert [(one["verb"], one["user"]) for one in lab.hub.acts] == [("visit", "student1")]
    again = await teacher.submit(asked, "#visit-form")
    assert again.html.select_one("#visit")


async def test_an_assistant_has_no_way_into_a_students_server(lab):
    lab.hub.servers["student1"] = "py101/base"
    helper = Browser(lab, "helper")
    page = await helper.get("courses/py101/")

    assert page.html.select_one("button[name=visit]") is None
    refused = await helper.post("courses/py101/visit", {**page.form("#wall-form"), "visit": "student1"})
    assert refused.status == 403
    assert lab.hub.acts == []


async def test_a_message_without_words_is_not_sent(lab, teacher):
    page = await teacher.get("courses/py101/")

    again = await teacher.post(
        "courses/py101/act", {**page.form("#wall-form"), "who": "student1", "verb": "message", "text": "  "}
    )

    assert again.status == 422
    assert lab.hub.acts == []


async def test_the_wall_without_the_hub_names_who_is_in_the_course(lab, teacher):
    await a_course(teacher, roster="student1\r\nstudent2")
    await teacher.get("courses/deep-learning/")
    lab.hub.away = True

    page = await teacher.get("courses/deep-learning/")

    assert page.status == 200, page.text
    assert page.html.select_one("#wall-trouble")
    assert [row["data-user"] for row in page.html.select("#wall-rows tr")] == ["student1", "student2"]


# -- rights ------------------------------------------------------------------------------------------------------------

PLACES = (
    "", "live", "profiles/", "profiles/notebook/edit", "yaml", "archive", "export", "duplicate", "history", "roster",
    "roster.csv", "links", "usage", "usage.csv", "jobs/none", "jobs/none/live",
)  # fmt: skip
FORMS = (
    "visit", "confirm", "act", "state", "about", "rollback", "yaml", "lint", "roster", "duplicate", "profiles/",
    "profiles/notebook/edit", "profiles/notebook/change", "jobs/none/cancel",
)  # fmt: skip


@pytest.mark.parametrize("who", ["student1", "rival"])
async def test_whoever_is_not_on_the_staff_does_not_even_learn_of_the_course(lab, teacher, who):
    await a_course(teacher, roster="student1")
    other = Browser(lab, who)
    await other.get("")

    for place in PLACES:
        found = await other.get(f"courses/deep-learning/{place}")
        assert found.status in {403, 404}, (place, found.status)
        assert "2GiB" not in found.text, place
    wish = {"verb": "stop", "who": "student1", "to": "publish", "save": "yaml", "text": "x", "slug": "stolen", "do": "apply",
            "roster": who, "role": "instructor", "revision": "1"}  # fmt: skip
    for place in FORMS:
        fields = {**wish, "_xsrf": other.cookies["_xsrf"]}
        refused = await other.post(f"courses/deep-learning/{place}", fields)
        assert refused.status in {403, 404}, (place, refused.status)
    written = await lab.house.store.coursebook.get("deep-learning")
    assert (written.revision, written.state) == (1, CourseState.DRAFT)
    assert lab.hub.acts == []
    assert who not in lab.hub.groups["course-deep-learning-instructors"]


async def test_an_assistant_looks_and_helps_and_changes_nothing(lab):
    helper = Browser(lab, "helper")

    wall = await helper.get("courses/py101/")
    assert [one["value"] for one in wall.html.select(".con-verbs button")] == ["start", "extend", "message"]
    assert (await helper.get("courses/py101/roster")).html.select_one("#roster-form") is None
    for verb in ("stop", "reset"):
        refused = await helper.post(
            "courses/py101/confirm", {**wall.form("#wall-form"), "who": "student1", "verb": verb}
        )
        assert refused.status == 403
        refused = await helper.post("courses/py101/act", {**wall.form("#wall-form"), "who": "student1", "verb": verb})
        assert refused.status == 403
    refused = await helper.post("courses/py101/roster", {**wall.form("#wall-form"), "do": "apply", "roster": "rival"})
    assert refused.status == 403
    assert lab.hub.acts == []


# -- nothing typed is lost, and nothing forged is taken ----------------------------------------------------------------


async def test_what_is_sent_after_the_log_in_ended_is_given_back(lab, teacher):
    await a_course(teacher)
    page = await teacher.get("courses/deep-learning/yaml")
    text = (await lab.house.store.coursebook.get("deep-learning")).text + "# two hours of work <b>&amp;\n"
    log_in = teacher.cookies.pop("service-labspawner")

    kept = await teacher.submit(page, "#editor", text=text, save="yaml", comment="kept too")

    assert kept.status == 401
    assert kept.html.select_one("#expired")
    assert kept.form("#expired form")["text"].replace("\r", "") == text
    teacher.cookies["service-labspawner"] = log_in
    saved = await teacher.submit(kept, "#expired form")
    if saved.status == 403:  # the token is of the log-in before: looked at once more, and sent
        saved = await teacher.submit(saved, "#expired form")
    assert saved.says("Saved.")
    assert (await lab.house.store.coursebook.get("deep-learning")).text == text


async def test_what_is_sent_while_the_hub_is_away_is_given_back(lab, teacher):
    await a_course(teacher)
    page = await teacher.get("courses/deep-learning/yaml")
    text = (await lab.house.store.coursebook.get("deep-learning")).text + "# kept\n"
    lab.hub.away = True
    lab.forget_who()

    kept = await teacher.submit(page, "#editor", text=text, save="yaml")

    assert kept.status == 503
    assert kept.form("#expired form")["text"].replace("\r", "") == text
    lab.hub.away = False
    assert (await teacher.submit(kept, "#expired form")).says("Saved.")


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}, {"Origin": ""}],
)
async def test_a_form_of_another_site_is_neither_done_nor_shown_as_ones_own(lab, teacher, headers):
    await a_course(teacher)
    page = await teacher.get("courses/deep-learning/yaml")
    fields = {**page.form("#editor"), "text": "forged words", "save": "yaml", "_xsrf": "wrong"}

    refused = await teacher.post("courses/deep-learning/yaml", fields, **headers)

    assert refused.status == 403
    assert "forged words" not in refused.text


async def test_a_form_without_its_token_is_given_back_and_not_done(lab, teacher):
    await a_course(teacher)
    page = await teacher.get("courses/deep-learning/yaml")

    kept = await teacher.submit(page, "#editor", text="mine", save="yaml", _xsrf="wrong")

    assert kept.status == 403
    assert kept.form("#expired form")["text"].strip() == "mine"
    assert (await lab.house.store.coursebook.get("deep-learning")).revision == 1


async def test_only_sentences_that_we_know_are_said_by_an_address(teacher):
    page = await teacher.get("courses/py101/?done=You%20won%20a%20prize")

    assert not page.says("You won a prize")
    assert page.html.select_one("#done") is None


@pytest.mark.parametrize(
    "query", ["revision=999999999999999999999", "revision=-1", "revision=x&against=y", "against=99"]
)
async def test_odd_revisions_are_no_error(lab, teacher, query):
    await a_course(teacher)

    assert (await teacher.get(f"courses/deep-learning/history?{query}")).status == 200


@pytest.mark.parametrize(
    "repo",
    [
        "javascript:alert(1)",
        "https://",
        "file:///etc/passwd",
        "https://user:secret@host/x",
        "https://h/x\r\nSet-Cookie: a=b",
        "x" * 3000,
    ],
)
async def test_no_link_is_made_of_what_is_no_repository(teacher, repo):
    from urllib.parse import quote

    page = await teacher.get(f"courses/py101/links?repo={quote(repo)}")

    assert page.status in {200, 400}
    assert page.html.select_one("#pulled") is None


async def test_a_link_to_a_lesson_holds_all_that_was_asked_for(teacher):
    page = await teacher.get(
        "courses/py101/links?repo=https%3A%2F%2Fgit.example%2Fa%2Flessons&branch=main&path=week1%2Fa.ipynb"
    )

    link = page.html.select_one("#pull-link")["value"]
    assert link.startswith("http://127.0.0.1")
    assert "git.example" in link
    assert "week1" in link


async def test_pages_of_a_course_that_is_not_there_say_so(teacher):
    for place in PLACES:
        assert (await teacher.get(f"courses/nowhere/{place}")).status == 404


async def test_behind_a_base_url_no_page_leads_out_of_it(tmp_path):
    async with a_lab(tmp_path, prefix="/jupyter/services/labspawner/") as lab:
        teacher = Browser(lab, "teacher")
        made = await a_course(teacher, roster="student1")
        assert made.status == 200, made.text
        for place in (
            "",
            "courses/new",
            *(f"courses/deep-learning/{place}" for place in PLACES if "live" not in place and "jobs" not in place),
        ):
            page = await teacher.get(place)
            leads = page.html.select(
                "a[href], form[action], link[href], script[src], img[src], [data-live], [formaction]"
            )
            for element in leads:
                for name in ("href", "action", "src", "data-live", "data-events", "formaction"):
                    target = str(element.get(name) or "/jupyter/")
                    assert target.startswith(("/jupyter/", "#", "?", "http://127.0.0.1")), (place, element)
