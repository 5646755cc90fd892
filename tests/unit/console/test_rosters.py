"""Who is in a course: what JupyterHub's groups become, and what nobody may do to them."""

from __future__ import annotations

import asyncio

import pytest
from unit.console.lab import a_lab, said

from labspawner.service.console.doing.rosters import keep_in_step
from labspawner.testing.waiting import eventually


@pytest.fixture
async def lab(tmp_path):
    async with a_lab(tmp_path) as running:
        await running.a_course()
        yield running


def people(answer) -> dict[str, str]:
    """Name -> role."""
    return {person["name"]: person["role"] for person in said(answer)["people"]}


async def test_people_are_added_with_roles_and_groups_are_kept_in_step(lab):
    await lab.ask("POST", "courses/dl/roster/add", body={"names": ["student1", "student2"]})
    added = await lab.ask("POST", "courses/dl/roster/add", body={"names": ["helper"], "role": "assistant"})

    assert people(added) == {"teacher": "instructor", "helper": "assistant", "student1": "member", "student2": "member"}
    assert lab.hub.groups["course-dl"] == {"student1", "student2"}
    assert lab.hub.groups["course-dl-assistants"] == {"helper"}


async def test_a_new_role_leaves_the_group_of_the_old_one(lab):
    await lab.ask("POST", "courses/dl/roster/add", body={"names": ["helper"], "role": "instructor"})

    changed = await lab.ask("POST", "courses/dl/roster/add", body={"names": ["helper"], "role": "assistant"})

    assert people(changed)["helper"] == "assistant"
    assert lab.hub.groups["course-dl-instructors"] == {"teacher"}


async def test_a_preview_says_what_would_change_and_changes_nothing(lab):
    await lab.ask("POST", "courses/dl/roster/add", body={"names": ["student1", "student2"]})

    told = said(await lab.ask("POST", "courses/dl/roster/preview", body={"text": "student2\nstudent3\nno/body\n"}))

    assert (told["added"], told["kept"], told["removed"]) == (["student3"], ["student2"], ["student1"])
    assert [(line["number"], line["text"]) for line in told["refused"]] == [(3, "no/body")]
    assert lab.hub.groups["course-dl"] == {"student1", "student2"}


async def test_a_roster_is_replaced_as_previewed(lab):
    await lab.ask("POST", "courses/dl/roster/add", body={"names": ["student1", "student2"]})
    etag = said(await lab.ask("POST", "courses/dl/roster/preview", body={"text": "student2\nstudent3\n"}))["etag"]

    replaced = await lab.ask("PUT", "courses/dl/roster", body={"text": "student2\nstudent3\n"}, match=etag)

    assert replaced.code == 200, replaced.body
    assert lab.hub.groups["course-dl"] == {"student2", "student3"}
    assert people(replaced) == {"teacher": "instructor", "student2": "member", "student3": "member"}


async def test_a_roster_that_changed_since_the_preview_is_not_replaced(lab):
    etag = said(await lab.ask("POST", "courses/dl/roster/preview", body={"text": "student1\n"}))["etag"]
    await lab.ask("POST", "courses/dl/roster/add", body={"names": ["student3"]})

    late = await lab.ask("PUT", "courses/dl/roster", body={"text": "student1\n"}, match=etag)

    assert late.code == 412
    assert lab.hub.groups["course-dl"] == {"student3"}
    assert (await lab.ask("PUT", "courses/dl/roster", body={"text": "student1\n"})).code == 428


async def test_the_last_instructor_stays(lab):
    remove = await lab.ask("POST", "courses/dl/roster/remove", body={"names": ["teacher"], "role": "instructor"})
    lower = await lab.ask("POST", "courses/dl/roster/add", body={"names": ["teacher"], "role": "member"})
    etag = said(await lab.ask("GET", "courses/dl/roster"))["etag"]
    replace = await lab.ask("PUT", "courses/dl/roster", body={"text": "newbie\n", "role": "instructor"}, match=etag)
    nobody = await lab.ask("PUT", "courses/dl/roster", body={"text": "", "role": "instructor"}, match=etag)

    assert [answer.code for answer in (remove, lower, replace, nobody)] == [409] * 4
    assert said(remove)["type"].endswith("/last-instructor")
    assert lab.hub.groups["course-dl-instructors"] == {"teacher"}


