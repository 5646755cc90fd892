"""The console where most hubs have it: below a base URL, with the records in PostgreSQL. Everything here is asked through the
routes that the hub has its proxy follow, as browsers and programs have it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urldefrag, urljoin, urlsplit

import pgserver
import pytest
from bs4 import BeautifulSoup

from labspawner.testing.hub import RealHub
from labspawner.testing.waiting import eventually_sync
from labspawner.testing.web import Answer, Client

pytestmark = [pytest.mark.hub, pytest.mark.postgresql, pytest.mark.timeout(900)]

BASE = "/lab/"
CONSOLE = f"{BASE}services/labspawner/"
API = f"{CONSOLE}api/v1/"
TEXT = """\
course: dl101
title: {en: Deep Learning, zh-CN: 深度学习}
profiles:
  - slug: base
    title: {en: Notebook, zh-CN: 笔记本}
    variants: [{provider: sim, memory: 1GiB}]
"""
CONFIG = """
from labspawner import wiring
wiring.run_console(c)
c.JupyterHub.load_roles += [{"name": "routes", "services": ["tester"], "scopes": ["proxy"]}]
"""
STUDENTS = ["ann", "bob", "cho"]


class Through(Client):
    """Asks whom the hub's routes name for a path, as its proxy does. headers: sent with every request."""

    def __init__(self, hub: RealHub, headers: dict[str, str] | None = None) -> None:
        super().__init__("", headers)
        self._hub = hub
        self._root = hub.base.removesuffix(BASE.rstrip("/"))

    def _open(self, method: str, path: str, body: object, headers: Any, timeout_s: float) -> HTTPResponse:
        self.base = self._root if path.startswith(f"{BASE}hub/") else self._target(path)
        return super()._open(method, path, body, headers, timeout_s)

    def _target(self, path: str) -> str:
        routes = self._hub.api.call("GET", "/hub/api/proxy").json()
        fitting = [route for route in routes if urlsplit(path).path.startswith(route)]
        assert fitting, f"{path} is nobody's: {routes}"
        target: str = routes[max(fitting, key=len)]["target"]
        return target.rstrip("/")


def logged_in(hub: RealHub, user: str) -> Through:
    """A browser in which `user` has logged in to the hub."""
    browser = Through(hub)
    browser.get(f"{BASE}hub/login", within=BASE)
    answer = browser.post_form(f"{BASE}hub/login", {"username": user, "password": hub.password})
    assert answer.status == 302, answer.text[:2000]
    return browser


class Campus:
    """A hub with one course, which its teacher wrote through the API, and everybody's token."""

    def __init__(self, hub: RealHub) -> None:
        self.hub = hub
        self._tokens: dict[str, Through] = {}

    def of(self, user: str) -> Through:
        """Asks by a token of this user."""
        if user not in self._tokens:
            made = self.hub.api.call("POST", f"/hub/api/users/{user}/tokens", {})
            assert made.status == 201, made.text
            headers = {"Authorization": f"token {made.json()['token']}", "Content-Type": "application/json"}
            self._tokens[user] = Through(self.hub, headers)
        return self._tokens[user]

    def ask(self, user: str, method: str, path: str, body: object = None, status: int = 200) -> Answer:
        answer = self.of(user).call(method, API + path, body)
        assert answer.status == status, (method, path, answer.text[:2000])
        return answer

    def over(self, begun: Answer) -> dict[str, Any]:
        """The class action, when it is over."""
        path = begun.headers["Location"].removeprefix(API)

        def done() -> dict[str, Any] | None:
            found: dict[str, Any] = self.ask("teacher", "GET", path).json()
            return found if found["state"] != "running" else None

        job = eventually_sync(done, 60.0, "the class action is over")
        assert job is not None
        return job


def answers(campus: Campus) -> bool:
    try:
        return campus.of("teacher").call("GET", f"{API}me").status == 200
    except (OSError, AssertionError):  # no route yet, or nobody behind it
        return False


@pytest.fixture(scope="module")
def campus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campus]:
    """One for all tests of this file; the records are in PostgreSQL. Each student is one test's own."""
    with pgserver.serving() as server, pgserver.schema_of_its_own(server) as url:
        hub = RealHub(
            tmp_path_factory.mktemp("elsewhere"),
            courses={},
            groups={"instructors": ["teacher"]},
            providers={"sim": {}},
            settings={"database_url": url},
            config=CONFIG,
            base_url=BASE,
        )
        try:
            hub.start()
            for user in (*STUDENTS, "admin"):
                hub.add_user(user)
            campus = Campus(hub)
            eventually_sync(lambda: answers(campus), 60.0, "the console answers through the hub's route")
            make_a_course(campus)
            yield campus
        finally:
            hub.close()


def make_a_course(campus: Campus) -> None:
    """By the API alone: a text, a roster, and out of the drawer."""
    made = campus.ask("teacher", "POST", "courses", {"slug": "dl101", "text": TEXT}, status=201)
    campus.ask("teacher", "POST", "courses/dl101/roster/add", {"names": STUDENTS})
    guarded = Through(campus.hub, {**campus.of("teacher")._headers, "If-Match": made.headers["Etag"]})
    published = guarded.call("PATCH", f"{API}courses/dl101", {"state": "published"})
    assert published.status == 200, published.text

    def all_may_start() -> bool:
        cards = [logged_in(campus.hub, user).get(f"{BASE}hub/spawn", within=BASE).text for user in STUDENTS]
        return all("dl101/base" in card for card in cards)

    eventually_sync(all_may_start, 60.0, "every student is offered the course")


