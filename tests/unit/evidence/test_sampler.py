"""What the hosts measure: from processor seconds to "it worked then", and how seldom that is news."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from types import SimpleNamespace

import pytest
from builders import NOW

from labspawner.evidence import Sampler
from labspawner.evidence.sampler import looked
from labspawner.model import HostLook, Phase, Usage
from labspawner.testing.waiting import eventually

MINUTE = timedelta(minutes=1)


def a_usage(minutes: float, cpu_s: float | None) -> Usage:
    return Usage(taken_at=NOW + minutes * MINUTE, cpu_s=cpu_s)


def test_the_first_look_only_begins():
    assert looked(None, None, a_usage(0, 10)) is None


def test_two_looks_say_whether_it_worked_between_them():
    idle = looked(None, a_usage(0, 10), a_usage(1, 10.5))
    busy = looked(None, a_usage(0, 10), a_usage(1, 40))

    assert idle == HostLook(since=NOW, looked_at=NOW + MINUTE)
    assert busy == HostLook(since=NOW, looked_at=NOW + MINUTE, last_busy=NOW + MINUTE)


def test_a_quiet_minute_keeps_the_last_work():
    before = HostLook(since=NOW - 9 * MINUTE, looked_at=NOW, last_busy=NOW - 4 * MINUTE)

    assert looked(before, a_usage(0, 10), a_usage(1, 10)) == HostLook(
        since=NOW - 9 * MINUTE, looked_at=NOW + MINUTE, last_busy=NOW - 4 * MINUTE
    )


def test_a_counter_that_fell_counts_as_work():
    assert looked(None, a_usage(0, 100), a_usage(1, 3)).last_busy == NOW + MINUTE


def test_a_gap_begins_anew_and_forgets_no_work():
    before = HostLook(since=NOW - 60 * MINUTE, looked_at=NOW - 20 * MINUTE, last_busy=NOW - 30 * MINUTE)

    after = looked(before, a_usage(0, 10), a_usage(1, 10))
    long = looked(before, a_usage(-20, 10), a_usage(1, 10))

    assert after == HostLook(since=NOW, looked_at=NOW + MINUTE, last_busy=NOW - 30 * MINUTE)
    assert long.since == NOW + MINUTE


@pytest.mark.parametrize(("last", "now"), [(10.0, None), (None, 10.0)])
def test_a_host_that_cannot_tell_says_nothing(last, now):
    before = HostLook(since=NOW, looked_at=NOW)

    assert looked(before, a_usage(0, last), a_usage(1, now)) == before


def test_the_same_look_twice_is_one():
    before = HostLook(since=NOW, looked_at=NOW)

    assert looked(before, a_usage(1, 10), a_usage(1, 10)) == before


class Host:
    """Says what servers use; `cpu_s` moves as a test wants."""

    def __init__(self) -> None:
        self.now = NOW
        self.cpu_s = 0.0
        self.silent = False
        self.looks = 0

    async def uses(self, leases):
        self.looks += 1
        if self.silent:
            raise OSError("no answer")
        return {lease.id: SimpleNamespace(usage=Usage(taken_at=self.now, cpu_s=self.cpu_s)) for lease in leases}


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def a_sampler(desk, host):
    def make(**changes) -> Sampler:
        return Sampler(desk.book, leases=lambda: list(desk.leases.values()), uses=host.uses, **changes)

    return make


async def test_looks_become_evidence_of_ready_servers(desk, host, a_sampler):
    ready, starting = await desk.lease(), await desk.lease(lease={"phase": Phase.LAUNCHING})
    sampler = a_sampler(reporting=["sim"])

    for host.cpu_s in (0, 0.1, 50):
        await sampler.look()
        host.now += MINUTE

    known = await desk.book.known(ready.id)
    assert known.host == HostLook(since=NOW, looked_at=NOW + 2 * MINUTE, last_busy=NOW + 2 * MINUTE)
    assert known.expected
    assert (await desk.book.known(starting.id)).host is None


async def test_that_nothing_happens_is_news_once_in_a_while(desk, host, a_sampler, store):
    lease = await desk.lease()
    sampler = a_sampler()
    for _ in range(5):
        await sampler.look()
        host.now += MINUTE
    early = (await desk.book.known(lease.id)).host

    for _ in range(3):
        await sampler.look()
        host.now += MINUTE

    assert early.looked_at == NOW + MINUTE
    assert (await desk.book.known(lease.id)).host == HostLook(since=NOW, looked_at=NOW + 6 * MINUTE)
    assert not (await desk.book.known(lease.id)).expected


async def test_a_new_hub_goes_on_from_what_the_old_one_knew(desk, host, a_sampler):
    lease = await desk.lease()
    first = a_sampler()
    for _ in range(3):
        await first.look()
        host.now += MINUTE
    await desk.restart()

    second = a_sampler()
    for _ in range(6):
        await second.look()
        host.now += MINUTE

    assert (await desk.book.known(lease.id)).host.since == NOW


async def test_servers_that_ended_are_forgotten(desk, host, a_sampler):
    lease = await desk.lease()
    sampler = a_sampler()
    await sampler.look()
    await sampler.look()
    del desk.leases[lease.id]

    await sampler.look()

    assert (sampler._last, sampler._looks) == ({}, {})


async def test_a_look_that_fails_is_logged_and_the_next_one_comes(desk, host, a_sampler, caplog):
    host.silent = True
    running = asyncio.get_running_loop().create_task(a_sampler(interval_s=0.01).run())

    await eventually(lambda: host.looks >= 3, deadline_s=20)

    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert "cannot look" in caplog.text
