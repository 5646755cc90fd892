"""Poll, stop and what the student reads afterwards."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from labspawner.culling import Cull, CullPolicy, ServerView, decide
from labspawner.errors import LabError, StoreUnavailable
from labspawner.lifecycle import Engine
from labspawner.model import Ending, Feature, Handle, Phase, ReleaseMode, ServerState
from labspawner.providers.sim import SimProvider
from labspawner.sentences import Sentence
from labspawner.store import Store
from labspawner.testing.waiting import eventually

from .conftest import Clock, OpenEngine, OpenSim, Scripted, an_order, nothing_is_left, quiet

IDLE = Ending(by="culler", reason=Sentence("idle for {idle}", idle="40 min"))


# -- poll


async def test_a_server_nobody_started_is_not_running(engine: Engine):
    assert await engine.is_running("nobody", "") is False


async def test_a_server_that_is_starting_or_stopping_counts_as_running(open_engine: OpenEngine):
    provider, go_on, releasing = Scripted(), asyncio.Event(), asyncio.Event()
    engine = open_engine(provider)
    await engine.launch(an_order(), quiet)

    async def slow(_handle: Handle, _mode: ReleaseMode) -> None:
        releasing.set()
        await go_on.wait()

    provider.on_release = slow
    again = asyncio.create_task(engine.launch(an_order(), quiet))
    await releasing.wait()

    assert await engine.is_running("student1", "")  # the old one stops, the new one has no lease yet
    go_on.set()
    await again


async def test_while_nobody_can_tell_a_server_runs_for_the_grace_and_then_it_does_not(
    engine: Engine, sim: SimProvider, clock: Clock, caplog: pytest.LogCaptureFixture
):
    lease = await engine.launch(an_order(), quiet)
    sim.faults(unavailable=True)

    clock.forward(seconds=900)
    assert await engine.is_running("student1", "")
    clock.forward(seconds=1)
    assert await engine.is_running("student1", "") is False

    assert engine.book.all() == [lease]
    assert "the hub is told it does not" in caplog.text
    sim.faults()
    assert await engine.is_running("student1", "")


async def test_the_grace_begins_anew_whenever_the_server_is_seen(engine: Engine, sim: SimProvider, clock: Clock):
    await engine.launch(an_order(), quiet)
    clock.forward(seconds=800)
    assert await engine.is_running("student1", "")

    sim.faults(unavailable=True)
    clock.forward(seconds=800)

    assert await engine.is_running("student1", "")


@pytest.mark.parametrize("way", ["raises", "hangs", "forgets"])
async def test_a_provider_that_breaks_observe_counts_as_unknown(
    open_engine: OpenEngine, clock: Clock, way: str, caplog: pytest.LogCaptureFixture
):
    provider = Scripted()
    engine = open_engine(provider)
    engine._observer._patience_s = engine._observer._listing_s = 0.02
    await engine.launch(an_order(), quiet)
    assert await engine.is_running("student1", "")

    async def broken() -> Any:
        if way == "raises":
            raise KeyError("boom")
        if way == "hangs":
            await asyncio.Event().wait()
        return {}

    provider.on_observe = broken

    assert await engine.is_running("student1", "")
    clock.forward(seconds=901)
    assert await engine.is_running("student1", "") is False
    assert engine.book.all()[0].phase is Phase.READY
    assert ("broke its contract" in caplog.text) == (way == "raises")


async def test_one_listing_answers_all_polls_of_an_interval(open_engine: OpenEngine):
    provider = Scripted()
    engine = open_engine(provider, observe_interval_s=3600.0)
    users = [f"s{number}" for number in range(20)]
    for user in users:
        await engine.launch(an_order(user=user), quiet)
    await eventually(lambda: engine.reconciler.braked == 0)
    before = provider.observed

    answers = await asyncio.gather(*(engine.is_running(user, "") for user in users * 3))

    assert all(answers)
    assert provider.observed == before + 1


async def test_a_server_that_is_gone_is_not_running_and_is_cleaned_up(engine: Engine, sim: SimProvider):
    sim.faults(die_after_ready_s=0.0)
    await engine.launch(an_order(), quiet)

    assert await engine.is_running("student1", "") is False

    await eventually(lambda: engine.book.all() == [])
    await nothing_is_left(engine, sim)
    notice = engine.notice("student1", "")
    assert notice is not None
    assert "stopped by itself" in notice.ending.reason


async def test_a_server_seen_gone_by_poll_and_reconciler_at_once_is_released_once(open_engine: OpenEngine):
    provider = Scripted()
    engine = open_engine(provider)
    await engine.launch(an_order(), quiet)
    await engine.reconciler.pass_once()
    provider.things.clear()
    await engine.reconciler.pass_once()

    await asyncio.gather(
        engine.reconciler.pass_once(),
        *(engine.is_running("student1", "") for _ in range(3)),
        engine.stop("student1", ""),
    )

    await eventually(lambda: engine.book.all() == [])
    assert len(provider.released) == 1


async def test_a_server_replaced_while_it_was_being_observed_is_judged_anew(open_engine: OpenEngine):
    provider, answer, asked = Scripted(), asyncio.Event(), asyncio.Event()
    engine = open_engine(provider)
    old = await engine.launch(an_order(), quiet)

    async def slow() -> Any:
        asked.set()
        await answer.wait()
        provider.on_observe = None
        return {old.id: ServerState.GONE}

    provider.on_observe = slow
    poll = asyncio.create_task(engine.is_running("student1", ""))
    await asked.wait()
    new = await engine.launch(an_order(), quiet)
    answer.set()

    assert await poll
    assert engine.book.all() == [new]


# -- stop


async def test_a_stop_by_the_student_leaves_nothing_and_no_notice(engine: Engine, sim: SimProvider, store: Store):
    lease = await engine.launch(an_order(), quiet)

    await engine.stop("student1", "")

    await nothing_is_left(engine, sim)
    assert engine.notice("student1", "") is None
    ended = await store.get(lease.id)
    assert ended is not None
    assert ended.ending == Ending(by="user", reason=Sentence("It was stopped by hand."))
    await engine.stop("student1", "")


async def test_a_stop_by_the_culler_carries_its_reason_and_its_mode(engine: Engine, sim: SimProvider, store: Store):
    lease = await engine.launch(an_order(pinned={"title": {"en": "Base", "zh-CN": "基础"}}), quiet)
    await store.intend(lease.id, IDLE, ReleaseMode.DESTROY)

    await engine.stop("student1", "")

    notice = engine.notice("student1", "")
    assert notice is not None
    assert (notice.ending, notice.profile_title["zh-CN"]) == (IDLE, "基础")
    ended = await store.get(lease.id)
    assert ended is not None
    assert ended.release_mode is ReleaseMode.DESTROY


async def test_the_reason_of_the_culler_outlives_releases_that_fail(engine: Engine, sim: SimProvider, store: Store):
    lease = await engine.launch(an_order(), quiet)
    await store.intend(lease.id, IDLE, ReleaseMode.STOP)
    sim.faults(release_fails=True)
    await engine.stop("student1", "")

    await engine.stop("student1", "")
    sim.faults()
    await engine.reconciler.pass_once()

    notice = engine.notice("student1", "")
    assert notice is not None
    assert notice.ending == IDLE
    await nothing_is_left(engine, sim)


async def test_two_ends_at_once_are_one_release_with_the_first_reason(open_engine: OpenEngine, store: Store):
    provider = Scripted()
    engine = open_engine(provider)
    lease = await engine.launch(an_order(), quiet)
    first, second = IDLE, Ending(by="admin", reason=Sentence("no"))

    await asyncio.gather(
        engine.end(lease.id, first, ReleaseMode.STOP), engine.end(lease.id, second, ReleaseMode.HIBERNATE)
    )

    assert provider.released == [(lease.id, ReleaseMode.STOP)]
    ended = await store.get(lease.id)
    assert ended is not None
    assert ended.ending == first


async def test_ending_what_has_ended_is_nothing(engine: Engine):
    lease = await engine.launch(an_order(), quiet)
    await engine.stop("student1", "")

    await engine.end(lease.id, IDLE, ReleaseMode.STOP)

    assert engine.notice("student1", "") is None


async def test_a_store_that_is_down_during_a_stop_is_said_and_the_server_stays_on_record(
    engine: Engine, sim: SimProvider
):
    await engine.launch(an_order(), quiet)
    inner = engine.book._store

    class Down:
        def __getattr__(self, name: str) -> Any:
            raise StoreUnavailable(Sentence("The database does not answer."))

    engine.book._store = Down()  # type: ignore[assignment]
    with pytest.raises(LabError):
        await engine.stop("student1", "")
    engine.book._store = inner

    assert await engine.is_running("student1", "")
    await engine.stop("student1", "")
    await nothing_is_left(engine, sim)


async def test_a_store_that_is_down_when_a_release_is_over_makes_it_be_repeated(engine: Engine, sim: SimProvider):
    await engine.launch(an_order(), quiet)
    inner = engine.book._store

    class Down:
        def __getattr__(self, name: str) -> Any:
            return getattr(inner, name)

        async def update(self, lease_id: Any, **changes: Any) -> Any:
            if changes.get("phase") is Phase.ENDED:
                raise StoreUnavailable(Sentence("The database does not answer."))
            return await inner.update(lease_id, **changes)

    engine.book._store = Down()  # type: ignore[assignment]
    await engine.stop("student1", "")
    assert list(await sim.owned()) == []
    assert engine.book.all()[0].phase is Phase.STOPPING
    engine.book._store = inner

    await engine.reconciler.pass_once()

    await nothing_is_left(engine, sim)


async def test_what_an_administrator_ended_beside_the_hub_is_forgotten_by_the_hub(
    open_engine: OpenEngine, sim: SimProvider, open_sim: OpenSim
):
    hub, beside = open_engine(sim), open_engine(open_sim())
    lease = await hub.launch(an_order(), quiet)
    await beside.open()
    await beside.end(lease.id, Ending(by="hub", reason=Sentence("down")), ReleaseMode.STOP)

    assert await hub.is_running("student1", "") is False
    await eventually(lambda: hub.book.all() == [])

    await nothing_is_left(hub, sim)
    assert (await hub.launch(an_order(), quiet)).phase is Phase.READY


async def test_a_reconciler_pass_notices_what_was_ended_beside_the_hub(
    open_engine: OpenEngine, sim: SimProvider, open_sim: OpenSim
):
    hub, beside = open_engine(sim), open_engine(open_sim())
    lease = await hub.launch(an_order(), quiet)
    await beside.open()
    await beside.end(lease.id, Ending(by="hub", reason=Sentence("down")), ReleaseMode.STOP)

    await hub.reconciler.pass_once()

    await nothing_is_left(hub, sim)


async def test_culls_are_counted_by_what_the_culler_really_says(engine: Engine, store: Store, clock: Clock):
    from prometheus_client import REGISTRY

    policy = CullPolicy.from_pinned(
        {"cull": {"after_s": 60.0, "max_age_s": 7200.0, "action": "stop", "retain_s": None, "gpu_after_s": None}}
    )
    assert policy is not None
    for hours, cause in ((1, "idle"), (3, "max_age")):
        lease = await engine.launch(an_order(profile="metrics/culls"), quiet)
        started = clock.now
        clock.forward(hours=hours)
        view = ServerView(
            user="student1",
            server_name="",
            ready=True,
            pending=None,
            pending_since=None,
            started=started,
            last_activity=started,
            lease_id=lease.id,
        )
        verdict = decide(view, policy, clock.now)
        assert isinstance(verdict, Cull)
        assert verdict.cause == cause
        await store.intend(lease.id, Ending(by="culler", reason=verdict.reason), verdict.action)

        await engine.stop("student1", "")

        labels = {"provider": "sim", "profile": "metrics/culls", "reason": cause}
        assert REGISTRY.get_sample_value("labspawner_culls_total", labels) == 1


# -- parking


@pytest.fixture
def parking() -> Scripted:
    return Scripted(features=[Feature.PARK, Feature.HIBERNATE])


HIBERNATES = {"cull": {"action": "hibernate", "retain_s": 3600.0}}


@pytest.mark.parametrize("action", ["stop", "hibernate"])
async def test_a_stop_parks_and_the_next_start_resumes(open_engine: OpenEngine, parking: Scripted, action: str):
    engine, seen = open_engine(parking), []
    order = an_order(pinned={"cull": {"action": action}})
    first = await engine.launch(order, quiet)
    await engine.stop("student1", "")
    (parked,) = engine.book.all()
    assert (parked.phase, parking.things) == (Phase.PARKED, {first.id: "parked"})
    assert engine._admission._promised == {}
    assert await engine.is_running("student1", "") is False
    plain = parking.on_launch

    def noting(request: Any) -> Any:
        seen.append(request.parked)
        return plain(request)

    parking.on_launch = noting

    second = await engine.launch(order, quiet)

    assert (second.id, second.phase, seen) == (first.id, Phase.READY, [first.handle])
    assert second.ending is None


async def test_what_cannot_be_hibernated_is_stopped(open_engine: OpenEngine):
    provider = Scripted(features=[Feature.PARK])
    engine = open_engine(provider)
    lease = await engine.launch(an_order(pinned=HIBERNATES), quiet)

    await engine.stop("student1", "")

    assert provider.released == [(lease.id, ReleaseMode.STOP)]
    assert engine.book.all()[0].phase is Phase.PARKED


async def test_a_provider_that_keeps_nothing_ends_the_lease(open_engine: OpenEngine):
    provider = Scripted()
    engine = open_engine(provider)
    await engine.launch(an_order(pinned=HIBERNATES), quiet)

    await engine.stop("student1", "")

    await nothing_is_left(engine, provider)


async def test_beside_a_parked_server_another_profile_starts_and_the_parked_one_stays(
    open_engine: OpenEngine, parking: Scripted
):
    engine = open_engine(parking)
    a = await engine.launch(an_order(profile="c/a"), quiet)
    await engine.stop("student1", "")

    b = await engine.launch(an_order(profile="c/b"), quiet)

    assert b.id != a.id
    assert {lease.id: lease.phase for lease in engine.book.all()} == {a.id: Phase.PARKED, b.id: Phase.READY}
    assert engine.book.active("student1", "") == b
    await engine.stop("student1", "")
    assert (await engine.launch(an_order(profile="c/a"), quiet)).id == a.id
    assert {lease.id: lease.phase for lease in engine.book.all()} == {a.id: Phase.READY, b.id: Phase.PARKED}


async def test_a_parked_server_is_resumed_by_its_own_provider_only(open_engine: OpenEngine, parking: Scripted):
    from .conftest import a_variant

    other = Scripted("other")
    engine = open_engine(parking, other)
    first = await engine.launch(an_order(), quiet)
    await engine.stop("student1", "")

    both = await engine.launch(an_order(variants=(a_variant("other"), a_variant("sim"))), quiet)
    assert (both.id, both.provider) == (first.id, "sim")
    await engine.stop("student1", "")
    elsewhere = await engine.launch(an_order(variants=(a_variant("other"),)), quiet)

    assert (elsewhere.id != first.id, elsewhere.provider) == (True, "other")


@pytest.mark.parametrize("action", ["stop", "hibernate"])
@pytest.mark.parametrize("way", ["fails", "is cancelled", "has no room"])
async def test_a_resume_that_comes_to_nothing_keeps_what_was_parked(
    open_engine: OpenEngine, parking: Scripted, action: str, way: str
):
    engine = open_engine(parking)
    order = an_order(pinned={"cull": {"action": action}})
    first = await engine.launch(order, quiet)
    await engine.stop("student1", "")
    asked = asyncio.Event()

    async def trouble(request: Any) -> Any:
        from labspawner.model import Checkpoint

        yield Checkpoint(parking.handle(request.lease_id))
        asked.set()
        if way == "is cancelled":
            await asyncio.Event().wait()
        raise KeyError("boom")

    parking.on_launch = trouble
    if way == "has no room":
        parking.places = 0
    task = asyncio.create_task(engine.launch(order, quiet))
    if way == "is cancelled":
        await asked.wait()
        task.cancel()
    (outcome,) = await asyncio.gather(task, return_exceptions=True)

    assert isinstance(outcome, (LabError, asyncio.CancelledError))
    assert parking.things == {first.id: "parked"}
    (lease,) = engine.book.all()
    assert (lease.id, lease.phase) == (first.id, Phase.PARKED)
    parking.on_launch, parking.places = parking.plain_launch, None
    assert (await engine.launch(order, quiet)).id == first.id


async def test_a_sim_that_hibernates_keeps_its_memory_when_a_resume_fails(engine: Engine, sim: SimProvider):
    order = an_order(pinned=HIBERNATES)
    first = await engine.launch(order, quiet)
    await engine.stop("student1", "")
    sim.faults(fail_at="boot")
    with pytest.raises(LabError):
        await engine.launch(order, quiet)
    sim.faults()

    assert [resource.lease_id for resource in await sim.owned()] == [first.id]
    assert (await engine.launch(order, quiet)).id == first.id


async def test_a_server_that_is_gone_is_parked_where_its_disk_is_left(open_engine: OpenEngine, parking: Scripted):
    engine = open_engine(parking)
    lease = await engine.launch(an_order(), quiet)
    parking.things[lease.id] = "shut down from inside"

    assert await engine.is_running("student1", "") is False

    await eventually(lambda: engine.book.all()[0].phase is Phase.PARKED)
    assert parking.things == {lease.id: "parked"}


async def test_a_server_deleted_for_good_leaves_nothing_parked_or_not(open_engine: OpenEngine, parking: Scripted):
    engine = open_engine(parking)
    await engine.launch(an_order(profile="c/a"), quiet)
    await engine.stop("student1", "")
    await engine.launch(an_order(profile="c/b"), quiet)

    await engine.forget("student1", "")

    await nothing_is_left(engine, parking)
    assert engine.notice("student1", "") is None


async def test_deleting_while_a_stop_parks_destroys_what_it_parked(open_engine: OpenEngine, parking: Scripted):
    engine, go_on, releasing = open_engine(parking), asyncio.Event(), asyncio.Event()
    await engine.launch(an_order(), quiet)

    async def slow(_handle: Handle, _mode: ReleaseMode) -> None:
        releasing.set()
        await go_on.wait()

    parking.on_release = slow
    stop = asyncio.create_task(engine.stop("student1", ""))
    await releasing.wait()
    forget = asyncio.create_task(engine.forget("student1", ""))
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(stop, forget)

    assert [mode for _, mode in parking.released] == [ReleaseMode.STOP, ReleaseMode.DESTROY]
    await nothing_is_left(engine, parking)


async def test_a_parked_server_whose_destruction_fails_is_not_resumed_and_tried_again(
    open_engine: OpenEngine, parking: Scripted
):
    engine = open_engine(parking)
    first = await engine.launch(an_order(), quiet)
    await engine.stop("student1", "")

    async def broken(_handle: Handle, mode: ReleaseMode) -> None:
        if mode is ReleaseMode.DESTROY and _handle.lease_id == first.id:
            raise KeyError("boom")

    parking.on_release = broken
    await engine.forget("student1", "")
    assert engine.book.all()[0].phase is Phase.PARKED
    second = await engine.launch(an_order(), quiet)
    assert second.id != first.id
    parking.on_release = None

    await engine.reconciler.pass_once()

    assert engine.book.all() == [second]
    assert parking.things == {second.id: "runs"}


async def test_ending_a_parked_server_without_destroying_it_changes_nothing(open_engine: OpenEngine, parking: Scripted):
    engine = open_engine(parking)
    lease = await engine.launch(an_order(), quiet)
    await engine.stop("student1", "")
    before = engine.book.all()

    await engine.end(lease.id, IDLE, ReleaseMode.STOP)

    assert engine.book.all() == before
