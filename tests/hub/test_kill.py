"""The hub really killed: nothing is leaked, nothing that runs is lost, and the student can start again."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest

from labspawner.model import Phase
from labspawner.testing import tinyserver
from labspawner.testing.hub import an_orphan, end_processes
from labspawner.testing.waiting import eventually_sync
from labspawner.testing.web import Client

TINY = list(tinyserver.command())
STUDENTS = {"student1": "local", "student2": "sim", "student3": "adapter"}
COURSE = f"""
course: py101
title: Python
profiles:
  - {{slug: local, title: Local, variants: [{{provider: local, settings: {{command: {TINY!r}}}}}]}}
  - {{slug: sim, title: Sim, variants: [{{provider: sim, settings: {{start_s: 0.05}}}}]}}
  - {{slug: adapter, title: Adapter, variants: [{{provider: adapter}}]}}
"""
INNER = {
    "local": ("labspawner.providers.local:LocalProvider", {"min_free_disk": "1MiB"}),
    "sim": ("labspawner.providers.sim:SimProvider", {}),
    "adapter": (
        "labspawner.providers.adapter:AdapterProvider",
        {"spawner_class": "simple", "config": {"home_dir_template": "homes/{username}"}},
    ),
}
POINTS = [f"{index} {side}" for index in range(4) for side in ("before", "after")]


@pytest.fixture
def killable(new_hub, tmp_path):
    """A hub whose three providers stop where the file `hold` says."""
    return new_hub(
        courses={"py101.yaml": COURSE},
        providers={
            name: {"kind": "steered", "inner": inner, "settings": settings, "folder": str(tmp_path)}
            for name, (inner, settings) in INNER.items()
        },
        # A held start must not hold the question for it too.
        config='c.JupyterHub.tornado_settings["slow_spawn_timeout"] = 0',
    )


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("points", [POINTS[:4], POINTS[4:]], ids=["early", "late"])
def test_a_hub_killed_at_each_event_of_a_launch_leaves_nothing_and_each_student_starts_again(
    killable, tmp_path, points
):
    hub = killable
    hub.start()
    for point in points:
        (tmp_path / "hold").write_text(point)
        for user, profile in STUDENTS.items():
            hub.ask(user, {"profile": f"py101/{profile}"})
        # A launch with fewer events than this one is over, and its server must survive.
        eventually_sync(lambda: _held(tmp_path) | _ready(hub) == set(INNER), 30, f"all launches are held {point}")
        ready = _ready(hub) - _held(tmp_path)
        assert {lease.phase for lease in hub.leases() if lease.provider not in ready} <= {Phase.LAUNCHING}

        hub.kill()
        for mark in (*tmp_path.glob("held.*"), tmp_path / "hold"):
            mark.unlink()
        hub.start()

        eventually_sync(lambda kept=ready: _with_lease(hub) == kept, 20, f"no half-made lease is left {point}")
        for user, provider in STUDENTS.items():
            if provider in ready:
                hub.wait_ready(user)
                assert _answers(hub, user)
                hub.stop_server(user)
        eventually_sync(lambda: not hub.processes(), 10, f"no process is left after a kill {point}")
        eventually_sync(lambda: _sim_rows(hub) == [], 10, f"nothing simulated is left after a kill {point}")
        eventually_sync(lambda: not any(hub.servers(user) for user in STUDENTS), 10, "the hub knows of no server")

    for user, profile in STUDENTS.items():
        hub.ask(user, {"profile": f"py101/{profile}"})
    for user in STUDENTS:
        hub.wait_ready(user)
    assert {lease.phase for lease in hub.leases()} == {Phase.READY}


def test_running_servers_survive_a_killed_and_a_restarted_hub(killable):
    hub = killable
    hub.start()
    for user, profile in STUDENTS.items():
        hub.ask(user, {"profile": f"py101/{profile}"})
    for user in STUDENTS:
        hub.wait_ready(user)
    before = _facts(hub)

    for end in (hub.kill, hub.stop):
        end()
        assert _facts(hub) == before
        hub.start()

        for user in STUDENTS:
            hub.wait_ready(user)
        _after_passes_of_the_reconciler(hub)
        assert _facts(hub) == before
        assert [user for user in STUDENTS if not _answers(hub, user)] == []

    for user in STUDENTS:
        hub.stop_server(user)
    assert hub.processes() == []
    assert _sim_rows(hub) == []


DIES_AFTER_START = """
import os, pathlib, signal
from labspawner.spawner import LabSpawner
_TRAP = pathlib.Path("trap")
class Dies(LabSpawner):
    async def _start(self, order):
        url = await super()._start(order)
        if _TRAP.exists():
            _TRAP.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return url
c.JupyterHub.spawner_class = Dies
"""


def test_a_server_survives_a_hub_that_died_before_it_saved_its_state(new_hub):
    hub = new_hub(config=DIES_AFTER_START)
    hub.start()
    for profile in ("base", "sim", "adapter"):
        (hub.folder / "trap").touch()
        with contextlib.suppress(OSError):
            hub.ask("student1", {"profile": f"py101/{profile}"})
        assert hub.wait_for_death() == -9
        lease = hub.lease("student1")
        assert lease.phase is Phase.READY

        hub.start()

        hub.wait_ready("student1")
        _after_passes_of_the_reconciler(hub)
        assert hub.lease("student1") == lease
        assert _answers(hub, "student1")
        hub.stop_server("student1")
        assert hub.processes() == []


def test_a_server_that_died_while_the_hub_was_down_is_given_up_and_can_be_started_again(new_hub):
    hub = new_hub()
    hub.start()
    hub.start_server("student1", "py101/base")
    hub.kill()
    end_processes(hub.hub_id)

    hub.start()

    hub.wait_gone("student1")
    hub.start_server("student1", "py101/base")


def _held(folder):
    return {mark.suffix[1:] for mark in folder.glob("held.*")}


def _with_lease(hub):
    return {lease.provider for lease in hub.leases()}


def _ready(hub):
    return {lease.provider for lease in hub.ready_leases()}


def _facts(hub):
    """What must be the same after a restart: lease, phase, address and processes of each student."""
    return {
        lease.user: (lease.id, lease.phase, lease.url, sorted(p.pid for p in hub.processes(lease.user)))
        for lease in hub.leases()
    }


def _answers(hub, user):
    lease = hub.lease(user)
    return Client(lease.url).call("GET", f"/user/{user}/api").status < 500


def _sim_rows(hub):
    """What the simulated world holds, straight from its file."""
    found = []
    for path in (hub.folder / "data" / "providers").glob("*/sim-world.sqlite"):
        with contextlib.closing(sqlite3.connect(path, timeout=120)) as world:
            found += world.execute("select * from servers").fetchall()
    return found


def _after_passes_of_the_reconciler(hub):
    """Wait until the reconciler has looked at everything twice: it then ends an orphan."""
    with an_orphan(hub.hub_id) as orphan:
        eventually_sync(lambda: orphan.poll() is not None, 15, "the reconciler looked twice")
