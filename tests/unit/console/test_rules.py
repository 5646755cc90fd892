"""Rules of issue 7 that hold for every form and every number, tried on all of them at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from urllib.parse import urlencode

import pytest
from bs4 import BeautifulSoup
from unit.console.lab import Lab, a_lab
from unit.console.pages.browsing import fields_of

from labspawner.availability import desk
from labspawner.lifecycle import looks
from labspawner.lifecycle.holds import HOLD_FOR

PAGES = ("", "courses/new", "courses/dl/", "courses/dl/profiles/", "courses/dl/profiles/gpu/edit", "courses/dl/yaml",
         "courses/dl/roster", "courses/dl/history", "courses/dl/duplicate", "courses/dl/archive", "admin/leases")  # fmt: skip
"""Pages whose forms change something."""
Form = tuple[str, str, dict[str, object]]


@pytest.fixture
async def lab(tmp_path) -> AsyncIterator[Lab]:
    """A console with a course and one student in it."""
    async with a_lab(tmp_path) as running:
        await running.a_course()
        await running.ask("POST", "courses/dl/roster/add", body={"names": ["student1"]})
        yield running


async def forms_of(lab: Lab) -> list[Form]:
    """Who is shown it, where it is sent to, and what with: each posted form once for each of its buttons."""
    found: list[Form] = []
    for path in PAGES:
        who = "boss" if path.startswith("admin") else "teacher"
        page = await lab.fetch("GET", path, headers={"Cookie": lab.cookie_of(who)})
        assert page.code == 200, (path, page.code)
        for form in BeautifulSoup(page.body, "html.parser").select("form[method=post]"):
            target = str(form.get("action") or path).removeprefix(lab.house.prefix)
            fields = {name: value for name, value in fields_of(form).items() if name != "_xsrf"}
            buttons = [{str(one["name"]): one.get("value", "")} for one in form.select("button[name]")]
            found += [(who, target, {**fields, **button}) for button in buttons or [{}]]
    assert len(found) > 15
    return found


async def everything(lab: Lab) -> object:
    """All that one of these forms changes."""
    store = lab.house.store
    groups = {name: frozenset(users) for name, users in lab.hub.groups.items()}
    courses = [await store.coursebook.get(slug) for slug in ("dl", "py101", "dl-copy")]
    return courses, await store.rosters.of("dl"), await store.jobs.of("dl"), groups, list(lab.hub.acts)


async def test_no_form_changes_anything_when_it_comes_as_a_link(lab):
    forms, before = await forms_of(lab), await everything(lab)

    for who, target, fields in forms:
        path = f"{target.partition('?')[0]}?{urlencode(fields, doseq=True)}"
        answer = await lab.fetch("GET", path, headers={"Cookie": lab.cookie_of(who)})
        assert answer.code < 500, path

    assert await everything(lab) == before


@pytest.mark.parametrize(
    "more",
    [{}, {"X-XSRFToken": "guess"}, {"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}],
    ids=["nothing", "a guess", "another origin", "another site"],
)
async def test_no_form_changes_anything_for_a_page_of_somebody_else(lab, more):
    forms, before = await forms_of(lab), await everything(lab)

    for who, target, fields in forms:
        kind = {"Cookie": lab.cookie_of(who), "Content-Type": "application/x-www-form-urlencoded"}
        answer = await lab.fetch("POST", target, urlencode(fields, doseq=True), headers={**kind, **more})
        assert answer.code == 403, (target, answer.code)

    assert await everything(lab) == before


def test_a_click_keeps_a_place_for_sixty_to_ninety_seconds():
    assert timedelta(seconds=60) <= HOLD_FOR <= timedelta(seconds=90)


def test_what_a_page_is_told_is_free_is_five_seconds_old_at_most():
    """Each of these may come on top of the others: what was asked last, the next look, changes of a moment told together,
    and a provider that takes its time."""
    assert looks.FRESH_S + desk.FRESH_S + desk.TICK_S + desk.GAP_S + looks.PATIENCE_S <= 5.0