async def test_an_instructor_goes_when_another_stays(lab):
    await lab.ask("POST", "courses/dl/roster/add", body={"names": ["rival"], "role": "instructor"})

    gone = await lab.ask("POST", "courses/dl/roster/remove", body={"names": ["teacher"], "role": "instructor"})

    assert gone.code == 200
    assert lab.hub.groups["course-dl-instructors"] == {"rival"}
    assert (await lab.ask("GET", "courses/dl")).code == 404


async def test_who_has_not_logged_in_yet_is_remembered_and_put_in_after_their_first_log_in(tmp_path):
    async with a_lab(tmp_path, working=True) as lab:
        await lab.a_course()
        added = await lab.ask("POST", "courses/dl/roster/add", body={"names": ["Newbie", "student1"]})
        assert {person["name"]: person["known"] for person in said(added)["people"]} == {
            "teacher": True,
            "student1": True,
            "Newbie": False,
        }
        assert lab.hub.groups["course-dl"] == {"student1"}

        lab.hub.person("newbie")

        await eventually(lambda: lab.hub.groups["course-dl"] == {"student1", "newbie"}, 20)
        assert all(person["known"] for person in said(await lab.ask("GET", "courses/dl/roster"))["people"])


async def test_where_it_is_so_configured_they_are_made_at_once(tmp_path):
    async with a_lab(tmp_path, creates_users=True) as lab:
        await lab.a_course()

        await lab.ask("POST", "courses/dl/roster/add", body={"names": ["newbie", "student1"]})

        assert "newbie" in lab.hub.users
        assert lab.hub.groups["course-dl"] == {"student1", "newbie"}


async def test_whoever_is_in_the_group_by_another_way_is_shown_and_stays(lab):
    lab.hub.groups["course-dl"].add("student3")

    added = await lab.ask("POST", "courses/dl/roster/add", body={"names": ["student1"]})

    sources = {person["name"]: person["source"] for person in said(added)["people"]}
    assert sources == {"teacher": "hand", "student1": "hand", "student3": "group"}
    assert lab.hub.groups["course-dl"] == {"student1", "student3"}


async def test_where_the_log_in_makes_the_groups_the_roster_says_so_and_does_not_fight_it(lab):
    lab.hub.manages_groups = True
    lab.house.forget_about()

    roster = said(await lab.ask("GET", "courses/dl/roster"))
    refused = await lab.ask("POST", "courses/dl/roster/add", body={"names": ["student1"]})
    new = await lab.ask("POST", "courses", "rival", {"slug": "new", "text": "x"})

    assert roster["managed"]
    assert refused.code == 409
    assert said(refused)["type"].endswith("/managed-groups")
    assert "course-dl" in said(refused)["detail"]
    assert new.code == 409
    assert lab.hub.groups["course-dl"] == set()


async def test_a_group_that_is_not_the_courses_own_is_never_changed(tmp_path):
    async with a_lab(tmp_path) as lab:
        text = """
course: shared
title: Shared
access: {groups: [everybody], staff: [deans]}
profiles: [{slug: a, title: A, variants: [{provider: sim}]}]
"""
        (tmp_path / "courses" / "shared.yaml").write_text(text)
        lab.hub.person("dean", "deans")
        lab.hub.groups["everybody"] = {"student1"}
        await lab.house.read_files()

        async def seen() -> bool:
            return (await lab.ask("GET", "courses/shared", "dean")).code == 200

        await eventually(seen, 20)

        for role in ("member", "instructor"):
            answer = await lab.ask("POST", "courses/shared/roster/add", "dean", {"names": ["student2"], "role": role})
            assert answer.code == 409
            assert said(answer)["type"].endswith("/shared-group")
        assert lab.hub.groups["everybody"] == {"student1"}
        assert lab.hub.groups["deans"] == {"dean"}


