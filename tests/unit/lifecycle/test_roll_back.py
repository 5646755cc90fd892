"""A start that fails or is cancelled, at any stage and more than once, leaves nothing."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from labspawner.errors import LabError, ProviderUnavailable, SetupError, StartFailed, StoreUnavailable
from labspawner.lifecycle import Engine
from labspawner.model import Ending, Handle, Phase, ReleaseMode
from labspawner.providers.sim import SimProvider
from labspawner.sentences import Sentence
from labspawner.store import Store
from labspawner.testing.waiting import eventually

from .conftest import OpenEngine, Scripted, an_order, launching, nothing_is_left, quiet, reaches

STAGES = ["reserve", "create", "boot"]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("kind", "error"), [("transient", ProviderUnavailable), ("permanent", SetupError), ("crash", StartFailed)]
)
async def test_failing_at_any_stage_leaves_nothing_and_says_why_next_time(
    engine: Engine, sim: SimProvider, store: Store, stage: str, kind: str, error: type[LabError]
):
    sim.faults(fail_at=stage, fail_kind=kind)

    with pytest.raises(error) as failed:
        await engine.launch(an_order(), quiet)

    await nothing_is_left(engine, sim)
    notice = engine.notice("student1", "")
    assert notice is not None
    assert (notice.ending.by, notice.ending.reason) == ("failure", failed.value.message)


@pytest.mark.parametrize("stage", STAGES)
async def test_cancelling_at_any_stage_leaves_nothing(engine: Engine, sim: SimProvider, stage: str):
    sim.faults(stall_at=stage)
    with launching(engine, an_order()) as start:
        await eventually(lambda: [lease.handle for lease in engine.book.all() if lease.handle is not None])

        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start

    await nothing_is_left(engine, sim)
    assert engine.notice("student1", "") is None


@pytest.mark.parametrize("stage", STAGES)
async def test_a_stop_at_any_stage_returns_when_nothing_is_left(engine: Engine, sim: SimProvider, stage: str):
    sim.faults(stall_at=stage)
    with launching(engine, an_order()) as start:
        await eventually(lambda: [lease.handle for lease in engine.book.all() if lease.handle is not None])

        await engine.stop("student1", "")

        await nothing_is_left(engine, sim)
        with pytest.raises(StartFailed):
            await start


async def test_ending_a_lease_that_is_being_launched_ends_its_start(engine: Engine, sim: SimProvider):
    sim.faults(stall_at="boot")
    with launching(engine, an_order()) as start:
        lease = await reaches(engine, Phase.LAUNCHING)

        await engine.end(lease.id, Ending(by="admin", reason=Sentence("enough")), ReleaseMode.DESTROY)

        with pytest.raises(StartFailed):
            await start
    await nothing_is_left(engine, sim)


async def test_cancelled_at_each_turn_of_the_event_loop_nothing_is_left(open_engine: OpenEngine, store: Store):
    """However far the start came: not begun, row written, admitted, launching, just ready."""
    provider = Scripted(places=1)
    engine = open_engine(provider)
    await engine.start()
    seen = set()
    for turns in range(0, 400, 3):
        task = asyncio.create_task(engine.launch(an_order(), quiet))
        for _ in range(turns):
            await asyncio.sleep(0)
        seen.update(lease.phase for lease in engine.book.all())
        task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(outcome, asyncio.CancelledError):
            await nothing_is_left(engine, provider)
        else:
            await engine.stop("student1", "")
        assert await store.live("hub") == []
    assert seen


async def test_a_cancellation_while_the_row_is_written_takes_it_back(engine: Engine, store: Store):
    await engine.start()
    inner, entered = engine.book._store, asyncio.Event()

    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(inner, name)

        async def add(self, lease: Any) -> None:
            entered.set()
            await inner.add(lease)

    engine.book._store = Slow()  # type: ignore[assignment]
    with launching(engine, an_order()) as start:
        await entered.wait()

        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start

    await nothing_is_left(engine)
    assert await store.live("hub") == []


async def test_a_second_cancellation_does_not_stop_the_roll_back(open_engine: OpenEngine):
    provider, go_on, releasing = Scripted(), asyncio.Event(), asyncio.Event()

    async def hangs(request: Any) -> Any:
        async for event in provider.plain_launch(request):
            yield event
            await asyncio.Event().wait()

    async def slow_release(_handle: Handle, _mode: ReleaseMode) -> None:
        releasing.set()
        await go_on.wait()

    provider.on_launch, provider.on_release = hangs, slow_release
    engine = open_engine(provider)
    with launching(engine, an_order()) as start:
        lease = await reaches(engine, Phase.LAUNCHING)
        await eventually(lambda: engine.book.get(lease.id).handle)  # type: ignore[union-attr]
        start.cancel()
        await releasing.wait()

        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start

        assert engine.book.all()[0].phase is Phase.STOPPING
        assert await engine.is_running("student1", "")  # nobody interferes meanwhile
        go_on.set()
        await eventually(lambda: engine.book.all() == [])
    await eventually(lambda: engine._launcher.starts.busy() == set())
    await nothing_is_left(engine, provider)


async def test_what_the_culler_wrote_against_a_start_that_hangs_is_what_the_student_reads(
    engine: Engine, sim: SimProvider, store: Store
):
    sim.faults(stall_at="boot")
    stuck = Ending(by="culler", reason=Sentence("it was starting for {span}", span="2 h"))
    with launching(engine, an_order()) as start:
        lease = await reaches(engine, Phase.LAUNCHING)
        await store.intend(lease.id, stuck, ReleaseMode.STOP)

        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start

    notice = engine.notice("student1", "")
    assert notice is not None
    assert notice.ending == stuck
    await nothing_is_left(engine, sim)


async def test_what_the_culler_wrote_is_forgotten_when_the_start_succeeds(
    engine: Engine, sim: SimProvider, store: Store
):
    sim.faults(stall_at="boot")
    with launching(engine, an_order()) as start:
        lease = await reaches(engine, Phase.LAUNCHING)
        await store.intend(lease.id, Ending(by="culler", reason=Sentence("stuck")), ReleaseMode.STOP)

        sim.faults()
        assert (await start).ending is None

    await engine.stop("student1", "")
    assert engine.notice("student1", "") is None


async def test_a_roll_back_that_fails_stays_on_record_and_is_tried_again(
    engine: Engine, sim: SimProvider, store: Store
):
    sim.faults(fail_at="boot", leaks=True, release_fails=True)
    with pytest.raises(StartFailed):
        await engine.launch(an_order(), quiet)
    (lease,) = engine.book.all()
    assert (lease.phase, lease.attempts) == (Phase.STOPPING, 1)
    assert len(await sim.owned()) == 1
    await engine.reconciler.pass_once()
    assert engine.book.all()[0].attempts >= 2

    sim.faults()
    await engine.reconciler.pass_once()

    await nothing_is_left(engine, sim)
    ended = await store.get(lease.id)
    assert ended is not None
    assert ended.ending is not None
    assert ended.ending.by == "failure"


async def test_a_store_that_fails_before_the_row_leaves_nothing_and_says_so(engine: Engine, sim: SimProvider):
    await engine.start()
    inner = engine.book._store

    class Down:
        def __getattr__(self, name: str) -> Any:
            return getattr(inner, name)

        async def add(self, lease: Any) -> None:
            raise StoreUnavailable(Sentence("The database does not answer."))

    engine.book._store = Down()  # type: ignore[assignment]

    with pytest.raises(StoreUnavailable):
        await engine.launch(an_order(), quiet)

    await nothing_is_left(engine, sim)


async def test_a_row_whose_write_seemed_to_fail_is_found_and_ended(engine: Engine, sim: SimProvider, store: Store):
    """Which pass of the reconciler finds it does not matter: its own may come before the one asked for here."""
    await engine.start()
    inner, written = engine.book._store, []

    class BreaksWhileCommitting:
        def __getattr__(self, name: str) -> Any:
            return getattr(inner, name)

        async def add(self, lease: Any) -> None:
            await inner.add(lease)
            written.append(lease.id)
            raise StoreUnavailable(Sentence("The database does not answer."))

    engine.book._store = BreaksWhileCommitting()  # type: ignore[assignment]
    with pytest.raises(StoreUnavailable):
        await engine.launch(an_order(), quiet)
    engine.book._store = inner

    await engine.reconciler.pass_once()

    (row,) = [await store.get(lease_id) for lease_id in written]
    assert row is not None
    assert row.phase is Phase.ENDED
    assert (await engine.launch(an_order(), quiet)).phase is Phase.READY


@pytest.mark.parametrize("failing", [Phase.LAUNCHING, "handle", Phase.READY])
async def test_a_store_that_fails_in_the_middle_leaves_nothing_once_it_is_back(
    engine: Engine, sim: SimProvider, failing: Any
):
    await engine.start()
    inner, down = engine.book._store, [True]

    class Down:
        def __getattr__(self, name: str) -> Any:
            return getattr(inner, name)

        async def update(self, lease_id: Any, **changes: Any) -> Any:
            if down[0] and (changes.get("phase") is failing or failing in changes):
                raise StoreUnavailable(Sentence("The database does not answer."))
            return await inner.update(lease_id, **changes)

    engine.book._store = Down()  # type: ignore[assignment]

    with pytest.raises(StoreUnavailable):
        await engine.launch(an_order(), quiet)

    await nothing_is_left(engine, sim)
    down[0] = False
    assert (await engine.launch(an_order(), quiet)).phase is Phase.READY


async def test_a_failed_start_is_told_to_the_caller_and_not_logged_beside_it(
    engine: Engine, sim: SimProvider, caplog: pytest.LogCaptureFixture
):
    sim.faults(fail_at="boot", fail_kind="permanent")

    with pytest.raises(SetupError):
        await engine.launch(an_order(), quiet)

    ours = [record for record in caplog.records if record.name.startswith("labspawner.lifecycle")]
    assert [record for record in ours if record.levelno > logging.INFO] == []


async def test_closing_the_engine_rolls_back_what_is_starting(open_engine: OpenEngine, sim: SimProvider, store: Store):
    engine = open_engine(sim)
    sim.faults(stall_at="boot")
    with launching(engine, an_order()) as start:
        await reaches(engine, Phase.LAUNCHING)

        await engine.close()

        with pytest.raises(StartFailed):
            await start
    assert await store.live("hub") == []
