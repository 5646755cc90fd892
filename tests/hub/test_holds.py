"""Thirty students and six places: who clicked first starts, the rest read the truth; and a hold is nobody else's."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any

import pytest
from bs4 import BeautifulSoup

from labspawner.testing.days import a_far_day
from labspawner.testing.hub import RealHub
from labspawner.testing.waiting import eventually_sync
from labspawner.testing.web import Answer, Client

PLACES = 6
CLASS = 30
COURSE = """
course: dl101
title: Deep Learning
profiles:
  - slug: gpu
    title: A slice
    variants: [{provider: lab, settings: {start_s: 0.05}}]
    queue_for: 1h
  - slug: choosy
    title: One way or another
    fallback: ask
    queue_for: 1h
    variants:
      - {provider: lab, settings: {start_s: 0.05}}
      - {provider: spare, title: {en: the spare machine, zh-CN: 备用机}, settings: {start_s: 0.05}}
  - slug: huge
    title: Too large
    variants:
      - {provider: lab, memory: 9TiB}
      - {provider: spare, settings: {start_s: 0.05}}
  - slug: closed
    title: Never on such a day
    hours: [{days: [far], from: "00:00", to: "00:01", timezone: UTC}]
    variants: [{provider: lab}]
timezone: UTC
""".replace("[far]", f"[{a_far_day()}]")
OTHER = """
course: secret
title: Somebody else's
profiles:
  - {slug: only, title: Not yours, variants: [{provider: lab}]}
"""
# No test here waits until a place is given back by itself, and a busy machine may need minutes for one.
HOLD_LONG = """
from datetime import timedelta
from labspawner.lifecycle.holds import Holds
Holds.__init__.__kwdefaults__["hold_for"] = timedelta(hours=1)
"""


@pytest.fixture(scope="module")
def lab(_hubs: Callable[..., RealHub]) -> RealHub:
    """A hub with six places, and a spare machine with one."""
    hub = _hubs(
        courses={"dl101.yaml": COURSE, "secret.yaml": OTHER},
        groups={"course-dl101": [f"s{number}" for number in range(CLASS)], "course-secret": ["stranger"]},
        providers={
            "lab": {
                "kind": "sim",
                "hosts": [{"name": "a", "servers": 4, "memory": "1TiB"}, {"name": "b", "servers": 2, "memory": "1TiB"}],
            },
            "spare": {"kind": "sim", "hosts": [{"name": "c", "servers": 1}]},
        },
        config=HOLD_LONG
        + "c.JupyterHub.custom_scopes = {'custom:labspawner:console': {'description': 'the console'}}\n"
        "c.JupyterHub.load_roles[0]['scopes'].append('custom:labspawner:console')\n",
    )
    hub.start()
    return hub


@pytest.fixture(scope="module")
def browsers(lab: RealHub) -> list[Client]:
    """A class that has logged in and looks at the spawn page."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda number: lab.login(f"s{number}"), range(CLASS)))


