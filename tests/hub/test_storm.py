"""Many start at once: everybody is heard, the hub answers, and who leaves the line leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from labspawner.model import Phase
from labspawner.testing.hub import RealHub
from labspawner.testing.waiting import eventually_sync

STUDENTS = [f"student{number}" for number in range(1, 9)]
CHOICE = {"profile": "py101/sim"}
COURSE = """
course: py101
title: Python
profiles:
  - {slug: sim, title: Simulated, variants: [{provider: sim}]}
"""
IN_LINE = "of those who start now"
HOLD = """
import asyncio, pathlib
from labspawner.gate import hub as gate_hub
class Held(gate_hub.Turnstile):
    # While the file `hold` is there, nobody begins: all stand in line.
    hold = pathlib.Path({folder!r}) / "hold"
    def waiting(self, kind):
        return super().waiting(kind) + (kind == gate_hub.BEGIN and self.hold.exists())
    async def turn(self, kind, told=None):
        if kind == gate_hub.BEGIN and self.hold.exists():
            told(7)
            while self.hold.exists():
                await asyncio.sleep(0.02)
        await super().turn(kind, told)
gate_hub.Turnstile = Held
"""


@pytest.fixture(scope="module")
def held_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealHub]:
    """A running hub whose line of starts moves only while there is no file `hold` in its folder."""
    folder = tmp_path_factory.mktemp("hub")
    hub = RealHub(
        folder,
        courses={"py101.yaml": COURSE},
        groups={"course-py101": STUDENTS},
        providers={"sim": {"start_s": 0.05}},
        config=HOLD.format(folder=str(folder)),
    )
    hub.start()
    yield hub
    hub.close()


@pytest.fixture
def hub(held_hub: RealHub) -> Iterator[RealHub]:
    """The same with nobody in it, before and after."""
    yield held_hub
    release(held_hub)
    for student in STUDENTS:
        for name in held_hub.servers(student):
            held_hub.stop_server(student, name=name)


def hold(hub: RealHub) -> None:
    (hub.folder / "hold").touch()


def release(hub: RealHub) -> None:
    (hub.folder / "hold").unlink(missing_ok=True)


def ask_all(hub: RealHub) -> set[int]:
    with ThreadPoolExecutor(len(STUDENTS)) as pool:
        return set(pool.map(lambda student: hub.ask(student, CHOICE).status, STUDENTS))


def test_all_who_start_at_once_are_answered_and_become_ready(hub):
    statuses = ask_all(hub)

    assert statuses <= {201, 202}
    for student in STUDENTS:
        hub.wait_ready(student)
    assert {lease.user for lease in hub.ready_leases()} == set(STUDENTS)


def test_all_in_line_are_answered_at_once_and_begin_later(hub):
    hold(hub)

    assert ask_all(hub) == {202}
    assert hub.leases() == []

    release(hub)
    for student in STUDENTS:
        hub.wait_ready(student)
    assert "never retrieved" not in hub.log()


def test_who_waits_reads_how_many_are_before(hub):
    browser = hub.login(STUDENTS[0])
    hold(hub)

    browser.get("/hub/spawn")
    posted = browser.post_form("/hub/spawn", {"profile": "py101/sim"})

    assert posted.status == 302
    # The request may be answered a moment before the start has come to the line.
    eventually_sync(lambda: IN_LINE in browser.get(f"/hub/spawn-pending/{STUDENTS[0]}").text, 20, "the page says so")


@pytest.mark.parametrize("how", ["delete", "button"])
def test_who_leaves_the_line_leaves_nothing_and_can_start_again(hub, how):
    student = STUDENTS[0]
    hold(hub)
    assert hub.ask(student, CHOICE).status == 202

    if how == "delete":
        hub.cancel(student)
    else:
        browser = hub.login(student)
        browser.get("/hub/home")
        assert browser.post_form(f"/hub/labspawner/stop/{student}", {}).status == 302

    hub.wait_gone(student)
    assert hub.api.call("GET", f"/hub/api/users/{student}").json()["servers"] == {}
    release(hub)
    hub.start_server(student, "py101/sim")


def test_a_refused_choice_is_told_at_once_and_takes_no_place(hub):
    hold(hub)

    answer = hub.ask(STUDENTS[0], {"profile": "py101/nonsense"})

    assert answer.status == 403
    assert "nonsense" in answer.message
    assert hub.servers(STUDENTS[0]) == {}


def test_a_refused_choice_in_the_form_is_told_on_the_page(hub):
    browser = hub.login(STUDENTS[0])
    hold(hub)

    browser.get("/hub/spawn")
    answer = browser.post_form("/hub/spawn", {"profile": "py101/nonsense"})

    assert answer.status in {403, 200}  # JupyterHub 5 shows the form again as if nothing were wrong
    assert "nonsense" in answer.text


def test_a_second_request_of_the_same_student_takes_no_second_place(hub):
    student = STUDENTS[0]
    hold(hub)

    assert [hub.ask(student, CHOICE).status for _ in range(2)] == [202, 202]

    release(hub)
    hub.wait_ready(student)
    assert len(hub.leases(student)) == 1


def test_others_are_served_while_starts_wait(hub):
    hold(hub)
    ask_all(hub)

    assert hub.api.call("GET", "/hub/health").status == 200
    assert hub.api.call("GET", "/hub/api/users").status == 200


def test_a_hub_killed_in_the_storm_leaves_nothing_half_made_and_loses_no_server(hub):
    ask_all(hub)
    ready = eventually_sync(lambda: {lease.user for lease in hub.ready_leases()}, 20, "some are ready")

    hub.kill()
    hub.start()

    for student in ready:
        assert hub.wait_ready(student)
    eventually_sync(lambda: {lease.phase for lease in hub.leases()} <= {Phase.READY}, 20, "nothing is half made")