async def test_a_file_that_takes_a_courses_name_takes_nobody_of_its_roster_into_other_groups(tmp_path):
    async with a_lab(tmp_path) as lab:
        await lab.a_course()
        await lab.ask("POST", "courses/dl/roster/add", body={"names": ["newbie"], "role": "instructor"})
        lab.hub.groups["lab-staff"] = {"boss"}
        profile = "{slug: a, title: A, variants: [{provider: sim}]}"
        text = f"course: dl\ntitle: D\naccess: {{staff: [lab-staff]}}\nprofiles: [{profile}]"
        (tmp_path / "courses" / "dl.yaml").write_text(text)
        await asyncio.to_thread(lab.house.catalog.refresh)
        lab.hub.person("newbie")

        await keep_in_step(lab.house, "dl")

        assert lab.hub.groups["lab-staff"] == {"boss"}


async def test_nobody_makes_a_course_of_groups_that_mean_something_already(lab):
    lab.hub.groups["course-secret"] = {"student3"}

    answer = await lab.ask(
        "POST", "courses", body={"slug": "secret", "text": "course: secret\ntitle: x\nprofiles: []\n"}
    )
    staff = await lab.ask("POST", "courses", body={"slug": "py101-instructors", "text": "x"})

    assert (answer.code, staff.code) == (422, 422)
    assert lab.hub.groups["course-secret"] == {"student3"}
    assert lab.hub.groups["course-py101-instructors"] == {"teacher"}


async def test_names_that_no_hub_takes_are_refused_and_those_that_it_takes_are_taken(lab):
    for name in ("a/b", "a\nb", "..", "x\u2028y"):
        assert (await lab.ask("POST", "courses/dl/roster/add", body={"names": [name]})).code == 422
    odd = [
        "o'brien",
        "anna.müller@x.example",
        "张三",
        "a b",
        "a%2Fb",
        "=1+1",
        "<script>alert(1)</script>"[:20].replace("/", ""),
    ]
    for name in odd:
        lab.hub.person(name)

    added = await lab.ask("POST", "courses/dl/roster/add", body={"names": odd})

    assert added.code == 200
    assert lab.hub.groups["course-dl"] == set(odd)
    removed = await lab.ask("POST", "courses/dl/roster/remove", body={"names": odd})
    assert removed.code == 200
    assert lab.hub.groups["course-dl"] == set()


async def test_a_hub_that_goes_away_in_the_middle_leaves_nothing_half_done_that_the_next_try_does_not_mend(lab):
    await lab.ask("POST", "courses/dl/roster/add", body={"names": ["student1"]})
    lab.hub.away = True
    assert (await lab.ask("POST", "courses/dl/roster/remove", body={"names": ["student1"]})).code == 503
    lab.hub.away = False

    again = await lab.ask("POST", "courses/dl/roster/remove", body={"names": ["student1"]})

    assert people(again) == {"teacher": "instructor"}
    assert lab.hub.groups["course-dl"] == set()


async def test_a_large_course_is_put_into_its_group_in_batches(lab):
    names = [f"s{number:04}" for number in range(450)]
    lab.hub.users.update(names)
    asked = len(lab.hub.asked)

    added = await lab.ask("POST", "courses/dl/roster/add", body={"names": names})

    assert added.code == 200
    assert lab.hub.groups["course-dl"] == set(names)
    assert sum(line == "POST /hub/api/groups/course-dl/users" for line in lab.hub.asked[asked:]) == 3


async def test_two_who_change_a_roster_at_once_lose_nobody(lab):
    answers = await asyncio.gather(
        *(
            lab.ask("POST", "courses/dl/roster/add", body={"names": [name]})
            for name in ("student1", "student2", "student3", "helper")
        )
    )

    assert {answer.code for answer in answers} == {200}
    assert lab.hub.groups["course-dl"] == {"student1", "student2", "student3", "helper"}
