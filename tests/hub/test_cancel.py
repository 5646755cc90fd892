"""Starts that are cancelled, started twice, and watched."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from labspawner.model import Phase
from labspawner.providers.sim import write_faults
from labspawner.testing import tinyserver
from labspawner.testing.hub import server_path
from labspawner.testing.waiting import eventually_sync

STAGES = ("reserve", "create", "boot")


@pytest.mark.parametrize("how", ["delete", "button"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_start_cancelled_at_any_stage_is_gone_in_seconds_and_the_next_one_works(hub, student, stage, how):
    before = len(hub.log())
    hub.ask(student, {"profile": f"py101/stalls-{stage}"})
    _stalls_at(hub, student, stage)
    browser = hub.login(student)
    browser.get("/hub/home")

    if how == "delete":
        hub.cancel(student)
    else:
        assert browser.post_form(f"/hub/labspawner/stop/{student}", {}).status == 302
    hub.wait_gone(student)

    # What ignores that it was cancelled is left to itself after a while.
    assert "still at work" not in hub.log()[before:]
    hub.start_server(student, "py101/sim")
    assert hub.lease(student).profile == "py101/sim"


def test_a_start_that_waits_for_a_process_is_cancelled_and_the_process_ended(new_hub):
    silent = list(tinyserver.command(never_listen=True))
    hub = new_hub(
        courses={
            "c.yaml": "course: py101\ntitle: C\nprofiles:\n"
            f"  - {{slug: silent, title: S, variants: [{{provider: local, settings: {{command: {silent!r}}}}}]}}\n"
        }
    )
    hub.start()
    hub.ask("student1", {"profile": "py101/silent"})
    eventually_sync(lambda: hub.processes("student1"), 10, "the process runs")

    hub.api.call("DELETE", server_path("student1"))

    hub.wait_gone("student1", deadline_s=10)
    assert hub.processes() == []


def test_a_cancelled_start_whose_process_ignores_signals_is_stopped_all_the_same(new_hub):
    deaf = list(tinyserver.command(never_listen=True, deaf=True))
    hub = new_hub(
        courses={
            "c.yaml": "course: py101\ntitle: C\nprofiles:\n"
            f"  - {{slug: deaf, title: D, variants: [{{provider: local, settings: {{command: {deaf!r}}}}}]}}\n"
        }
    )
    hub.start()
    hub.ask("student1", {"profile": "py101/deaf"})
    eventually_sync(lambda: hub.processes("student1"), 10, "the process runs")

    hub.cancel("student1")

    hub.wait_gone("student1", deadline_s=20)
    assert hub.processes() == []
    assert hub.leases("student1") == []
    assert hub.ask("student1", {"profile": "py101/deaf"}).status in {201, 202}


def test_two_tabs_that_start_at_once_get_one_server_and_a_sentence(hub, student, stalls):
    stalls("boot")
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: hub.ask(student, {"profile": "py101/sim"}), range(4)))

    assert {answer.status for answer in answers} <= {201, 202, 400}, [answer.text for answer in answers]
    assert [answer.status for answer in answers if answer.status < 300]
    eventually_sync(lambda: hub.leases(student), 10, "one of them begins")
    assert len(hub.leases(student)) == 1
    stalls(None)
    hub.wait_ready(student)
    assert len(hub.leases(student)) == 1
    again = hub.ask(student, {"profile": "py101/sim"})
    assert again.status == 400
    assert "already running" in again.message


def test_a_stop_and_a_start_at_once_end_in_one_server_or_none(hub, student):
    hub.start_server(student, "py101/base")

    with ThreadPoolExecutor(2) as pool:
        stop = pool.submit(hub.api.call, "DELETE", server_path(student))
        start = pool.submit(hub.ask, student, {"profile": "py101/base"})
        stop.result()  # JupyterHub itself may answer 500: "pending spawn"
        assert start.result().status < 500, start.result().text

    def settled():
        servers = hub.servers(student)
        phases = [lease.phase for lease in hub.leases(student)]
        return (not servers and not phases) or (servers and servers[""]["ready"] and phases == [Phase.READY])

    eventually_sync(settled, 15, "one server or none")
    assert len({process.lease_id for process in hub.processes(student)}) <= 1


@pytest.fixture
def stalls(hub):
    """Let simulated starts stand still at a stage, until told otherwise."""

    def at(stage):
        write_faults(hub.folder / "data" / "providers" / "sim", **({"stall_at": stage} if stage else {}))

    yield at
    at(None)


def _stalls_at(hub, student, stage):
    def stalls():
        handle = hub.lease(student).handle
        return handle is not None and handle.data.get("stage") == stage

    eventually_sync(stalls, 10, f"the start stalls at {stage}")


def _listen(hub, path, told):
    for event in hub.api.events(path):
        told.append(event)


def test_progress_tells_the_stages_in_order_to_every_watcher_and_ends_with_ready(hub, student, stalls):
    stalls("boot")
    hub.ask(student, {"profile": "py101/sim"})
    path = f"{server_path(student)}/progress"

    first = hub.api.events(path)
    seen = [next(first), next(first)]
    first.close()  # the tab is closed; the start goes on
    one, two = [], []
    with ThreadPoolExecutor(2) as pool:
        watchers = [pool.submit(_listen, hub, path, told) for told in (one, two)]
        eventually_sync(lambda: len(one) > 1 and len(two) > 1, 20, "both watch")
        stalls(None)
        for watcher in watchers:
            watcher.result(timeout=120)

    assert one == two
    assert [event["message"] for event in one[: len(seen)]] == [event["message"] for event in seen]
    stages = [event["message"] for event in one if event["message"].startswith("Simulated stage")]
    assert stages == [f"Simulated stage: {stage}" for stage in STAGES]
    percents = [event["progress"] for event in one]
    assert percents == sorted(percents)
    assert one[-1]["ready"]
    assert one[-1]["progress"] == 100
    assert hub.servers(student)[""]["ready"]


def test_progress_of_a_running_server_says_ready_at_once(hub, student):
    hub.start_server(student, "py101/sim")

    events = list(hub.api.events(f"{server_path(student)}/progress"))

    assert [event.get("ready") for event in events] == [True]


def test_progress_of_a_cancelled_start_ends(hub, student):
    hub.ask(student, {"profile": "py101/stalls-boot"})
    path = f"{server_path(student)}/progress"
    told = []
    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(_listen, hub, path, told)
        eventually_sync(lambda: told, 10, "somebody watches")
        eventually_sync(lambda: hub.lease(student).handle is not None, 10, "the start is under way")
        hub.stop_server(student)
        watching.result(timeout=120)

    assert hub.api.call("GET", path).status in {400, 404}  # it is not starting


def test_a_student_does_not_see_anothers_progress(hub, student):
    hub.add_user("curious", "course-py101")
    hub.ask(student, {"profile": "py101/stalls-boot"})
    eventually_sync(lambda: hub.leases(student), 10, "the start is under way")
    browser = hub.login("curious")

    assert browser.get(f"/hub/labspawner/progress/{student}").status in {403, 404}
    assert browser.get(f"/hub/spawn-pending/{student}").status in {403, 404}
    browser.get("/hub/home")
    assert browser.post_form(f"/hub/labspawner/stop/{student}", {}).status in {403, 404}
    assert hub.leases(student)


def test_the_pending_page_shows_the_profile_and_the_stages(hub, student):
    hub.ask(student, {"profile": "py101/stalls-boot"})
    _stalls_at(hub, student, "boot")

    page = hub.login(student).get(f"/hub/spawn-pending/{student}")

    assert page.status == 200
    assert "Stalls" in page.text
    assert "Simulated stage" in page.text
