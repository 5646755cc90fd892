"""A hub that dies at any phase, and the one that comes after: a new engine on the same store and the same world."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from labspawner.errors import StartFailed, StoreUnavailable, UnknownLease
from labspawner.lifecycle import Engine
from labspawner.model import Ending, Feature, Phase, ReleaseMode
from labspawner.reconciler import INTERRUPTED, Rules
from labspawner.sentences import Sentence
from labspawner.store import Store
from labspawner.testing.waiting import eventually

from .conftest import Clock, OpenEngine, OpenSim, Scripted, a_variant, an_order, nothing_is_left, quiet

IDLE = Ending(by="culler", reason=Sentence("idle for {idle}", idle="40 min"))
AT_ONCE = Rules(orphan_grace=Rules().orphan_grace * 0, forgotten_grace=Rules().forgotten_grace * 0)


class Killed(Exception):
    """The hub is gone; nothing of it runs any more."""


async def a_hub_dies(engine: Engine, store: Store, phase: Phase, **order: Any) -> None:
    """Start a server with `engine` and leave it in `phase`, as a kill would: its last write is the last."""
    await engine.launch(an_order(**order), quiet)
    (lease,) = await store.live("hub")
    await store.update(lease.id, phase=phase, ready_at=None, ending=IDLE if phase is Phase.STOPPING else None)


@pytest.mark.parametrize("phase", [Phase.QUEUED, Phase.LAUNCHING])
async def test_an_interrupted_start_is_rolled_back_and_the_student_is_told(
    open_engine: OpenEngine, store: Store, phase: Phase
):
    provider = Scripted()
    await a_hub_dies(open_engine(provider), store, phase)

    after = open_engine(provider)
    await after.start()

    await eventually(lambda: after.book.all() == [])
    assert provider.things == {}
    notice = after.notice("student1", "")
    assert notice is not None
    assert notice.ending.reason == INTERRUPTED
    assert await after.is_running("student1", "") is False


async def test_interrupted_starts_are_rolled_back_however_many_there_are(open_engine: OpenEngine, store: Store):
    provider = Scripted()
    before = open_engine(provider)
    for number in range(12):
        lease = await before.launch(an_order(user=f"s{number}"), quiet)
        await store.update(lease.id, phase=Phase.LAUNCHING, ready_at=None)

    after = open_engine(provider)
    await after.start()

    await eventually(lambda: after.book.all() == [])
    assert provider.things == {}


async def test_a_ready_server_is_adopted_and_keeps_its_room(open_engine: OpenEngine, open_sim: OpenSim):
    hosts = [{"name": "a", "servers": 1}]
    before = open_engine(open_sim(hosts=hosts))
    lease = await before.launch(an_order(), quiet)
    await before.close()

    after = open_engine(open_sim(hosts=hosts))

    assert await after.is_running("student1", "")
    assert after.book.all() == [lease]
    assert await after.free_places("sim", a_variant().resources) == 0
    await after.reconciler.pass_once()
    await after.reconciler.pass_once()
    assert after.book.all() == [lease]
    await after.stop("student1", "")
    assert await after.free_places("sim", a_variant().resources) == 1


async def test_a_stop_that_was_interrupted_is_finished_with_its_reason(open_engine: OpenEngine, store: Store):
    provider = Scripted()
    await a_hub_dies(open_engine(provider), store, Phase.STOPPING)

    after = open_engine(provider)
    await after.start()

    await eventually(lambda: after.book.all() == [])
    assert provider.things == {}
    notice = after.notice("student1", "")
    assert notice is not None
    assert notice.ending == IDLE


async def test_a_parked_server_is_kept_and_resumed_by_the_next_hub(open_engine: OpenEngine):
    provider = Scripted(features=[Feature.PARK])
    before = open_engine(provider)
    lease = await before.launch(an_order(), quiet)
    await before.stop("student1", "")

    after = open_engine(provider)
    await after.start()
    await after.reconciler.pass_once()
    assert provider.things == {lease.id: "parked"}

    assert (await after.launch(an_order(), quiet)).id == lease.id


@pytest.mark.parametrize("action", ["stop", "hibernate"])
async def test_a_resume_that_was_interrupted_is_parked_again(open_engine: OpenEngine, store: Store, action: str):
    provider = Scripted(features=[Feature.PARK, Feature.HIBERNATE])
    before = open_engine(provider)
    order = an_order(pinned={"cull": {"action": action}})
    lease = await before.launch(order, quiet)
    await before.stop("student1", "")
    await store.update(lease.id, phase=Phase.LAUNCHING)

    after = open_engine(provider)
    await after.start()

    await eventually(lambda: [found.phase for found in after.book.all()] == [Phase.PARKED])
    assert provider.things == {lease.id: "parked"}
    assert (await after.launch(order, quiet)).id == lease.id


async def test_who_waited_in_line_holds_nothing_after_a_restart(
    open_engine: OpenEngine, open_sim: OpenSim, store: Store
):
    hosts = [{"name": "a", "servers": 1}]
    sim = open_sim(hosts=hosts)
    await a_hub_dies(open_engine(sim), store, Phase.QUEUED)
    sim.faults(unavailable=True)

    after = open_engine(sim)
    await after.start()

    assert after._admission._promised == {}


# -- what is read afterwards, by the next hub too


@pytest.mark.parametrize("features", [[], [Feature.PARK]], ids=["ended", "parked"])
async def test_a_notice_is_read_by_its_student_only_and_outlives_the_hub(
    open_engine: OpenEngine, store: Store, clock: Clock, features: list[Feature]
):
    provider = Scripted(features=features)
    before = open_engine(provider)
    lease = await before.launch(an_order(pinned={"title": {"en": "Base"}}), quiet)
    await store.intend(lease.id, IDLE, ReleaseMode.STOP)
    await before.stop("student1", "")

    after = open_engine(provider)
    await after.start()

    for engine in (before, after):
        notice = engine.notice("student1", "")
        assert notice is not None
        assert (notice.ending, notice.profile_title, notice.at) == (IDLE, {"en": "Base"}, clock.now)
        assert engine.notice("student2", "") is None
        assert engine.notice("student1", "other") is None


async def test_a_notice_without_a_title_names_the_profile(open_engine: OpenEngine, store: Store):
    engine = open_engine(Scripted())
    lease = await engine.launch(an_order(), quiet)
    await store.intend(lease.id, IDLE, ReleaseMode.STOP)

    await engine.stop("student1", "")

    notice = engine.notice("student1", "")
    assert notice is not None
    assert notice.profile_title == {"en": "py101/base"}


async def test_only_the_last_ending_counts_after_a_restart(open_engine: OpenEngine, store: Store, clock: Clock):
    provider = Scripted(features=[Feature.PARK])
    before = open_engine(provider)
    for profile, ending in (("c/a", IDLE), ("c/b", None)):
        lease = await before.launch(an_order(profile=profile), quiet)
        if ending:
            await store.intend(lease.id, ending, ReleaseMode.STOP)
        await before.stop("student1", "")
        clock.forward(minutes=1)

    after = open_engine(provider)
    await after.start()

    assert before.notice("student1", "") is None
    assert after.notice("student1", "") is None


@pytest.mark.parametrize("days", [29, 31])
async def test_a_notice_is_kept_for_thirty_days(open_engine: OpenEngine, store: Store, clock: Clock, days: int):
    provider = Scripted(features=[Feature.PARK])
    before = open_engine(provider)
    lease = await before.launch(an_order(), quiet)
    await store.intend(lease.id, IDLE, ReleaseMode.STOP)
    await before.stop("student1", "")
    clock.forward(days=days)

    after = open_engine(provider)
    await after.start()

    assert (after.notice("student1", "") is None) == (days > 30)


async def test_a_new_start_takes_the_notice_away(open_engine: OpenEngine, store: Store):
    engine = open_engine(Scripted())
    lease = await engine.launch(an_order(), quiet)
    await store.intend(lease.id, IDLE, ReleaseMode.STOP)
    await engine.stop("student1", "")
    assert engine.notice("student1", "") is not None

    await engine.launch(an_order(), quiet)

    assert engine.notice("student1", "") is None


async def test_the_end_of_a_parked_server_is_no_news_while_another_runs(
    open_engine: OpenEngine, store: Store, clock: Clock
):
    provider = Scripted(features=[Feature.PARK])
    engine = open_engine(provider)
    await engine.launch(an_order(profile="c/a", pinned={"cull": {"action": "stop", "retain_s": 60.0}}), quiet)
    await engine.stop("student1", "")
    running = await engine.launch(an_order(profile="c/b"), quiet)
    clock.forward(minutes=2)

    await engine.reconciler.pass_once()

    assert engine.book.all() == [running]
    assert engine.notice("student1", "") is None
    assert provider.things == {running.id: "runs"}


# -- the reconciler with real leases


async def test_what_was_parked_for_too_long_is_destroyed_and_said(open_engine: OpenEngine, clock: Clock):
    provider = Scripted(features=[Feature.PARK])
    engine = open_engine(provider)
    await engine.launch(an_order(pinned={"cull": {"action": "stop", "retain_s": 3600.0}}), quiet)
    await engine.stop("student1", "")
    await engine.reconciler.pass_once()
    assert len(engine.book.all()) == 1
    clock.forward(hours=1)

    await engine.reconciler.pass_once()

    await nothing_is_left(engine, provider)
    notice = engine.notice("student1", "")
    assert notice is not None
    assert "parked for longer" in notice.ending.reason


async def test_what_was_resumed_since_the_reconciler_looked_is_left_alone(open_engine: OpenEngine, clock: Clock):
    provider = Scripted(features=[Feature.PARK])
    engine = open_engine(provider)
    order = an_order(pinned={"cull": {"action": "stop", "retain_s": 3600.0}})
    await engine.launch(order, quiet)
    await engine.stop("student1", "")
    clock.forward(hours=2)
    (parked,) = engine.book.all()
    resumed = await engine.launch(order, quiet)

    done = await engine._end_for_reconciler(
        parked, Ending(by="reconciler", reason=Sentence("too late")), ReleaseMode.DESTROY
    )

    assert done is False
    assert provider.things == {resumed.id: "runs"}


async def test_a_lease_that_is_being_worked_on_is_left_to_whoever_does(open_engine: OpenEngine):
    provider, go_on = Scripted(), asyncio.Event()
    engine = open_engine(provider)
    lease = await engine.launch(an_order(), quiet)

    async def slow(_handle: Any, _mode: Any) -> None:
        await go_on.wait()

    provider.on_release = slow
    stop = asyncio.create_task(engine.stop("student1", ""))
    await eventually(lambda: engine.book.all()[0].phase is Phase.STOPPING)

    assert await engine._end_for_reconciler(lease, IDLE, ReleaseMode.DESTROY) is False
    go_on.set()
    await stop
    assert len(provider.released) == 1


async def test_a_server_that_the_hub_forgot_is_stopped_after_a_second_look(open_engine: OpenEngine):
    provider, servers = Scripted(), {("student1", ""), ("student2", "")}
    engine = open_engine(provider, servers=lambda: servers, rules=AT_ONCE)
    await engine.launch(an_order(), quiet)
    kept = await engine.launch(an_order(user="student2"), quiet)
    servers.discard(("student1", ""))

    await engine.reconciler.look_twice(dry_run=False)

    assert engine.book.all() == [kept]
    assert set(provider.things) == {kept.id}


async def test_a_dry_run_changes_nothing_and_says_what_it_would_do(open_engine: OpenEngine, store: Store):
    from labspawner.naming import new_lease_id

    provider = Scripted()
    engine = open_engine(provider, servers=set, rules=AT_ONCE)
    lease = await engine.launch(an_order(), quiet)
    orphan = new_lease_id()
    provider.things[orphan] = "runs"
    suspects = dict(engine.reconciler.suspects)

    todo = await engine.reconciler.look_twice(dry_run=True)

    assert {action.kind for action in todo.actions} == {"forgotten", "orphan"}
    assert provider.released == []
    assert engine.book.all() == [lease] == await store.live("hub")
    assert engine.reconciler.suspects == suspects


async def test_a_command_beside_the_hub_leaves_alone_what_the_hub_may_work_on(open_engine: OpenEngine, store: Store):
    provider = Scripted()
    await a_hub_dies(open_engine(provider), store, Phase.LAUNCHING)
    beside = open_engine(provider)

    await beside.open(left_alone=lambda lease: lease.phase is Phase.LAUNCHING)
    todo = await beside.reconciler.look_twice(dry_run=False)

    assert todo.actions == ()
    assert len(provider.things) == 1


async def test_an_engine_whose_database_does_not_answer_starts_when_it_does(open_engine: OpenEngine):
    engine = open_engine(Scripted())
    inner = engine._store

    class Down:
        def __getattr__(self, name: str) -> Any:
            return getattr(inner, name)

        async def migrate(self) -> None:
            raise StoreUnavailable(Sentence("The database does not answer."))

    engine._store = Down()  # type: ignore[assignment]
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await engine.launch(an_order(), quiet)
    engine._store = inner

    assert (await engine.launch(an_order(), quiet)).phase is Phase.READY


async def test_an_engine_that_cannot_start_for_another_reason_says_a_sentence(open_engine: OpenEngine):
    engine = open_engine(Scripted())
    inner = engine._store

    class Broken:
        def __getattr__(self, name: str) -> Any:
            return getattr(inner, name)

        async def migrate(self) -> None:
            raise Killed("10.0.0.1")

    engine._store = Broken()  # type: ignore[assignment]

    with pytest.raises(StoreUnavailable) as failed:
        await engine.launch(an_order(), quiet)

    assert "10.0.0.1" not in failed.value.message + str(failed.value)


async def test_an_engine_closes_though_releases_hang(open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch):
    from labspawner.lifecycle import engine as engine_room

    monkeypatch.setattr(engine_room, "CLOSE_S", 0.05)
    provider = Scripted()
    engine = open_engine(provider)
    await engine.launch(an_order(), quiet)

    async def hangs(_handle: Any, _mode: Any) -> None:
        await asyncio.Event().wait()

    provider.on_release = hangs
    stop = asyncio.create_task(engine.stop("student1", ""))
    await eventually(lambda: engine.book.all()[0].phase is Phase.STOPPING)

    await asyncio.wait_for(engine.close(), 60)

    await stop
    provider.on_release = None
    after = open_engine(provider)
    await after.start()
    await eventually(lambda: after.book.all() == [])


async def test_an_engine_closes_though_a_roll_back_hangs(open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch):
    from labspawner.lifecycle import engine as engine_room

    monkeypatch.setattr(engine_room, "CLOSE_S", 0.05)
    provider = Scripted()

    async def hangs(*_args: Any) -> None:
        await asyncio.Event().wait()

    async def half(request: Any) -> Any:
        async for event in provider.plain_launch(request):
            yield event
            await asyncio.Event().wait()

    provider.on_launch, provider.on_release = half, hangs
    engine = open_engine(provider)
    start = asyncio.create_task(engine.launch(an_order(), quiet))
    await eventually(lambda: [lease for lease in engine.book.all() if lease.handle])

    await asyncio.wait_for(engine.close(), 60)

    with pytest.raises(StartFailed):
        await start


async def test_what_is_parked_is_destroyed_when_its_owner_wants_it_gone_and_what_runs_is_not(open_engine: OpenEngine):
    provider = Scripted(features=[Feature.PARK])
    engine = open_engine(provider)
    lease = await engine.launch(an_order(), quiet)

    with pytest.raises(UnknownLease):
        await engine.discard(lease.id)
    assert provider.things == {lease.id: "runs"}

    await engine.stop("student1", "")
    await engine.discard(lease.id)

    assert provider.things == {}
    assert engine.book.all() == []
    with pytest.raises(UnknownLease):
        await engine.discard(lease.id)
