"""Thirty students and six places: who clicked first starts, the rest read the truth; and a hold is nobody else's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

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
    hours: [{days: [mon], from: "00:00", to: "00:01", timezone: UTC}]
    variants: [{provider: lab}]
timezone: UTC
"""
OTHER = """
course: secret
title: Somebody else's
profiles:
  - {slug: only, title: Not yours, variants: [{provider: lab}]}
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
        config="c.JupyterHub.custom_scopes = {'custom:labspawner:console': {'description': 'the console'}}\n"
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
    """Nothing runs or is held, before and after."""
    yield
    for number, browser in enumerate(browsers):
        browser.post_form("/hub/labspawner/place/release", {})
        if lab.servers(f"s{number}"):
            lab.stop_server(f"s{number}")


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