def test_a_class_is_started_seen_on_the_wall_and_stopped(campus):
    everyone = {"users": ["ann"]}
    started = campus.over(
        campus.ask(
            "teacher", "POST", "courses/dl101/jobs", {**everyone, "verb": "start", "args": {"profile": "base"}}, 202
        )
    )
    assert [step["state"] for step in started["steps"]] == ["ok"]
    server = campus.hub.wait_ready("ann")

    wall = campus.ask("teacher", "GET", "courses/dl101/wall").json()
    stopped = campus.over(
        campus.ask("teacher", "POST", "courses/dl101/jobs", {**everyone, "verb": "stop", "args": {}}, 202)
    )

    assert server["url"] == f"{BASE}user/ann/"
    assert {place["user"] for place in wall["places"]} >= set(STUDENTS)
    (row,) = [place["server"] for place in wall["places"] if place["user"] == "ann"]
    assert (row["phase"], row["profile"]) == ("ready", "dl101/base")
    assert [step["state"] for step in stopped["steps"]] == ["ok"]
    campus.hub.wait_gone("ann")
    assert campus.hub.store_url.startswith("postgresql")


def test_a_place_is_held_for_who_clicked_and_a_start_spends_it(campus):
    browser = logged_in(campus.hub, "bob")
    browser.get(f"{BASE}hub/spawn", within=BASE)

    held = browser.post_form(f"{BASE}hub/labspawner/place", {"profile": "dl101/base"})
    begun = browser.post_form(f"{BASE}hub/spawn", {"profile": "dl101/base"})

    assert held.status == 200, held.text
    assert held.json()["hold"]["profile"] == "dl101/base"
    assert begun.status == 302
    assert begun.headers["Location"].startswith(f"{BASE}hub/spawn-pending/bob")
    campus.hub.wait_ready("bob")
    assert browser.post_form(f"{BASE}hub/labspawner/place/release", {}).json()["released"] is False
    campus.hub.stop_server("bob")


def test_pages_of_the_hub_and_of_the_console_hear_of_changes(campus):
    browser = logged_in(campus.hub, "cho")
    with closing(browser.events(f"{BASE}hub/labspawner/events")) as events:
        first = next(event for event in events if "profiles" in event)

    with closing(campus.of("teacher").events(f"{API}courses/dl101/events")) as events:
        versions = next(events)

    assert "dl101/base" in first["profiles"]
    assert {"state", "courses", "jobs"} <= set(versions)


def test_what_was_done_is_taken_away_as_a_table_and_as_json(campus):
    table = campus.of("admin").call("GET", f"{CONSOLE}admin/audit.csv?course=dl101")
    text = campus.of("admin").call("GET", f"{CONSOLE}admin/audit.json?course=dl101")

    rows = list(csv.DictReader(io.StringIO(table.body.decode("utf-8-sig"))))
    entries = json.loads(text.text)
    assert {"course.create", "roster.add"} <= {entry["verb"] for entry in entries}
    assert [row["verb"] for row in rows] == [entry["verb"] for entry in entries]
    assert {entry["actor"] for entry in entries} >= {"teacher"}


LOGS_OUT = f"{BASE}hub/logout"
OPENED = frozenset({"href", "src", "data-live", "data-fresh"})
"""Attributes whose addresses a browser asks for by GET; streams and what is posted are other ones."""


def links_of(page: Answer, at: str) -> Iterator[tuple[str, bool]]:
    """Every address that a page names, and whether a browser asks for it by GET; what leads to another host as a whole."""
    for tag in BeautifulSoup(page.text, "html.parser").find_all(True):
        for name, value in tag.attrs.items():
            given = value if isinstance(value, str) else ""
            asked = name in OPENED or (name == "action" and tag.get("method", "get") == "get")
            named = asked or name == "action" or (name.startswith("data-") and given.startswith("/"))
            if named and not given.startswith(("#", "data:", "mailto:")):
                yield urldefrag(urljoin(at, given)).url, asked


def landing(browser: Through, path: str) -> Answer:
    return browser.get(path, within=BASE)


@pytest.mark.parametrize(("user", "least"), [("teacher", 12), ("admin", 18)])
def test_every_link_of_every_page_stays_below_the_base_url_and_answers(campus, user, least):
    browser = logged_in(campus.hub, user)
    waiting, seen, pages = [CONSOLE], {CONSOLE, LOGS_OUT}, 0

    while waiting:
        at = waiting.pop()
        answer = landing(browser, at)
        assert answer.status == 200, (at, answer.status, answer.text[:1000])
        if not at.startswith(CONSOLE) or "text/html" not in answer.headers.get("Content-Type", ""):
            continue
        pages += 1
        for link, asked in links_of(answer, at):
            assert link.startswith(BASE), f"{at} leads to {link}"
            if asked and link not in seen:
                seen.add(link)
                waiting.append(link)

    assert pages >= least, sorted(seen)


def test_every_cookie_is_for_this_hub_alone(campus):
    browser = logged_in(campus.hub, "teacher")
    landing(browser, CONSOLE)
    landing(browser, f"{CONSOLE}courses/dl101/?lang=zh-CN")

    paths = {cookie.name: cookie.path for cookie in browser.cookies}

    assert "service-labspawner" in paths, paths
    assert {path for path in paths.values() if not path.startswith(BASE)} == set(), paths


def test_who_is_not_logged_in_is_sent_to_this_hubs_log_in_and_back(campus):
    stranger = Through(campus.hub)

    sent = stranger.call("GET", f"{CONSOLE}courses/dl101/")

    assert sent.status == 302
    assert sent.headers["Location"].startswith(f"{BASE}hub/api/oauth2/authorize")
    browser = logged_in(campus.hub, "teacher")
    assert "Deep Learning" in landing(browser, f"{CONSOLE}courses/dl101/").text
