"""From an order to a ready server: what is written when, which variant is taken, what is refused."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from labspawner.errors import BadConfig, LeaseConflict, NeverFits, NoRoom, NotAllowed, ProviderUnavailable, SetupError
from labspawner.lifecycle import Engine, Order
from labspawner.model import Phase, Progress, Ready, Resources, ServerState
from labspawner.providers.sim import SimProvider
from labspawner.store import Store

from .conftest import (
    GIB,
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

CARD = [{"name": "a", "cards": [{"uuid": "G0", "memory": "8GiB"}]}]


async def test_an_order_becomes_a_ready_lease_in_book_and_store(engine: Engine, sim: SimProvider, store: Store):
    seen: list[Progress] = []

    lease = await engine.launch(an_order(pinned={"title": {"en": "Base"}}, profile_rev="r1"), seen.append)

    assert (lease.phase, lease.provider, lease.profile_rev) == (Phase.READY, "sim", "r1")
    assert lease.url is not None
    assert lease.handle is not None
    assert await store.get(lease.id) == lease == engine.book.active("student1", "")
    assert [progress.percent for progress in seen] == sorted(progress.percent for progress in seen)
    assert len(seen) == 3
    assert await engine.is_running("student1", "")


async def test_the_lease_stands_in_the_store_before_the_provider_is_asked(open_engine: OpenEngine, store: Store):
    provider, phases = Scripted(), []
    plain = provider.on_launch

    async def looking(request: Any) -> Any:
        phases.append((await store.get(request.lease_id)).phase)  # type: ignore[union-attr]
        async for event in plain(request):
            if isinstance(event, Ready):
                phases.append((await store.get(request.lease_id)).handle)  # type: ignore[union-attr]
            yield event

    provider.on_launch = looking

    lease = await open_engine(provider).launch(an_order(), quiet)

    assert phases == [Phase.LAUNCHING, lease.handle]


async def test_an_order_without_a_variant_is_a_bug_that_is_said_at_once():
    with pytest.raises(ValueError, match="needs a variant"):
        an_order(variants=())


def test_the_hub_waits_as_long_as_line_start_and_roll_back_may_take():
    order = an_order(variants=(a_variant(ready_timeout_s=60.0), a_variant(ready_timeout_s=90.0)), wait_s=600.0)

    assert order.start_timeout_s == 600.0 + 90.0 + 30.0


async def test_no_room_fails_at_once_where_the_profile_does_not_wait(open_engine: OpenEngine, open_sim: OpenSim):
    sim = open_sim(hosts=[{"name": "a", "servers": 1}])
    engine = open_engine(sim)
    await engine.launch(an_order(), quiet)

    with pytest.raises(NoRoom, match="no room") as refused:
        await engine.launch(an_order(user="student2"), quiet)

    assert str(refused.value.message).startswith("Everything is in use.")
    assert [lease.user for lease in engine.book.all()] == ["student1"]


async def test_what_never_fits_is_said_with_both_sizes(open_engine: OpenEngine, open_sim: OpenSim):
    engine = open_engine(open_sim(hosts=CARD))

    with pytest.raises(NeverFits, match="wanted_bytes=") as refused:
        await engine.launch(an_order(variants=(a_variant(gpu=16 * GIB),), wait_s=60.0), quiet)

    assert "16 GiB" in refused.value.message
    assert "(8 GiB)" in refused.value.message
    await nothing_is_left(engine)


@pytest.mark.parametrize("wait_s", [0.0, 60.0])
async def test_a_provider_that_is_not_configured_fails_at_once(engine: Engine, wait_s: float):
    with pytest.raises(BadConfig, match="provider=none is not configured"):
        await engine.launch(an_order(variants=(a_variant("none"),), wait_s=wait_s), quiet)

    await nothing_is_left(engine)


@pytest.mark.parametrize("trouble", ["full", "too large", "silent", "not configured"])
async def test_auto_fallback_takes_the_next_variant(open_engine: OpenEngine, open_sim: OpenSim, trouble: str):
    first = open_sim("first", hosts=[{"name": "a", "servers": 0 if trouble == "full" else 5, "memory": "1GiB"}])
    if trouble == "silent":
        first.faults(unavailable=True)
    engine = open_engine(first, open_sim("second"))
    size = 2 * GIB if trouble == "too large" else 0
    name = "third" if trouble == "not configured" else "first"
    order = an_order(variants=(a_variant(name, memory=size), a_variant("second")), fallback=True)

    lease = await engine.launch(order, quiet)

    assert lease.provider == "second"
    assert lease.handle is not None
    assert lease.handle.provider == "second"


async def test_without_fallback_the_next_variant_is_left_alone(open_engine: OpenEngine, open_sim: OpenSim):
    engine = open_engine(open_sim("first", hosts=[{"name": "a", "servers": 0}]), open_sim("second"))

    with pytest.raises(NeverFits, match="never fits") as refused:
        await engine.launch(an_order(variants=(a_variant("first"), a_variant("second"))), quiet)

    assert "No machine here can run this profile" in refused.value.message


async def test_the_student_is_told_to_come_back_when_one_variant_may_become_free(
    open_engine: OpenEngine, open_sim: OpenSim
):
    small, full = open_sim("small", hosts=[{"name": "a", "memory": "1GiB"}]), Scripted("full", places=1)
    engine = open_engine(small, full)
    await engine.launch(an_order(user="student2", variants=(a_variant("full"),)), quiet)

    with pytest.raises(NoRoom):
        await engine.launch(
            an_order(variants=(a_variant("small", memory=2 * GIB), a_variant("full")), fallback=True), quiet
        )


async def test_a_silent_provider_is_said_to_be_so(engine: Engine, sim: SimProvider):
    sim.faults(unavailable=True)

    with pytest.raises(ProviderUnavailable):
        await engine.launch(an_order(), quiet)

    sim.faults()
    await nothing_is_left(engine, sim)


async def test_the_limit_of_a_profile_counts_other_servers_but_not_this_one(engine: Engine):
    order = an_order(server_name="a", per_user=2)
    await engine.launch(order, quiet)
    await engine.launch(an_order(server_name="b", per_user=2), quiet)

    with pytest.raises(NotAllowed) as refused:
        await engine.launch(an_order(server_name="c", per_user=2), quiet)

    assert str(refused.value.message) == (
        "You already run 2 of this profile, and 2 is the limit. Stop one of them first."
    )
    await engine.launch(order, quiet)
    await engine.launch(an_order(server_name="c", per_user=2, user="student2"), quiet)
    await engine.launch(an_order(server_name="c", per_user=2, profile="py101/other"), quiet)


async def test_the_limit_holds_for_starts_at_once(engine: Engine):
    orders = [an_order(server_name=f"s{number}", per_user=1) for number in range(4)]

    outcomes = await asyncio.gather(*(engine.launch(order, quiet) for order in orders), return_exceptions=True)

    assert sum(isinstance(outcome, NotAllowed) for outcome in outcomes) == 3
    assert len(engine.book.all()) == 1


async def test_a_second_start_of_a_server_that_is_starting_is_a_conflict(engine: Engine, sim: SimProvider):
    sim.faults(stall_at="boot")
    with launching(engine, an_order()) as first:
        lease = await reaches(engine, Phase.LAUNCHING)

        with pytest.raises(LeaseConflict):
            await engine.launch(an_order(), quiet)

        assert engine.book.active("student1", "").id == lease.id  # type: ignore[union-attr]
        sim.faults()
        assert (await first).id == lease.id


async def test_a_new_start_replaces_the_old_server(engine: Engine, sim: SimProvider, store: Store):
    old = await engine.launch(an_order(), quiet)

    new = await engine.launch(an_order(), quiet)

    assert [resource.lease_id for resource in await sim.owned()] == [new.id]
    assert engine.book.all() == [new]
    ended = await store.get(old.id)
    assert ended is not None
    assert (ended.phase, ended.ending and ended.ending.by) == (Phase.ENDED, "hub")


async def test_an_old_server_that_cannot_be_stopped_keeps_the_new_one_from_starting(engine: Engine, sim: SimProvider):
    old = await engine.launch(an_order(), quiet)
    sim.faults(release_fails=True)

    with pytest.raises(LeaseConflict, match="does not answer") as refused:
        await engine.launch(an_order(), quiet)

    assert "still being stopped" in refused.value.message
    assert [(lease.id, lease.phase) for lease in engine.book.all()] == [(old.id, Phase.STOPPING)]
    sim.faults()
    assert (await engine.launch(an_order(), quiet)).phase is Phase.READY


async def test_free_places_are_counted_up_to_a_number(open_engine: OpenEngine, open_sim: OpenSim):
    engine = open_engine(open_sim(hosts=[{"name": "a", "servers": 3}]))
    await engine.launch(an_order(), quiet)

    assert await engine.free_places("sim", Resources()) == 2
    assert await engine.free_places("sim", Resources(), most=1) == 1
    assert await engine.free_places("none", Resources()) is None


async def test_nobody_can_tell_what_a_silent_provider_has_free(engine: Engine, sim: SimProvider):
    sim.faults(unavailable=True)

    assert await engine.free_places("sim", Resources()) is None


async def test_starts_and_ready_times_are_counted(engine: Engine, sim: SimProvider):
    from prometheus_client import REGISTRY

    labels = {"provider": "sim", "profile": "metrics/starts"}
    sim.faults(fail_at="boot", fail_kind="permanent")
    with pytest.raises(SetupError):
        await engine.launch(an_order(profile="metrics/starts"), quiet)
    sim.faults()
    await engine.launch(an_order(profile="metrics/starts"), quiet)

    def value(name: str, **more: str) -> float | None:
        return REGISTRY.get_sample_value(name, {**labels, **more})

    assert value("labspawner_starts_total", outcome="ready", stage="ready") == 1
    assert value("labspawner_starts_total", outcome="setup", stage="launching") == 1
    assert value("labspawner_time_to_ready_seconds_count") == 1
    assert value("labspawner_leases", phase="ready") == 1
    await engine.stop("student1", "")
    assert value("labspawner_leases", phase="ready") == 0


async def test_a_server_is_not_called_gone_by_a_listing_that_is_older_than_it(open_engine: OpenEngine):
    provider, slow, entered = Scripted(), asyncio.Event(), asyncio.Event()
    engine = open_engine(provider, observe_interval_s=3600.0)
    other = await engine.launch(an_order(user="student2"), quiet)

    async def everything_is_gone() -> Any:
        entered.set()
        await slow.wait()
        return dict.fromkeys([other.id, *provider.things], ServerState.GONE)

    provider.on_observe = everything_is_gone
    polled = asyncio.create_task(engine.is_running("student2", ""))
    await entered.wait()
    await engine.launch(an_order(), quiet)
    slow.set()

    assert await polled is False
    assert await engine.is_running("student1", "")


def test_an_order_never_shows_its_environment():
    assert "not-a-secret" not in repr(an_order())
    assert isinstance(an_order(), Order)
