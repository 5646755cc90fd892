"""Providers that break their contract harm one server, for a while, and never the hub."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from labspawner.errors import LabError, StartFailed
from labspawner.lifecycle import launcher
from labspawner.model import Checkpoint, Ending, Event, Handle, LaunchRequest, LeaseId, Phase, Progress, Ready
from labspawner.model import ReleaseMode as Mode
from labspawner.sentences import Sentence
from labspawner.testing.waiting import eventually

from .conftest import OpenEngine, Scripted, a_variant, an_order, launching, nothing_is_left, quiet, reaches

BYE = Ending(by="admin", reason=Sentence("bye"))


@pytest.fixture
def provider() -> Scripted:
    return Scripted()


@pytest.fixture
def no_overrun(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test need not wait ten seconds for what an operator may."""
    monkeypatch.setattr(launcher, "OVERRUN_S", 0.0)


async def refused(open_engine: OpenEngine, provider: Scripted, script: Any, **variant: Any) -> LabError:
    """The error of a launch that runs `script`; nothing is left of it."""
    provider.on_launch = script
    engine = open_engine(provider)
    with pytest.raises(LabError) as failed:
        await engine.launch(an_order(variants=(a_variant(**variant),)), quiet)
    await nothing_is_left(engine, provider)
    return failed.value


async def test_a_launch_that_never_yields_ends_at_its_deadline(
    open_engine: OpenEngine, provider: Scripted, no_overrun: None
):
    async def silent(request: LaunchRequest) -> AsyncIterator[Event]:
        await asyncio.Event().wait()
        yield Ready("http://127.0.0.1:1")

    error = await refused(open_engine, provider, silent, ready_timeout_s=0.05)

    assert isinstance(error, StartFailed)
    assert "overran its own deadline" in str(error)


async def test_a_launch_that_ends_without_ready_is_a_failed_start(open_engine: OpenEngine, provider: Scripted):
    async def forgetful(request: LaunchRequest) -> AsyncIterator[Event]:
        yield Checkpoint(provider.handle(request.lease_id))
        provider.things[request.lease_id] = "runs"

    error = await refused(open_engine, provider, forgetful)

    assert "without Ready" in str(error)


async def test_ready_without_a_checkpoint_is_a_failed_start(open_engine: OpenEngine, provider: Scripted):
    async def untraceable(request: LaunchRequest) -> AsyncIterator[Event]:
        yield Ready("http://127.0.0.1:1")

    error = await refused(open_engine, provider, untraceable)

    assert "without a Checkpoint" in str(error)


async def test_a_checkpoint_of_another_lease_is_a_failed_start(open_engine: OpenEngine, provider: Scripted):
    async def confused(request: LaunchRequest) -> AsyncIterator[Event]:
        yield Checkpoint(provider.handle(LeaseId("lsomebodyelse")))

    error = await refused(open_engine, provider, confused)

    assert "not your fault" in error.message


@pytest.mark.parametrize("when", ["at once", "after a checkpoint", "synchronously"])
async def test_a_bug_is_hidden_from_the_student_and_shown_to_the_operator(
    open_engine: OpenEngine, provider: Scripted, when: str, caplog: pytest.LogCaptureFixture
):
    async def buggy(request: LaunchRequest) -> AsyncIterator[Event]:
        if when == "after a checkpoint":
            yield Checkpoint(provider.handle(request.lease_id))
            provider.things[request.lease_id] = "half"
        raise KeyError("secret-host")

    def worse(request: LaunchRequest) -> AsyncIterator[Event]:
        raise KeyError("secret-host")

    error = await refused(open_engine, provider, worse if when == "synchronously" else buggy)

    assert "secret-host" not in error.message + str(error)
    assert caplog.text.count("unexpected error in a start") == 1
    assert "secret-host" in caplog.text


async def test_what_follows_ready_is_not_asked_for(open_engine: OpenEngine, provider: Scripted):
    closed = []

    async def talkative(request: LaunchRequest) -> AsyncIterator[Event]:
        try:
            async for event in provider.plain_launch(request):
                yield event
            yield Ready("http://127.0.0.1:2")
            raise KeyError("after ready")
        finally:
            closed.append(True)

    provider.on_launch = talkative

    lease = await open_engine(provider).launch(an_order(), quiet)

    assert (lease.phase, lease.url, closed) == (Phase.READY, "http://127.0.0.1:1", [True])


async def test_a_launch_that_cannot_be_closed_after_ready_is_ready_all_the_same(
    open_engine: OpenEngine, provider: Scripted, caplog: pytest.LogCaptureFixture
):
    async def stubborn(request: LaunchRequest) -> AsyncIterator[Event]:
        try:
            async for event in provider.plain_launch(request):
                yield event
        finally:
            raise KeyError("cleanup")

    provider.on_launch = stubborn

    lease = await open_engine(provider).launch(an_order(), quiet)

    assert lease.phase is Phase.READY
    assert "broke its contract" in caplog.text


async def test_an_iterator_that_is_no_generator_will_do(open_engine: OpenEngine, provider: Scripted):
    class Events:
        def __init__(self, request: LaunchRequest) -> None:
            self.left = [Ready("http://127.0.0.1:1"), Checkpoint(provider.handle(request.lease_id))]

        def __aiter__(self) -> Any:
            return self

        async def __anext__(self) -> Any:
            return self.left.pop()

    provider.on_launch = Events  # type: ignore[assignment]

    assert (await open_engine(provider).launch(an_order(), quiet)).phase is Phase.READY


