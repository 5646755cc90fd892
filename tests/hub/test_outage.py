"""A provider that does not answer for a while: nothing that runs is lost, and nothing is leaked.

Five minutes are compressed: the hub polls every second, a listing is fresh for 0.1 s, and the outage lasts long enough
for several polls to fail; only the grace after which a server is given up (`unknown_grace_s`) decides, never a count.
"""

from __future__ import annotations

import pytest

from labspawner.model import Phase
from labspawner.providers.sim import write_faults
from labspawner.testing.hub import an_orphan, server_path
from labspawner.testing.waiting import eventually_sync
from labspawner.testing.web import Client

FAILURES = 12  # of a reconciler that looks every 0.3 s, while the hub polls every second


@pytest.fixture
def simulated(new_hub):
    """A hub on the simulated provider, and how to turn its knobs."""

    def make(**settings):
        hub = new_hub(settings=settings)
        hub.start()
        return hub, lambda **knobs: write_faults(hub.folder / "data" / "providers" / "sim", **knobs)

    return make


def test_a_server_outlives_an_outage_of_its_provider_and_is_reachable_afterwards(simulated):
    hub, faults = simulated()
    hub.start_server("student1", "py101/sim")
    lease = hub.lease("student1")

    faults(unavailable=True)
    _polls_that_fail(hub)
    assert hub.servers("student1")[""]["ready"]
    assert hub.lease("student1") == lease
    refused = hub.ask("student2", {"profile": "py101/sim"})
    faults()

    assert refused.status in {202, 503}
    _after_passes(hub)
    assert hub.lease("student1") == lease
    assert Client(lease.url).call("GET", "/user/student1/api").status == 200
    assert len(_owned(hub, "student1")) == 1


def test_a_server_is_given_up_after_the_grace_and_freed_when_the_provider_answers_again(simulated):
    hub, faults = simulated(unknown_grace_s=2.0)
    hub.start_server("student1", "py101/sim")

    faults(unavailable=True)
    eventually_sync(lambda: not hub.servers("student1"), 15, "the hub gives the server up")
    eventually_sync(lambda: hub.lease("student1").phase is Phase.STOPPING, 10, "its lease is remembered")
    faults()

    hub.wait_gone("student1")
    hub.start_server("student1", "py101/sim")


def test_a_stop_while_the_provider_is_down_is_remembered_and_done_later(simulated):
    hub, faults = simulated()
    hub.start_server("student1", "py101/sim")
    first = hub.lease("student1").id
    faults(unavailable=True)

    answer = hub.api.call("DELETE", server_path("student1"))

    assert answer.status in {202, 204}
    eventually_sync(lambda: not hub.servers("student1"), 10, "the hub calls it stopped")
    eventually_sync(lambda: hub.lease("student1").phase is Phase.STOPPING, 10, "its lease is remembered")
    faults()
    hub.wait_gone("student1")
    hub.start_server("student1", "py101/sim")
    assert hub.lease("student1").id != first


def test_a_start_while_the_last_server_cannot_be_ended_is_a_sentence(simulated):
    hub, faults = simulated()
    hub.start_server("student1", "py101/sim")
    faults(release_fails=True)
    hub.api.call("DELETE", server_path("student1"))
    eventually_sync(lambda: not hub.servers("student1"), 10, "the hub calls it stopped")

    answer = hub.ask("student1", {"profile": "py101/base"})

    assert answer.status == 409, answer.text
    assert answer.message == "Your last server is still being stopped. Try again in a minute."
    faults()
    hub.wait_gone("student1")
    hub.start_server("student1", "py101/base")


def test_a_hub_that_restarts_in_an_outage_keeps_the_servers(new_hub, tmp_path):
    inner = {"inner": "labspawner.providers.local:LocalProvider", "settings": {"min_free_disk": "1MiB"}}
    hub = new_hub(providers={"local": {"kind": "steered", **inner, "folder": str(tmp_path)}})
    hub.start()
    hub.start_server("student1", "py101/base")
    lease, pids = hub.lease("student1"), [process.pid for process in hub.processes()]
    (tmp_path / "silent").touch()

    hub.kill()
    hub.start()

    hub.wait_ready("student1")
    _polls_that_fail(hub)
    assert hub.lease("student1") == lease
    (tmp_path / "silent").unlink()
    _after_passes(hub)
    assert hub.lease("student1") == lease
    assert hub.servers("student1")[""]["ready"]
    assert [process.pid for process in hub.processes()] == pids


def _polls_that_fail(hub):
    """Wait until the outage has lasted for several polls of the hub: its reconciler counts the listings that fail."""

    def failed():
        text = hub.api.call("GET", "/hub/metrics").text
        lines = [line for line in text.splitlines() if line.startswith("labspawner_reconciler_failures_total")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    eventually_sync(lambda: failed() >= FAILURES, 30, "several failed listings")


def _after_passes(hub):
    with an_orphan(hub.hub_id) as orphan:
        eventually_sync(lambda: orphan.poll() is not None, 15, "the reconciler looked twice")


def _owned(hub, user):
    return [lease for lease in hub.leases(user) if lease.phase is Phase.READY]
