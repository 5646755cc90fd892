"""What is on a card: what is free, what is closed, and whose provider is missing."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import timedelta
from types import SimpleNamespace

import pytest
from unit.spawn_page.spawn_pages import MONDAY_10, STAFF, Engine, a_course, a_profile, card, checked, shown

from labspawner.courses import WrittenText
from labspawner.lifecycle.admission import Room
from labspawner.model import CourseState, Feature, Resources

HOURS = 'hours: [{days: [tue], from: "09:00", to: "11:00"}]'
IN_SHANGHAI = "title: Python Basics\ntimezone: Asia/Shanghai\n"
AUTO = "variants: [{provider: kubernetes, cpu: 8}, {provider: sim, cpu: 2}, {provider: local, cpu: 1}]"


def free_of(html, key="py101/base"):
    return card(html, key).select_one(".lab-free").text.strip()


def why(html, key="py101/base"):
    found = card(html, key).select_one(".lab-why")
    return found.text if found else None


def notes(html, key="py101/base"):
    return [note.text for note in card(html, key).select(".lab-note")]


# -- courses --------------------------------------------------------------------------------------------------------


def test_a_student_sees_the_own_courses_in_order_with_title_summary_and_icon(courses):
    catalog = courses(
        a_course(
            a_profile("base", "icon: 🐍", "summary: {en: For lectures., zh-CN: 用于课堂。}"),
            head="title: {en: Python Basics, zh-CN: 程序设计}\nsummary: First steps.\n",
        ),
        a_course(slug="dl101"),
    )

    html = shown(catalog, language="zh-CN")

    assert [legend.text for legend in html.select("legend")] == ["程序设计"]
    assert html.select_one(".lab-course-summary").text == "First steps."
    assert card(html, "py101/base").select_one(".lab-card-summary").text == "用于课堂。"
    assert card(html, "py101/base").select_one(".lab-icon").text == "🐍"


def test_an_administrator_sees_every_course(courses):
    html = shown(courses(a_course(), a_course(slug="dl101")), groups=(), admin=True)

    assert [radio["value"] for radio in html.select("input[type=radio]")] == ["py101/base", "dl101/base"]


def test_who_is_in_no_course_reads_what_to_do(courses):
    html = shown(courses(a_course()), groups=("course-other",), user_name="<b>学生</b>")

    assert "You are in no course yet" in html.text
    assert html.select_one("code").text == "<b>学生</b>"


def test_a_page_is_made_of_one_moment_even_when_the_files_change_meanwhile(courses):
    catalog = courses(a_course())

    class Meddling(Engine):
        async def rooms(self, provider, needs, ends=()):
            courses(c0=a_course(a_profile("other")))
            return await super().rooms(provider, needs, ends)

    assert checked(shown(catalog, Meddling())) == ["py101/base"]
    assert checked(shown(catalog)) == ["py101/other"]


# -- what is free -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (6, "6 free"),
        (1, "1 free"),
        (0, "full: you would be 1st in line"),
        (None, "its machines do not answer"),
        (Room(free=None, total=None), "free"),
    ],
)
def test_a_card_says_how_many_places_are_free(courses, count, words):
    assert free_of(shown(courses(a_course()), Engine({"local": count}))) == words


def test_a_full_profile_can_still_be_chosen_because_one_may_wait_in_line(courses):
    html = shown(courses(a_course()), Engine({"local": 0}))

    assert checked(html) == ["py101/base"]
    assert why(html) is None


def test_a_provider_is_asked_once_for_the_same_resources(courses):
    small, large = (f"variants: [{{provider: local, memory: {size}}}]" for size in ("1GiB", "2GiB"))
    catalog = courses(
        a_course(a_profile("a", small), a_profile("b", small), a_profile("c", large), a_profile("d", provider="sim"))
    )
    engine = Engine()

    shown(catalog, engine)

    assert engine.asked == [
        ("local", Resources(memory_bytes=2**30)),
        ("local", Resources(memory_bytes=2**31)),
        ("sim", Resources()),
    ]


def test_all_providers_are_asked_at_the_same_time(courses):
    catalog = courses(a_course(a_profile("a"), a_profile("b", provider="sim")))

    class Slow(Engine):
        """Answers when everybody was asked."""

        def __init__(self):
            super().__init__()
            self.all_asked = asyncio.Event()

        async def rooms(self, provider, needs, ends=()):
            found = await super().rooms(provider, needs, ends)
            if len(self.asked) == 2:
                self.all_asked.set()
            await asyncio.wait_for(self.all_asked.wait(), timeout=60)
            return found

    html = shown(catalog, Slow())

    assert [free_of(html, key) for key in ("py101/a", "py101/b")] == ["5 free", "5 free"]


def test_a_provider_with_a_defect_costs_only_its_own_number(courses, caplog):
    catalog = courses(a_course(a_profile("a"), a_profile("b", provider="sim")))

    with caplog.at_level(logging.ERROR):
        html = shown(catalog, Engine({"sim": KeyError("secret")}))

    assert [free_of(html, key) for key in ("py101/a", "py101/b")] == ["5 free", "its machines do not answer"]
    assert "cannot tell what is free provider=sim" in caplog.text
    assert "secret" not in html.text


@pytest.mark.parametrize(
    ("sim", "local", "words"),
    [
        (0, 4, "4 free"),
        (3, 1, "3 free"),
        (0, 0, "full: you would be 1st in line"),
        (0, None, "its machines do not answer"),
        (None, 2, "2 free"),
    ],
)
def test_where_the_next_variant_is_taken_by_itself_its_places_count_too(courses, sim, local, words):
    html = shown(courses(a_course(a_profile("base", AUTO, "fallback: auto"))), Engine({"sim": sim, "local": local}))

    assert free_of(html) == words
    assert "2 CPU" in card(html, "py101/base").text


def test_the_facts_on_a_card_are_those_of_the_preset_answers(courses):
    options = {
        "size": {
            "title": "Size",
            "choices": {
                "small": {"title": "Small", "set": {"memory": "1GiB"}},
                "large": {"title": "Large", "set": {"memory": "4GiB"}},
            },
        }
    }
    catalog = courses(a_course(a_profile("base", f"options: {json.dumps(options)}", "limits: {max_age: 4h}")))

    first = card(shown(catalog), "py101/base").text
    again = card(shown(catalog, last={"profile": "py101/base", "options": {"size": "large"}}), "py101/base").text

    assert "1 GiB memory" in first
    assert "at most 4 h" in first
    assert "4 GiB memory" in again


class Scratch:
    """A provider whose servers take their files with them, but for variants that say otherwise."""

    def keeps_files(self, settings):
        return "storage" in settings


def test_a_card_says_whether_files_are_kept_as_the_provider_knows(courses):
    lasting = "variants: [{provider: sim, settings: {storage: {}}}]"
    catalog = courses(a_course(a_profile("scratch", provider="sim"), a_profile("kept", lasting), a_profile("home")))
    engine = Engine()
    engine.providers["sim"] = Scratch()

    html = shown(catalog, engine)

    assert "files end with the server" in card(html, "py101/scratch").text
    assert "keeps files" in card(html, "py101/kept").text
    assert "keeps files" in card(html, "py101/home").text


def test_a_card_says_that_a_server_is_hibernated_where_its_provider_can(courses):
    asleep = "idle: {after: 1h, action: hibernate}"
    catalog = courses(a_course(a_profile("vm", asleep, provider="sim"), a_profile("home", asleep)))
    engine = Engine()
    engine.providers["sim"] = SimpleNamespace(features=frozenset({Feature.HIBERNATE}))

    html = shown(catalog, engine)

    assert "hibernates after 1 h idle" in card(html, "py101/vm").text
    assert "stops after 1 h idle" in card(html, "py101/home").text


# -- another variant, and what the button does ----------------------------------------------------------------------

ASK = "variants: [{provider: sim, memory: 1GiB}, {provider: local, title: {en: the spare one, zh-CN: 备用机}}]"


def test_full_the_card_offers_the_variant_that_has_room_where_the_course_asks(courses):
    catalog = courses(a_course(a_profile("ask", ASK), a_profile("never", ASK, "fallback: never")))
    engine = Engine({"sim": 0, "local": 1})

    html = shown(catalog, engine)

    (offer,) = card(html, "py101/ask").select(".lab-elsewhere button")
    assert (offer["name"], offer["value"], offer.text) == ("variant", "py101/ask:2", "Start on the spare one now")
    assert card(html, "py101/never").select(".lab-elsewhere button") == []
    assert shown(catalog, Engine({"sim": 1, "local": 1})).select(".lab-elsewhere button") == []


@pytest.mark.parametrize(
    ("free", "lines", "go", "label"),
    [(6, (), "start", "Start"), (0, (), "join", "Join the line"), (0, ("queue: fail",), "wait", "Not yet")],
)
def test_what_the_button_does_is_said_by_the_card(courses, free, lines, go, label):
    html = shown(courses(a_course(a_profile("base", *lines))), Engine({"local": free}))

    assert (card(html, "py101/base")["data-go"], card(html, "py101/base")["data-label"]) == (go, label)
    assert card(html, "py101/base").select_one("input").has_attr("disabled") == (go == "wait")


def test_what_no_machine_could_hold_says_so_and_cannot_be_chosen(courses):
    html = shown(courses(a_course(a_profile())), Engine({"local": Room(free=0, total=0, never=True)}))

    assert free_of(html) == "no machine here is large enough"
    assert why(html) == "Pick another profile, and tell your instructor."


def test_whoever_has_as_many_as_they_may_reads_what_to_stop(courses):
    engine = Engine()
    engine.servers = {"py101/base": {"second"}}

    html = shown(courses(a_course(a_profile("base", "limits: {per_user: 1}"))), engine)

    assert free_of(html) == "you already have as many as you may"
    assert why(html) == "Stop one of your servers of this profile first."


def test_staff_read_that_a_course_is_a_draft(courses):
    catalog = courses()
    text = a_course(a_profile(), slug="draft")
    catalog.set_written([WrittenText(slug="draft", text=text, state=CourseState.DRAFT, etag="1")])

    html = shown(catalog, groups=("course-draft-instructors",))

    assert notes(html, "draft/base") == ["A draft: students do not see it."]


# -- links ----------------------------------------------------------------------------------------------------------


def test_a_link_goes_before_the_last_choice_and_sets_its_options(courses):
    catalog = courses(a_course(a_profile("a"), a_profile("b")))
    last = {"profile": "py101/a"}

    assert checked(shown(catalog, last=last, asked={"profile": "py101/b", "options": {}})) == ["py101/b"]
    assert checked(shown(catalog, last=last, asked={"profile": "b", "options": {}})) == ["py101/b"]
    assert checked(shown(catalog, last=last)) == ["py101/a"]


@pytest.mark.parametrize("profile", ["secret/x", "<script>alert(1)</script>", "x" * 9999, "py101/../base", "\u0000"])
def test_a_link_to_what_is_not_ones_own_says_the_same_as_one_to_nothing(courses, profile):
    html = shown(courses(a_course(), a_course(slug="secret")), asked={"profile": profile, "options": {}})

    assert "names a profile that is not in this list" in html.select_one(".lab-notice").text
    assert html.select("script") == []
    assert checked(html) == ["py101/base"]


# -- class hours ----------------------------------------------------------------------------------------------------


def test_a_closed_profile_says_when_it_opens(courses):
    catalog = courses(a_course(a_profile("base", HOURS), head=IN_SHANGHAI))
    engine = Engine()

    html = shown(catalog, engine)

    assert card(html, "py101/base").select_one("input").has_attr("disabled")
    assert free_of(html).removesuffix(" (Asia/Shanghai)") == "closed, opens 2026-11-03 09:00"
    assert why(html) is None
    assert html.select_one(".lab-none") is not None


def test_an_open_profile_says_nothing_about_hours(courses):
    catalog = courses(a_course(a_profile("base", HOURS), head=IN_SHANGHAI))

    html = shown(catalog, now=MONDAY_10 + timedelta(hours=16))  # Tuesday, ten o'clock in Shanghai

    assert (free_of(html), why(html), notes(html)) == ("5 free", None, [])


@pytest.mark.parametrize("who", [{"groups": STAFF}, {"groups": (), "admin": True}])
def test_staff_see_a_closed_profile_open_with_a_word_about_students(courses, who):
    catalog = courses(a_course(a_profile("base", HOURS), head=IN_SHANGHAI))

    html = shown(catalog, **who, language="zh-CN")

    assert checked(html) == ["py101/base"]
    assert free_of(html) == "空闲 5 个"
    assert notes(html) == ["目前不对学生开放；将于 2026-11-03 09:00 (Asia/Shanghai) 开放。"]


# -- providers that the hub has not ---------------------------------------------------------------------------------


def test_a_profile_without_its_provider_is_disabled_and_students_read_whom_to_tell(courses):
    engine = Engine()

    html = shown(courses(a_course(a_profile("gpu", provider="kubernetes"), a_profile())), engine)

    assert card(html, "py101/gpu").select_one("input").has_attr("disabled")
    assert free_of(html, "py101/gpu") == "not set up here"
    assert why(html, "py101/gpu").endswith("Tell your instructor.")
    assert "kubernetes" not in html.text
    assert checked(html) == ["py101/base"]
    assert engine.asked == [("local", Resources())]


def test_staff_read_which_provider_is_missing(courses):
    html = shown(courses(a_course(a_profile("gpu", AUTO, "fallback: auto"))), Engine(providers=()), groups=STAFF)

    assert why(html, "py101/gpu").startswith("The hub has no provider kubernetes, sim, local.")
    assert notes(html, "py101/gpu") == []


def test_a_missing_provider_is_passed_over_where_the_next_is_taken_by_itself(courses):
    catalog = courses(a_course(a_profile("base", AUTO, "fallback: auto")))
    engine = Engine(providers=("local",))

    assert (free_of(shown(catalog, engine)), notes(shown(catalog, engine))) == ("5 free", [])
    assert notes(shown(catalog, engine, groups=STAFF)) == [
        "The hub has no provider kubernetes, sim: that variant is passed over."
    ]


@pytest.mark.parametrize("fallback", ["ask", "never"])
def test_only_the_first_variant_counts_where_the_next_is_not_taken_by_itself(courses, fallback):
    html = shown(courses(a_course(a_profile("base", AUTO, f"fallback: {fallback}"))))

    assert card(html, "py101/base").select_one("input").has_attr("disabled")


def test_what_is_wrong_with_a_course_of_the_console_is_told_to_its_own_staff_alone(courses):
    catalog = courses(a_course())
    catalog.set_written(
        [WrittenText(slug="draft", text="course: draft\nprofiles: [", state=CourseState.DRAFT, etag="1")]
    )

    def told(*groups: str) -> str:
        found = shown(catalog, groups=groups).select_one(".lab-broken")
        return found.text if found else ""

    assert "console/draft:" in told("course-draft-instructors")
    assert told("course-py101-instructors") == told("course-py101") == told() == ""
