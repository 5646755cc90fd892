"""What does not belong is found and ended, by the hub and by the commands beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack

from labspawner.model import Phase
from labspawner.testing.hub import an_orphan
from labspawner.testing.waiting import eventually_sync

LABSPAWNER = [sys.executable, "-c", "from labspawner.cli import main; main()"]


def test_an_orphan_with_our_marks_is_ended_and_another_hubs_is_not(hub):
    with an_orphan(hub.hub_id) as ours, an_orphan("another-hub") as theirs:
        eventually_sync(lambda: ours.poll() is not None, 15, "the orphan is ended")

        assert theirs.poll() is None
    counted = 'labspawner_reconciler_actions_total{action="orphan",provider="local"}'
    eventually_sync(lambda: counted in hub.api.call("GET", "/hub/metrics").text, 10, "the action is counted")


def test_two_hubs_on_one_machine_do_not_touch_each_others_servers(hub, student, new_hub):
    other = new_hub()
    other.start()
    other.start_server("student1", "py101/base")
    hub.start_server(student, "py101/base")

    for one in (hub, other):
        with an_orphan(one.hub_id) as orphan:
            eventually_sync(lambda process=orphan: process.poll() is not None, 15, "the reconciler looked twice")

    assert other.servers("student1")[""]["ready"]
    assert hub.servers(student)[""]["ready"]


def test_the_hub_stops_itself_when_too_much_would_be_ended_at_once(new_hub):
    hub = new_hub()
    with ExitStack() as stack:
        # Before the hub, whose first look may else see one of them alone, and one alone it ends.
        orphans = [stack.enter_context(an_orphan(hub.hub_id)) for _ in range(6)]
        hub.start()

        eventually_sync(lambda: "reconciler stopped itself" in hub.log(), 15, "the brake is logged")

        assert [orphan.poll() for orphan in orphans] == [None] * 6


def test_reconcile_beside_the_hub_names_what_is_wrong_and_frees_it(new_hub):
    hub = new_hub(settings={"orphan_grace_s": 600})
    hub.start()
    hub.start_server("student1", "py101/base")
    with an_orphan(hub.hub_id) as orphan:
        looked = _labspawner(hub, "reconcile", "--dry-run")
        assert looked.returncode == 0, looked.stderr
        assert "orphan" in looked.stdout
        assert "nothing was done" in looked.stdout
        assert orphan.poll() is None

        freed = _labspawner(hub, "reconcile")

        assert freed.returncode == 0, freed.stderr
        eventually_sync(lambda: orphan.poll() is not None, 5, "the orphan is ended")
    again = _labspawner(hub, "reconcile", "--dry-run")
    assert "nothing to do" in again.stdout
    assert hub.servers("student1")[""]["ready"]


def test_down_ends_what_a_stopped_hub_left(new_hub):
    hub = new_hub()
    hub.start()
    hub.start_server("student1", "py101/base")
    hub.start_server("student2", "py101/sim")
    hub.start_server("student3", "py101/adapter")
    hub.kill()
    assert {lease.phase for lease in hub.leases()} == {Phase.READY}

    refused = _labspawner(hub, "down", stdin="n\n")
    assert refused.returncode == 1
    assert len(hub.leases()) == 3
    done = _labspawner(hub, "down", "--yes")

    assert done.returncode == 0, done.stderr
    assert "3 server(s) ended." in done.stdout
    assert hub.leases() == []
    assert hub.processes() == []
    assert "No server is running." in _labspawner(hub, "down", "--yes").stdout
    hub.start()
    hub.wait_gone("student1")
    hub.start_server("student1", "py101/base")


def test_the_commands_say_what_is_wrong_with_a_configuration(new_hub, tmp_path):
    hub = new_hub(providers={"docker": {}})

    done = _labspawner(hub, "reconcile")

    assert done.returncode == 1
    assert "no such provider is installed" in done.stderr
    assert "Traceback" not in done.stderr


def _labspawner(hub, *words, stdin=""):
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("LABSPAWNER_")},
        "PYTHONPATH": os.pathsep.join([str(hub.folder / "site"), os.environ.get("PYTHONPATH", "")]),
        "COLUMNS": "200",
    }
    return subprocess.run(
        [*LABSPAWNER, *words, "--config", str(hub.config_file)],
        cwd=hub.folder,
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