@pytest.fixture
def clean(lab: RealHub, browsers: list[Client]) -> Iterator[None]:
    """Whatever runs or is held afterwards is ended."""
    yield

    def end(number: int) -> None:
        browsers[number].post_form("/hub/labspawner/place/release", {})
        if lab.leases(f"s{number}"):
            lab.stop_server(f"s{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(end, range(CLASS)))


def place(browser: Client, profile: str = "dl101/gpu", **more: str) -> Answer:
    """What the script of the spawn page asks when Start is clicked."""
    return browser.post_form("/hub/labspawner/place", {"profile": profile, **more})


def start(browser: Client, profile: str = "dl101/gpu", **more: str) -> Answer:
    """The form itself."""
    return browser.post_form("/hub/spawn", {"profile": profile, **more})


def card(browser: Client, profile: str = "dl101/gpu") -> dict[str, Any]:
    """What the card of a profile says now."""
    found: dict[str, Any] = browser.call("GET", "/hub/labspawner/availability").json()["profiles"][profile]
    return found


@pytest.mark.usefixtures("clean")
def test_of_thirty_who_click_the_last_six_places_exactly_six_start_and_the_others_read_their_place(lab, browsers):
    for browser in browsers:
        assert "6 free" in browser.get("/hub/spawn").text
    together = threading.Barrier(CLASS)

    def click(browser: Client) -> tuple[Answer, Answer]:
        together.wait(timeout=240)
        held = place(browser)
        return held, start(browser)  # full: the button says "Join the line", and is clicked

    with ThreadPoolExecutor(CLASS) as pool:
        clicks = list(pool.map(click, browsers))

    granted = [held for held, _ in clicks if held.status == 200]
    refused = [held for held, _ in clicks if held.status == 409]
    assert (len(granted), len(refused)) == (PLACES, CLASS - PLACES)
    for held in refused:
        said = held.json()["profiles"]["dl101/gpu"]
        assert said["go"] == "join"
        assert "in line" in said["text"]
    assert {begun.status for _, begun in clicks} == {302}
    eventually_sync(lambda: len(lab.ready_leases()) == PLACES, 120, "six run")
    holders = {number for number, (held, _) in enumerate(clicks) if held.status == 200}
    assert {lease.user for lease in lab.ready_leases()} == {f"s{number}" for number in holders}
    waiting = sorted(set(range(CLASS)) - holders)
    places = eventually_sync(lambda: _places(lab, browsers, waiting), 120, "everybody else reads a place in line")
    assert sorted(places) == list(range(1, CLASS - PLACES + 1))
    for browser in browsers:
        assert card(browser)["kind"] == "full"
    assert len(lab.ready_leases()) == PLACES


def _places(lab: RealHub, browsers: list[Client], waiting: list[int]) -> list[int]:
    found = []
    for number in waiting:
        events = browsers[number].call("GET", f"/hub/labspawner/progress/s{number}").json()["events"]
        assert events
        assert "You are number " in events[-1]["message"], events
        found.append(int(events[-1]["message"].split("number ")[1].split(" ")[0].rstrip(".")))
    assert len(set(found)) == len(found)
    return found


# -- a hold is its user's, once, for one profile ------------------------------------------------------------------------


def shown(page: Answer) -> BeautifulSoup:
    return BeautifulSoup(page.text, "html.parser")


@pytest.mark.usefixtures("clean")
def test_a_place_is_kept_for_who_clicked_and_seen_by_all(lab, browsers):
    mine, other = browsers[0], browsers[1]

    held = place(mine).json()["hold"]
    assert held["profile"] == "dl101/gpu"
    assert card(mine)["text"].startswith("a place is held for you until ")
    assert card(other)["text"] == "5 free"
    assert start(mine).status == 302
    lab.wait_ready("s0")

    assert card(other)["text"] == "5 free"
    again = mine.post_form("/hub/labspawner/place/release", {"id": held["id"]})
    assert again.json() == {"v": 1, "released": False}


@pytest.mark.usefixtures("clean")
def test_nobody_releases_or_replays_what_is_held_for_somebody_else(lab, browsers):
    held = place(browsers[0]).json()["hold"]

    stolen = browsers[1].post_form("/hub/labspawner/place/release", {"id": held["id"]})
    replayed = place(browsers[1], id=held["id"], hold=held["id"], user="s0")

    assert stolen.json()["released"] is False
    assert replayed.json()["hold"]["id"] != held["id"]
    assert card(browsers[2])["text"] == "4 free"
    assert browsers[0].post_form("/hub/labspawner/place/release", {"id": held["id"]}).json()["released"] is True
    assert card(browsers[2])["text"] == "5 free"


@pytest.mark.usefixtures("clean")
def test_a_hold_for_what_is_not_ones_own_or_not_open_is_refused_in_words(lab, browsers):
    browser = browsers[3]

    answers = {name: place(browser, name) for name in ("secret/only", "dl101/closed", "dl101/none", "", "x" * 5000)}
    with_json = browser_json(browser, '{"profile": "secret/only"}')
    rubbish = [browser_json(browser, body) for body in ("[]", "null", "{", '{"profile": {"a": 1}}', "[" * 10_000)]

    assert {answers[name].status for name in ("secret/only", "dl101/closed", "dl101/none")} == {403}
    assert {answers[name].status for name in ("", "x" * 5000)} == {400}
    assert "secret" not in answers["dl101/none"].text
    assert with_json.status == 403
    assert {answer.status for answer in rubbish} == {400}
    assert card(browser)["text"] == "6 free"


def browser_json(browser: Client, body: str) -> Answer:
    """Post JSON to the address of the form, with the token of the page."""
    token = browser.cookie("_xsrf")
    request = Client(browser.base, {"Content-Type": "application/json", "X-XSRFToken": token})
    request.cookies = browser.cookies
    request._opener.add_handler(urllib.request.HTTPCookieProcessor(browser.cookies))
    return request.call("POST", "/hub/labspawner/place", body.encode())


def test_without_a_log_in_or_without_the_pages_token_nothing_is_held(lab, browsers):
    stranger = Client(lab.base)
    stranger.call("GET", "/hub/login")
    forged = Client(lab.base)
    forged.cookies = browsers[4].cookies
    forged._opener.add_handler(urllib.request.HTTPCookieProcessor(browsers[4].cookies))

    assert place(stranger).status == 403
    assert forged.call("POST", "/hub/labspawner/place", b"profile=dl101/gpu").status == 403
    assert lab.api.call("POST", "/hub/labspawner/place", b"profile=dl101/gpu").status == 403
    for path in ("events", "availability"):
        assert stranger.call("GET", f"/hub/labspawner/{path}").status == 403
        assert lab.api.call("GET", f"/hub/labspawner/{path}").status == 403  # no token opens what a log-in opens
    assert card(browsers[5])["text"] == "6 free"


@pytest.mark.usefixtures("clean")
def test_who_only_clicks_is_told_to_start_and_keeps_at_most_one_place(lab, browsers):
    answers = [place(browsers[6]) for _ in range(8)]

    assert [answer.status for answer in answers] == [200] * 5 + [429] * 3
    assert int(answers[-1].headers["Retry-After"]) >= 1
    assert card(browsers[7])["text"] == "5 free"
    assert start(browsers[6]).status == 302  # the last place is theirs still
    lab.wait_ready("s6")
    assert card(browsers[7])["text"] == "5 free"


@pytest.mark.usefixtures("clean")
def test_a_hold_outlives_a_log_out_for_its_user_alone(lab, browsers):
    gone = lab.login("s8")
    gone.get("/hub/spawn")
    assert place(gone).status == 200
    gone.call("GET", "/hub/logout")

    assert place(gone).status == 403
    assert card(browsers[9])["text"] == "5 free"
    assert start(browsers[8]).status == 302
    lab.wait_ready("s8")
    assert card(browsers[9])["text"] == "5 free"


# -- another way to start -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("clean")
def test_full_the_card_and_the_waiting_page_offer_the_variant_that_has_room(lab, browsers):
    for number in range(PLACES):
        lab.start_server(f"s{number}", "dl101/gpu")
    waits, other = browsers[10], browsers[11]
    (offer,) = card(waits, "dl101/choosy")["elsewhere"]
    assert offer == {"variant": 2, "text": "Start on the spare machine now"}
    assert "dl101/choosy:2" in waits.get("/hub/spawn").text

    start(waits, "dl101/choosy")
    page = eventually_sync(lambda: _offer_of(waits, "s10"), 60, "the page that waits offers the spare machine")
    foreign = other.post_form("/hub/labspawner/variant/s10", {"variant": "2"})
    wrong = [waits.post_form("/hub/labspawner/variant/s10", {"variant": one}) for one in ("1", "3", "x", "")]
    taken = waits.post_form("/hub/labspawner/variant/s10", {"variant": "2"})

    assert page == "Start on the spare machine now"
    assert foreign.status in {403, 404}
    assert {answer.status for answer in wrong} == {400}
    assert taken.status == 302
    lab.wait_ready("s10")
    assert lab.lease("s10").provider == "spare"
    assert card(other, "dl101/choosy")["elsewhere"] == []
    assert waits.post_form("/hub/labspawner/variant/s10", {"variant": "2"}).status == 409


def _offer_of(browser: Client, user: str) -> str:
    button = shown(browser.get(f"/hub/spawn-pending/{user}")).select_one("#lab-instead-offers button")
    return button.text if button else ""


@pytest.mark.usefixtures("clean")
def test_a_variant_is_started_by_the_button_of_its_card_and_by_rest(lab, browsers):
    answer = start(browsers[12], "dl101/gpu", variant="dl101/choosy:2")
    assert answer.status == 302
    lab.wait_ready("s12")
    assert (lab.lease("s12").provider, lab.lease("s12").profile) == ("spare", "dl101/choosy")
    lab.stop_server("s12")

    assert lab.ask("s13", {"profile": "dl101/choosy", "options": {}, "variant": 2}).status in {201, 202}
    lab.wait_ready("s13")
    assert lab.lease("s13").provider == "spare"
    refused = [lab.ask("s14", {"profile": "dl101/choosy", "options": {}, "variant": one}) for one in (3, 0, "x", [2])]
    assert {one.status for one in refused} == {400}


@pytest.mark.usefixtures("clean")
def test_what_no_machine_can_hold_says_so_and_offers_what_can(lab, browsers):
    browser = browsers[15]
    lab.ask("s15", {"profile": "dl101/huge"})
    page = eventually_sync(lambda: _failed(browser), 60, "the start has failed")

    assert "more than any machine here has" in page.text
    button = page.select_one(".lab-instead button")
    assert button["value"] == "dl101/huge:2"
    fields = {field["name"]: field["value"] for field in page.select(".lab-instead input")}
    assert browser.post_form("/hub/spawn/s15", {**fields, "variant": button["value"]}).status == 302
    lab.wait_ready("s15")
    assert lab.lease("s15").provider == "spare"


def _failed(browser: Client) -> BeautifulSoup | None:
    page = shown(browser.get("/hub/spawn-pending/s15"))
    return page if page.select_one(".lab-panel-bad") else None


# -- what pages hear ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("clean")
def test_a_page_hears_what_is_free_as_it_changes(lab, browsers):
    with closing(browsers[16].events("/hub/labspawner/events")) as events:
        first = next(event for event in events if "profiles" in event)
        assert first["profiles"]["dl101/gpu"]["text"] == "6 free"
        assert "secret/only" not in first["profiles"]

        place(browsers[17])

        later = next(event for event in events if "profiles" in event)
        assert later["profiles"]["dl101/gpu"]["text"] == "5 free"


def test_a_few_pages_of_one_user_may_listen_and_the_next_looks_by_itself(lab, browsers):
    with ExitStack() as stack:
        for _ in range(4):
            events = stack.enter_context(closing(browsers[18].events("/hub/labspawner/events")))
            assert next(events)
        assert browsers[18].call("GET", "/hub/labspawner/events").status == 429
        assert browsers[18].call("GET", "/hub/labspawner/availability").status == 200
    eventually_sync(lambda: _listens(browsers[18]), 60, "closed pages make room")


def _listens(browser: Client) -> bool:
    try:
        with closing(browser.events("/hub/labspawner/events")) as events:
            return bool(next(events))
    except AssertionError:
        return False


# -- the inner API ------------------------------------------------------------------------------------------------------

INNER = "/hub/api/labspawner/v1"
READINGS = ("availability", "state", "capacity", "decisions", "events")


@pytest.mark.parametrize("path", READINGS)
def test_only_a_token_with_our_scope_may_ask_what_the_hub_knows(lab, browsers, path):
    made = lab.api.call("POST", "/hub/api/users/s19/tokens", {"note": "a student's own"})
    student = Client(lab.base, {"Authorization": f"token {made.json()['token']}"})

    assert student.call("GET", f"{INNER}/{path}").status == 403
    assert browsers[19].call("GET", f"{INNER}/{path}").status == 403
    assert Client(lab.base).call("GET", f"{INNER}/{path}").status == 403
    assert Client(lab.base).call("GET", f"{INNER}/{path}?token={lab.token}").status == 403
    assert lab.api.call("GET", f"{INNER}/{path}?token={lab.token}").status == 403


@pytest.mark.usefixtures("clean")
def test_the_console_reads_what_is_free_who_runs_who_waits_and_what_is_held(lab, browsers):
    for number in range(PLACES - 1):
        lab.start_server(f"s{number}", "dl101/gpu")
    place(browsers[20])
    lab.ask("s21", {"profile": "dl101/gpu"})
    state = eventually_sync(lambda: _with_line(lab), 60, "one stands in line")

    assert {server["user"] for server in state["servers"]} == {*(f"s{number}" for number in range(PLACES - 1)), "s21"}
    assert [one["user"] for line in state["lines"] for one in line["waiting"]] == ["s21"]
    assert [(one["user"], "id" in one) for one in state["holds"]] == [("s20", False)]
    assert lab.api.call("GET", f"{INNER}/state?course=secret").json()["servers"] == []
    one = lab.api.call("GET", f"{INNER}/availability?user=s22").json()["profiles"]
    assert set(one) == {"dl101/gpu", "dl101/choosy", "dl101/huge", "dl101/closed"}
    assert (one["dl101/gpu"]["blocked_by"], one["dl101/gpu"]["place"]) == (["held_by_others", "in_line"], 2)
    assert "secret/only" in lab.api.call("GET", f"{INNER}/availability").json()["profiles"]
    assert lab.api.call("GET", f"{INNER}/availability?user=nobody").status == 404
    capacity = {one["name"]: one for one in lab.api.call("GET", f"{INNER}/capacity").json()["providers"]}
    assert [host["name"] for host in capacity["lab"]["hosts"]] == ["a", "b"]
    assert lab.api.call("GET", f"{INNER}/decisions?limit=x").json()["decisions"] == []
    with closing(lab.api.events(f"{INNER}/events")) as events:
        assert set(next(events)) == {"state", "availability", "courses"}


def _with_line(lab: RealHub) -> Any:
    state = lab.api.call("GET", f"{INNER}/state?course=dl101").json()
    return state if state["lines"] else None
