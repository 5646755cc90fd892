"""Anything at all, sent to every page that takes a form and to every address of the API: an answer in words, never an error
of ours, and never a change by somebody who may not."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

from bs4 import BeautifulSoup
from unit.console.lab import Lab, a_lab, text_of
from unit.console.pages.browsing import fields_of

from labspawner.service.console.api import ROUTES as API
from labspawner.service.console.pages.admin import ROUTES as ADMIN
from labspawner.service.console.pages.instructor import ROUTES as INSTRUCTOR

NAMES = """
actor against base branch comment course day do done etag if_match lang mode minutes name old new page part path profile q
reason repo revision role roster save side since slug slug2 sort start state students template text timezone to title.en
title_en title_zh until before user users verb weeks who idle.after variants.0.cpu variants.0.gpu.memory variants.0.memory
variants.0.provider limits.per_user hours.0.days hours.0.from
"""
FIELDS = re.findall(r"\S+", NAMES)
SMALL = """
a dl gpu publish draft start stop apply preview remove replace member yaml 0 -1 1 99999999999999999999 1e400 ٣ 6 6GiB NaN
2026-13-45 9999-12-31 0001-01-01 ../../etc/passwd //evil.example/ javascript:alert(1) \\\\evil http://127.0.0.1:1/ %s%n {x}
file:///etc/passwd <script>alert(1)</script> {{7*7}} ${7*7} ';DROP 𝕊 张伟 ? | > % @ ` [*a] student1
"""
WORDS = (
    *re.findall(r"\S+", SMALL),
    *("", " ", "a\x00b", "a\r\nSet-Cookie: x=1", "\ufeff", "\u202egpj.exe", "é" * 300, "a" * 5000, "\n" * 500, "*a" * 50),
    *("&a [*a]", "!!python/object:os.system x", "[" * 2000, "{" * 2000, "- " * 1000, "a: &a {b: *a}", "course: dl"),
    *("profile_list: [{}]", text_of(), text_of("py101"), "student1\nstudent2"),
)  # fmt: skip
HALF = "\ud800"
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 10**40, 1.5, 1e308, "", HALF, f"a{HALF}", [], [[]], [None], {}, {"a": HALF}, {HALF: 1}, *WORDS,
)  # fmt: skip
SLUGS = ("dl", "py101", "no-such", "a" * 40)
PEOPLE = ("teacher", "rival", "helper", "student1", "boss", None)


def chance_of(name: str) -> random.Random:
    """The same anything in every run."""
    return random.Random(name)


def a_form(chance: random.Random) -> str:
    """A form with some fields that pages know, and one that none does."""
    fields = [(chance.choice([*FIELDS, "no-such-field"]), chance.choice(WORDS)) for _ in range(chance.randrange(8))]
    return urlencode(fields)


def a_body(chance: random.Random, depth: int = 3) -> Any:
    """JSON of a few keys that the API knows, and values that it does not."""
    keys = [*FIELDS, "args", "names", "form", "text", "slug", "verb", "users", "students"]
    if depth == 0 or chance.random() < 0.3:
        return chance.choice(VALUES)
    if chance.random() < 0.3:
        return [a_body(chance, depth - 1) for _ in range(chance.randrange(4))]
    return {chance.choice(keys): a_body(chance, depth - 1) for _ in range(chance.randrange(5))}


def addresses(chance: random.Random) -> Iterator[str]:
    """Every page, with something in the places of its address."""
    for pattern, _ in (*INSTRUCTOR, *ADMIN):
        path = re.sub(r"\((?!\?)[^()]*\)", lambda _: chance.choice([*SLUGS, "gpu", "j1", "csv"]), pattern)
        yield path.replace("\\", "").replace("?", "")


async def test_no_form_and_no_query_breaks_a_page(tmp_path):
    chance = chance_of("forms")
    async with a_lab(tmp_path) as lab:
        await lab.a_course()
        for path in addresses(chance):
            who = chance.choice(["teacher", "boss", "helper"])
            asked = f"{path}?{urlencode([(chance.choice(FIELDS), chance.choice(WORDS)) for _ in range(2)])}"
            await _answers(lab, "GET", asked, who)
            kind = chance.choice(
                ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain", ""]
            )
            await _answers(lab, "POST", asked, who, a_form(chance), kind)


FORMS = (
    *("", "courses/new", "courses/dl/", "courses/dl/profiles/", "courses/dl/profiles/gpu/edit", "courses/dl/yaml"),
    *(
        "courses/dl/roster",
        "courses/dl/history?revision=1",
        "courses/dl/links",
        "courses/dl/duplicate",
        "courses/dl/archive",
    ),
    *("courses/py101/", "courses/py101/duplicate", "admin/leases", "admin/decisions", "admin/audit"),
)
"""Pages with forms on them."""


async def test_no_form_that_a_page_has_breaks_anything_when_some_of_it_is_something_else(tmp_path):
    chance, tried = chance_of("mutants"), 0
    async with a_lab(tmp_path) as lab:
        await lab.a_course()
        await lab.ask("POST", "courses/dl/roster/add", body={"names": ["student1", "student2"]})
        for path in FORMS:
            who = "boss" if path.startswith("admin") else "teacher"
            page = await lab.fetch("GET", path, headers={"Authorization": f"token token-of-{who}"})
            for form in BeautifulSoup(page.body, "html.parser").select("form[action]"):
                target = str(form["action"]).removeprefix(lab.house.prefix)
                for _ in range(4):
                    fields = fields_of(form)
                    buttons = [(str(one["name"]), str(one.get("value", ""))) for one in form.select("button[name]")]
                    fields.update([chance.choice(buttons)] if buttons else [])
                    for name in chance.sample(sorted(fields), min(len(fields), chance.randrange(1, 4))):
                        fields[name] = chance.choice(WORDS)
                    sent = urlencode(fields, doseq=True)
                    if form.get("method", "get") == "post":
                        await _answers(lab, "POST", target, who, sent)
                    else:
                        await _answers(lab, "GET", f"{target.partition('#')[0]}?{sent}", who)
                    tried += 1

    assert tried > 50


async def test_no_body_breaks_the_api(tmp_path):
    chance = chance_of("bodies")
    async with a_lab(tmp_path) as lab:
        match = await lab.a_course()
        for route in [route for _ in range(4) for route in API]:
            if route.path.endswith("/events"):
                continue
            filled = {name: chance.choice(["dl", "gpu", "1", "j1"]) for name in route.fields}
            path = f"api/v1/{route.path.format(**{**filled, 'slug': chance.choice(SLUGS[:2])})}"
            for method in route.operations:
                body = None if method == "get" else json.dumps(a_body(chance))
                await _answers(
                    lab, method.upper(), path, chance.choice(["teacher", "boss"]), body, "application/json", match
                )


async def test_whoever_may_not_changes_nothing_whatever_is_sent(tmp_path):
    chance = chance_of("strangers")
    async with a_lab(tmp_path) as lab:
        await lab.a_course()
        before = await _everything(lab)
        for path in [*addresses(chance), *addresses(chance)]:
            if "new" not in path and "import" not in path:  # `rival` may make a course of their own
                await _answers(lab, "POST", path, chance.choice(["rival", "student1", None]), a_form(chance))
        for route in API:
            path = f"api/v1/{route.path.format(slug='dl', profile='gpu', number='1', job='j1')}"
            for method in set(route.operations) - {"get"}:
                if route.path != "courses":
                    await _answers(
                        lab, method.upper(), path, "student1", json.dumps(a_body(chance)), "application/json", "x"
                    )

        assert await _everything(lab) == before
        assert lab.hub.acts == []


async def _answers(
    lab: Lab, method: str, path: str, who: str | None, body: str | None = None, kind: str = "", match: str = ""
) -> None:
    """It does, and not with an error of ours."""
    headers = {"Accept-Language": "en", "Content-Type": kind or "application/x-www-form-urlencoded"}
    if who:
        headers["Authorization"] = f"token token-of-{who}"
    if match:
        headers["If-Match"] = f'"{match}"'
    answer = await lab.fetch(method, quote(path, safe="/?&=%+.~-_"), body, headers=headers)
    assert answer.code < 500, (method, path, who, body, answer.body[:500] if answer.body else "")
    assert "Set-Cookie" not in (answer.headers.get("Location") or "")
    target = answer.headers.get("Location", "/")
    assert target.startswith("/"), (method, path, target)
    assert not target.startswith("//"), (method, path, target)


async def _everything(lab: Lab) -> object:
    """All that a change could have touched."""
    books = [await lab.house.store.coursebook.get(slug) for slug in SLUGS]
    rosters = [await lab.house.store.rosters.of(slug) for slug in SLUGS]
    jobs = [await lab.house.store.jobs.of(slug) for slug in SLUGS]
    groups = {name: frozenset(users) for name, users in lab.hub.groups.items()}
    return books, rosters, jobs, groups, text_of()
