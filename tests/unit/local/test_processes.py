"""Finding and ending a lease's processes: the decisions, without processes."""

from __future__ import annotations

import signal

import psutil
import pytest

from labspawner.errors import ProviderUnavailable
from labspawner.model import LeaseId
from labspawner.providers import processes
from labspawner.providers.processes import HostProcess, HostProcesses, Listing, _Ladder

MAIN, CHILD, LATE = (10, 1.0), (11, 2.0), (12, 3.0)
TERM, KILL = signal.SIGTERM, signal.SIGKILL


def a_process(pid: int, parent: int = 1, **changes: object) -> HostProcess:
    values: dict[str, object] = {
        "pid": pid,
        "created": float(pid),
        "parent": parent,
        "lease_id": LeaseId("l1"),
        "hub_id": "h",
        "provider": "local",
        "user": "ann",
    }
    return HostProcess(**{**values, **changes})  # type: ignore[arg-type]


def test_the_server_is_asked_first_and_once() -> None:
    ladder = _Ladder(grace_s=10, now=0)

    assert ladder.next({MAIN, CHILD}, roots={MAIN}, now=0) == [(MAIN, TERM)]
    assert ladder.next({MAIN, CHILD}, roots={MAIN}, now=1) == []


def test_what_outlives_the_server_is_asked_and_soon_killed() -> None:
    ladder = _Ladder(grace_s=60, now=0)
    ladder.next({MAIN, CHILD}, roots={MAIN}, now=0)

    assert ladder.next({CHILD}, roots={CHILD}, now=1) == [(CHILD, TERM)]
    assert ladder.next({CHILD}, roots={CHILD}, now=2) == []
    assert ladder.next({CHILD, LATE}, roots={CHILD}, now=3) == [(CHILD, KILL), (LATE, KILL)]


def test_after_the_grace_all_are_killed_and_in_the_end_it_gives_up() -> None:
    ladder = _Ladder(grace_s=1, now=0)
    ladder.next({MAIN}, roots={MAIN}, now=0)

    assert ladder.next({MAIN}, roots={MAIN}, now=1) == [(MAIN, KILL)]
    assert ladder.next({MAIN}, roots={MAIN}, now=1 + processes.KILL_S) is None


def test_without_grace_nobody_is_asked() -> None:
    assert _Ladder(grace_s=0, now=0).next({MAIN}, roots={MAIN}, now=0) == [(MAIN, KILL)]


def test_it_gives_up_some_time_after_the_first_kill_however_late_that_is() -> None:
    ladder, late = _Ladder(grace_s=0, now=0), 10 * processes.KILL_S

    assert ladder.next({MAIN}, roots={MAIN}, now=late) == [(MAIN, KILL)]
    assert ladder.next({MAIN}, roots={MAIN}, now=late + processes.KILL_S - 1) == [(MAIN, KILL)]
    assert ladder.next({MAIN}, roots={MAIN}, now=late + processes.KILL_S) is None


def test_a_child_that_shed_the_mark_has_its_parents() -> None:
    marked = a_process(10, port=4711)
    shed = a_process(11, parent=10, lease_id=LeaseId(""), hub_id="", provider="", user="")
    deep = a_process(12, parent=11, lease_id=LeaseId(""))
    stranger = a_process(13, parent=1, lease_id=LeaseId(""))
    rows = {row.pid: row for row in (marked, shed, deep, stranger)}

    found = processes._with_inherited_mark(deep, rows)

    assert found is not None
    assert (found.pid, found.lease_id, found.port, found.inherited) == (12, "l1", 4711, True)
    assert processes._with_inherited_mark(stranger, rows) is None
    assert processes._with_inherited_mark(marked, rows) is marked


def test_a_circle_of_parents_ends() -> None:
    one = a_process(20, parent=21, lease_id=LeaseId(""))
    two = a_process(21, parent=20, lease_id=LeaseId(""))

    assert processes._with_inherited_mark(one, {20: one, 21: two}) is None


def test_a_process_of_another_lease_or_created_at_another_time_is_not_ours() -> None:
    listing = Listing(asked=0.0, marked=(a_process(10, hub_id="other"),), living={10: 10.0, 11: 11.0})

    assert not listing.is_of((10, 10.0), LeaseId("l1"), "h")
    assert not listing.is_of((11, 99.0), LeaseId("l1"), "h")
    assert listing.is_of((11, 11.4), LeaseId("l1"), "h")
    assert listing.leases("other", "local").keys() == {"l1"}
    assert listing.leases("other", "adapter") == {}


def test_a_port_that_cannot_be_read_is_none() -> None:
    assert processes._port_in("http://127.0.0.1:99999999/") is None


def test_a_process_that_is_gone_has_no_environment_listens_nowhere_and_cannot_be_signalled() -> None:
    gone = a_process(2**22 + 1)

    assert processes.environment_of(gone) == {}
    assert processes.listens_on([gone], 80) is False
    processes._send((gone.pid, gone.created), TERM)
    processes._send((1, 0.0), KILL)


async def test_many_questions_at_once_share_a_walk() -> None:
    import asyncio

    host = HostProcesses()
    await asyncio.gather(*(host.listing(max_age_s=5) for _ in range(50)))
    assert host.walks == 1

    host.expire()
    await host.listing(max_age_s=5)
    assert host.walks == 2
    await host.close()


async def test_after_close_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    host = HostProcesses()
    await host.close()
    await host.close()

    with pytest.raises(ProviderUnavailable):
        await host.listing()


async def test_an_unreadable_process_table_is_unavailable_not_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    host = HostProcesses()
    monkeypatch.setattr(psutil, "PROCFS_PATH", "/nonexistent")

    with pytest.raises(ProviderUnavailable):
        await host.listing()
    with pytest.raises(ProviderUnavailable):
        await host.terminate(LeaseId("l1"), hub_id="h", grace_s=0)
    await host.close()
