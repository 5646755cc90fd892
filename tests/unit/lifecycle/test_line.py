"""Waiting for a place: in order, in words, with a deadline; and never more admitted than fit."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any

import pytest

from labspawner.errors import NeverFits, NoRoom, ProviderUnavailable, StartFailed
from labspawner.lifecycle import Engine
from labspawner.model import Capacity, Phase, Progress
from labspawner.providers.sim import SimProvider
from labspawner.store import Store
from labspawner.testing.waiting import eventually

from .conftest import (
    GIB,
    Clock,
    OpenEngine,
    OpenSim,
    Scripted,
    a_variant,
    an_order,
    launching,
    nothing_is_left,
    quiet,
    reaches,
)


class Words(list[str]):
    """What a student reads while waiting."""

    def __call__(self, progress: Progress) -> None:
        self.append(str(progress.message))


def waiting(user: str, **changes: Any) -> Any:
    return an_order(user=user, **{"wait_s": 300.0, **changes})


@pytest.fixture
def one_place(open_sim: OpenSim) -> SimProvider:
    return open_sim(hosts=[{"name": "a", "servers": 1}])


@pytest.fixture
def full(open_engine: OpenEngine, one_place: SimProvider) -> Engine:
    return open_engine(one_place)


async def test_who_waits_reads_their_place_and_gets_in_when_one_is_free(full: Engine):
    await full.launch(an_order(user="first"), quiet)
    words = Words()

    with launching(full, waiting("second"), words) as second:
        await eventually(lambda: words)
        await full.stop("first", "")
        lease = await second

    assert words[0] == "Everything is in use. You are number 1 in line."
    assert lease.phase is Phase.READY


async def test_the_line_is_served_in_order_and_places_move_up(full: Engine):
    await full.launch(an_order(user="s0"), quiet)
    words = {user: Words() for user in ("s1", "s2", "s3")}
    with ExitStack() as stack:
        starts = []
        for user, said in words.items():
            starts.append(stack.enter_context(launching(full, waiting(user), said)))
            await eventually(lambda said=said: said)
        order = []

        for holder, (user, said), start in zip(("s0", "s1", "s2"), words.items(), starts, strict=True):
            await eventually(lambda said=said: "number 1 " in said[-1], what=user)
            await full.stop(holder, "")
            order.append((await start).user)

    assert order == ["s1", "s2", "s3"]
    places = [said.split("number ")[1][0] for said in words["s3"] if "number " in said]
    assert (places[0], places[-1]) == ("3", "1")
    assert places == sorted(set(places), reverse=True)


async def test_with_a_line_nobody_is_overtaken_and_pages_show_no_free_place(open_engine: OpenEngine, open_sim: OpenSim):
    engine = open_engine(open_sim(hosts=[{"name": "a", "memory": "4GiB"}]))
    await engine.launch(an_order(user="s0", variants=(a_variant(memory=2 * GIB),)), quiet)
    words = Words()
    small = (a_variant(memory=1 * GIB),)

    with launching(engine, waiting("large", variants=(a_variant(memory=3 * GIB),)), words) as large:
        await eventually(lambda: words)

        assert await engine.free_places("sim", small[0].resources) == 0
        with pytest.raises(NoRoom):
            await engine.launch(an_order(user="small", variants=small), quiet)
        await engine.stop("s0", "")
        await large


async def test_a_line_for_gpus_does_not_hold_up_those_who_need_none(open_engine: OpenEngine, open_sim: OpenSim):
    engine = open_engine(open_sim(hosts=[{"name": "a", "cards": [{"uuid": "G0", "memory": "8GiB"}]}]))
    await engine.launch(an_order(user="s0", variants=(a_variant(gpu=8 * GIB),)), quiet)
    words = Words()

    with launching(engine, waiting("s1", variants=(a_variant(gpu=8 * GIB),)), words):
        await eventually(lambda: words)

        assert (await engine.launch(an_order(user="s2"), quiet)).phase is Phase.READY


async def test_cancelling_in_line_lets_in_who_fits_behind(open_engine: OpenEngine, open_sim: OpenSim):
    sim = open_sim(hosts=[{"name": "a", "memory": "4GiB"}])
    engine = open_engine(sim, recheck_s=3600.0)
    await engine.launch(an_order(user="s0", variants=(a_variant(memory=2 * GIB),)), quiet)
    words, behind = Words(), Words()
    with launching(engine, waiting("large", variants=(a_variant(memory=3 * GIB),)), words) as large:
        await eventually(lambda: words)
        with launching(engine, waiting("small", variants=(a_variant(memory=1 * GIB),)), behind) as small:
            await eventually(lambda: behind)

            large.cancel()
            lease = await asyncio.wait_for(small, 120)

    assert lease.phase is Phase.READY
    with pytest.raises(asyncio.CancelledError):
        await large
    assert {lease.user for lease in engine.book.all()} == {"s0", "small"}


async def test_a_stop_by_the_hub_ends_the_waiting(full: Engine, one_place: SimProvider):
    await full.launch(an_order(user="s0"), quiet)
    words = Words()

    with launching(full, waiting("s1"), words) as start:
        await eventually(lambda: words)
        await full.stop("s1", "")

        with pytest.raises(StartFailed, match="stopped while starting"):
            await start
    assert full.notice("s1", "") is None
    await full.stop("s0", "")
    await nothing_is_left(full, one_place)


async def test_waiting_ends_after_the_time_that_the_profile_gives(full: Engine):
    await full.launch(an_order(user="s0"), quiet)

    with pytest.raises(NoRoom, match="waited in vain") as refused:
        await full.launch(waiting("s1", wait_s=0.05), quiet)

    assert str(refused.value.message).startswith("Nothing became free in ")
    assert refused.value.retry_after_s == 300
    assert [lease.user for lease in full.book.all()] == ["s0"]


async def test_a_failed_start_gives_its_place_to_the_next(full: Engine, one_place: SimProvider):
    one_place.faults(stall_at="boot")
    words = Words()
    with launching(full, an_order(user="s0")) as doomed:
        await reaches(full, Phase.LAUNCHING, "s0")
        with launching(full, waiting("s1"), words) as start:
            await eventually(lambda: words)

            doomed.cancel()
            one_place.faults()
            lease = await start

    assert (lease.user, lease.phase) == ("s1", Phase.READY)


async def test_the_line_outlives_a_provider_that_is_silent_for_a_while(
    full: Engine, one_place: SimProvider, caplog: Any
):
    await full.launch(an_order(user="s0"), quiet)
    words = Words()
    with launching(full, waiting("s1"), words) as start:
        await eventually(lambda: words)
        one_place.faults(unavailable=True)
        await eventually(lambda: "line waits" in caplog.text)

        one_place.faults()
        await full.stop("s0", "")
        lease = await start

    assert lease.phase is Phase.READY
    assert caplog.text.count("line waits") == 1


async def test_who_comes_while_the_provider_is_silent_waits_too(full: Engine, one_place: SimProvider):
    one_place.faults(unavailable=True)
    words = Words()
    with launching(full, waiting("s1"), words) as start:
        await eventually(lambda: words)

        one_place.faults()

        assert (await start).phase is Phase.READY


async def test_who_can_never_fit_any_more_is_told_so_and_the_line_goes_on(open_engine: OpenEngine):
    provider = Scripted(places=1)
    engine = open_engine(provider)
    await engine.launch(an_order(user="s0"), quiet)
    words, behind = Words(), Words()
    with (
        launching(engine, waiting("large", variants=(a_variant(memory=GIB),)), words) as large,
        launching(engine, waiting("s2"), behind) as small,
    ):
        await eventually(lambda: words and behind)
        plain = provider.on_capacity
        shrunk = await provider.capacity()

        async def smaller() -> Capacity:
            from dataclasses import replace

            (host,) = shrunk.hosts
            free = 1 - len(provider.things)
            hosts = (replace(host, servers_free=free, memory_total_bytes=1, memory_free_bytes=1),)
            return replace(shrunk, hosts=hosts, counted=frozenset(provider.things))

        provider.on_capacity = smaller
        with pytest.raises(NeverFits):
            await large
        provider.on_capacity = plain
        await engine.stop("s0", "")

        assert (await small).phase is Phase.READY


async def test_a_provider_whose_capacity_is_broken_ends_the_waiting_of_all(open_engine: OpenEngine, caplog: Any):
    provider = Scripted(places=1)
    engine = open_engine(provider)
    await engine.launch(an_order(user="s0"), quiet)
    words, behind = Words(), Words()
    with launching(engine, waiting("s1"), words) as one, launching(engine, waiting("s2"), behind) as other:
        await eventually(lambda: words and behind)

        async def broken() -> Capacity:
            raise KeyError("secret-host")

        provider.on_capacity = broken
        outcomes = await asyncio.gather(one, other, return_exceptions=True)

        assert [type(outcome) for outcome in outcomes] == [StartFailed, StartFailed]
        assert "not your fault" in str(outcomes[0].message)  # type: ignore[union-attr]
        assert "secret-host" not in str(outcomes[0].message)  # type: ignore[union-attr]
        provider.on_capacity = None
        await engine.stop("s0", "")
        assert (await engine.launch(waiting("s3"), quiet)).phase is Phase.READY


async def test_the_range_of_minutes_comes_from_past_sessions(full: Engine, store: Store, clock: Clock):
    await full.launch(an_order(user="s0"), quiet)
    clock.forward(minutes=30)
    await full.stop("s0", "")
    await full.launch(an_order(user="s0"), quiet)
    clock.forward(minutes=10)
    words = Words()

    with launching(full, waiting("s1", profile="py101/base"), words) as start:
        await eventually(lambda: words)

    assert words == ["Everything is in use. You are number 1 in line; this usually takes 10 to 40 minutes."]
    with pytest.raises(asyncio.CancelledError):
        await start


async def test_past_sessions_are_looked_up_once_in_five_minutes_and_may_fail(engine: Engine, clock: Clock, caplog: Any):
    class Broken:
        asked = 0

        def __init__(self, inner: Store) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        async def median_session_s(self, hub_id: str, profile: str) -> float:
            self.asked += 1
            raise OSError("disk on fire")

    broken = engine._store = Broken(engine._store)  # type: ignore[assignment]

    assert (await engine.launch(an_order(user="s1"), quiet)).phase is Phase.READY
    assert (await engine.launch(an_order(user="s2"), quiet)).phase is Phase.READY
    clock.forward(minutes=6)
    assert (await engine.launch(an_order(user="s3"), quiet)).phase is Phase.READY

    assert broken.asked == 2
    assert "cannot tell how long" in caplog.text


@pytest.mark.parametrize("users", [2, 7])
async def test_of_many_users_and_one_last_slice_exactly_one_is_admitted(
    open_engine: OpenEngine, open_sim: OpenSim, users: int
):
    sim = open_sim(hosts=[{"name": "a", "cards": [{"uuid": "G0", "memory": "8GiB"}]}])
    engine = open_engine(sim)
    orders = [an_order(user=f"s{number}", variants=(a_variant(gpu=6 * GIB),)) for number in range(users)]

    outcomes = await asyncio.gather(*(engine.launch(order, quiet) for order in orders), return_exceptions=True)

    assert sum(isinstance(outcome, NoRoom) for outcome in outcomes) == users - 1
    assert len(await sim.owned()) == len(engine.book.all()) == 1


async def test_a_crowd_in_line_is_served_one_after_another(full: Engine, one_place: SimProvider):
    users = [f"s{number}" for number in range(5)]
    most = 0

    async def come_and_go(user: str) -> None:
        nonlocal most
        await full.launch(waiting(user), quiet)
        most = max(most, len(await one_place.owned()))
        await full.stop(user, "")

    await asyncio.wait_for(asyncio.gather(*(come_and_go(user) for user in users)), 120)

    assert most == 1
    await nothing_is_left(full, one_place)


async def test_a_capacity_that_hangs_is_a_silent_provider(open_engine: OpenEngine, monkeypatch: Any):
    from labspawner.lifecycle import admission

    monkeypatch.setattr(admission, "CAPACITY_S", 0.05)
    monkeypatch.setattr(admission, "PATIENCE_S", 0.05)
    provider = Scripted()

    async def hangs() -> Capacity:
        await asyncio.Event().wait()
        raise AssertionError

    provider.on_capacity = hangs
    engine = open_engine(provider)

    with pytest.raises(ProviderUnavailable, match="did not tell its capacity"):
        await engine.launch(an_order(), quiet)
    assert await engine.free_places("sim", a_variant().resources) is None