@pytest.mark.parametrize("goes_on", ["waits", "yields"])
async def test_a_launch_that_ignores_cancellation_is_rolled_back_without_it(
    open_engine: OpenEngine, provider: Scripted, goes_on: str, caplog: pytest.LogCaptureFixture
):
    let_go, reported = asyncio.Event(), []

    async def deaf(request: LaunchRequest) -> AsyncIterator[Event]:
        yield Checkpoint(provider.handle(request.lease_id))
        provider.things[request.lease_id] = "half"
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                if goes_on == "yields":
                    yield Progress(50, Sentence("never mind"))
                    yield Checkpoint(provider.handle(request.lease_id))

    provider.on_launch = deaf
    engine = open_engine(provider, let_go_s=0.05 if goes_on == "waits" else 60.0)
    with launching(engine, an_order(), reported.append) as start:
        await eventually(lambda: provider.things)

        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start

    await nothing_is_left(engine, provider)
    assert ("still at work" in caplog.text) == (goes_on == "waits")
    let_go.set()


async def test_a_launch_cancelled_by_an_accident_of_its_own_is_a_failed_start(
    open_engine: OpenEngine, provider: Scripted
):
    async def accident(request: LaunchRequest) -> AsyncIterator[Event]:
        yield Checkpoint(provider.handle(request.lease_id))
        raise asyncio.CancelledError

    error = await refused(open_engine, provider, accident)

    assert isinstance(error, StartFailed)


async def test_a_release_that_hangs_is_left_to_the_reconciler(open_engine: OpenEngine, provider: Scripted):
    async def hangs(_handle: Handle, _mode: Mode) -> None:
        await asyncio.Event().wait()

    engine = open_engine(provider, release_timeout_s=0.05)
    lease = await engine.launch(an_order(), quiet)
    provider.on_release = hangs

    await engine.stop("student1", "")

    assert engine.book.all()[0].phase is Phase.STOPPING
    assert await engine.is_running("student1", "") is False
    with pytest.raises(LabError, match="took longer than"):
        await engine.end(lease.id, BYE, Mode.STOP)
    provider.on_release = None
    await engine.reconciler.pass_once()
    await nothing_is_left(engine, provider)


async def test_a_release_that_ignores_cancellation_does_not_hold_up_the_stop(
    open_engine: OpenEngine, provider: Scripted
):
    let_go = asyncio.Event()

    async def deaf(_handle: Handle, _mode: Mode) -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    engine = open_engine(provider, release_timeout_s=0.05, let_go_s=0.05)
    await engine.launch(an_order(), quiet)
    provider.on_release = deaf

    await asyncio.wait_for(engine.stop("student1", ""), 120)

    assert engine.book.all()[0].phase is Phase.STOPPING
    let_go.set()
    provider.on_release = None
    await engine.reconciler.pass_once()
    await nothing_is_left(engine, provider)


@pytest.mark.parametrize("error", [KeyError("secret-host"), asyncio.CancelledError()], ids=type)
async def test_a_release_that_breaks_is_logged_once_and_tried_again(
    open_engine: OpenEngine, provider: Scripted, error: BaseException, caplog: pytest.LogCaptureFixture
):
    async def broken(_handle: Handle, _mode: Mode) -> None:
        raise error

    engine = open_engine(provider)
    lease = await engine.launch(an_order(), quiet)
    provider.on_release = broken

    with pytest.raises(LabError) as failed:
        await engine.end(lease.id, BYE, Mode.STOP)

    assert "secret-host" not in failed.value.message
    assert caplog.text.count("release failed") == 1
    caplog.clear()
    await engine.reconciler.pass_once()
    assert caplog.text.count("release failed") == 1
    assert "could not end" not in caplog.text
    provider.on_release = None
    await engine.reconciler.pass_once()
    await nothing_is_left(engine, provider)


async def test_a_release_of_a_provider_that_is_no_longer_configured_waits_for_it(
    open_engine: OpenEngine, provider: Scripted
):
    before = open_engine(provider)
    await before.launch(an_order(), quiet)
    without = open_engine(Scripted("other"))

    await without.stop("student1", "")

    assert without.book.all()[0].phase is Phase.STOPPING
    after = open_engine(provider)
    await after.start()
    await eventually(lambda: after.book.all() == [])
    assert provider.things == {}


async def test_a_lease_that_is_ended_under_a_launch_makes_the_launch_fail(open_engine: OpenEngine, provider: Scripted):
    """No way leads here on purpose; if one did, the launch must not bring the lease back to life."""
    go_on = asyncio.Event()

    async def slow(request: LaunchRequest) -> AsyncIterator[Event]:
        yield Checkpoint(provider.handle(request.lease_id))
        await go_on.wait()
        yield Ready("http://127.0.0.1:1")

    provider.on_launch = slow
    engine = open_engine(provider)
    with launching(engine, an_order()) as start:
        lease = await reaches(engine, Phase.LAUNCHING)
        await eventually(lambda: engine.book.get(lease.id).handle)  # type: ignore[union-attr]
        await engine._releaser.end(lease.id, BYE, Mode.DESTROY)

        go_on.set()
        with pytest.raises(LabError):
            await start

    await nothing_is_left(engine, provider)
