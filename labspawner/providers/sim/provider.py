"""The provider contract over a simulated world."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TypeVar

from labspawner.errors import LabError, LeaseConflict, ProviderUnavailable, SetupError, StartFailed
from labspawner.model import (
    Activity,
    Capacity,
    Checkpoint,
    Event,
    Feature,
    Handle,
    Json,
    LaunchRequest,
    LeaseId,
    OwnedResource,
    Progress,
    Ready,
    ReleaseMode,
    ServerState,
    Usage,
)
from labspawner.providers.contract import ProviderContext
from labspawner.providers.sim.faults import write_faults
from labspawner.providers.sim.listener import normal_url
from labspawner.providers.sim.pace import stage_s
from labspawner.providers.sim.settings import Knobs, SimSettings, read
from labspawner.providers.sim.simulation import Simulation
from labspawner.providers.sim.world import HIBERNATED, LAUNCHING, PARKED, STOPPED, Row, World
from labspawner.sentences import Sentence
from labspawner.units import parse_bytes

log = logging.getLogger(__name__)
T = TypeVar("T")
_STALL_CHECK_S = 0.1


@dataclass
class _Launch:
    """One launch under way in this process. token: marks what it made; released: somebody freed the lease meanwhile."""

    request: LaunchRequest
    knobs: Knobs
    deadline: float
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    released: asyncio.Event = field(default_factory=asyncio.Event)
    begun: bool = False
    woke: tuple[LeaseId, str] | None = None
    reached: list[str] = field(default_factory=list)


class SimProvider:
    """Pretends to host servers, in a world that is one file in the context's `data_dir`.

    settings: see `SimSettings`. Two providers on one `data_dir` share the hosts, and see only their own hub's servers.
    A server that died keeps what it held until it is released, as an exited container or a stopped VM does. A resume
    that fails leaves the server parked. `STOP` keeps nothing, unless the setting `park` is on.
    Raises BadConfig for a setting it does not know.
    """

    def __init__(self, context: ProviderContext, settings: Mapping[str, Json]) -> None:
        self._context = context
        self._settings = read(SimSettings, settings, f"provider {context.name}")
        self.name = context.name
        features = {Feature.LOGS, Feature.ACTIVITY}
        if self._settings.hibernate:
            features.add(Feature.HIBERNATE)
        if self._settings.park:
            features.add(Feature.PARK)
        if any(host.cards for host in self._settings.hosts):
            features.add(Feature.GPU_SLICES)
        self.features = frozenset(features)
        self.listings = 0
        self._sim = Simulation(context, self._settings)
        self._launching: dict[LeaseId, _Launch] = {}

    def faults(self, **knobs: Json) -> None:
        """Turn these knobs, and no others, from now on; without arguments all is back to normal. See `write_faults`."""
        write_faults(self._context.data_dir, **knobs)

    async def capacity(self) -> Capacity:
        """What is free now; servers of other hubs in the same world take room too."""

        def listing(world: World) -> Capacity:
            self._sim.knobs()
            rows = world.rows(self._hub)
            counted = frozenset(row.lease_id for row in rows if row.state not in PARKED)
            return Capacity(hosts=tuple(world.capacity()), taken_at=datetime.now(timezone.utc), counted=counted)

        return await self._sim.run(listing)

    def launch(self, request: LaunchRequest) -> AsyncIterator[Event]:
        """Start a server that answers HTTP, stage by stage."""
        return self._launch(request, time.monotonic() + request.ready_timeout_s)

    async def _launch(self, request: LaunchRequest, deadline: float) -> AsyncIterator[Event]:
        knobs = await self._sim.run(lambda world: self._sim.knobs(request.settings))
        if request.lease_id in self._launching:
            raise LeaseConflict(Sentence("This server is already starting."), detail=f"in use lease={request.lease_id}")
        launch = self._launching[request.lease_id] = _Launch(request, knobs, deadline)
        try:
            url = await self._sim.listen()
            for number, stage in enumerate(knobs.stages):
                yield Checkpoint(self._handle(request.lease_id, stage))
                await self._make(launch, stage)
                yield Progress(
                    100 * (number + 1) // (len(knobs.stages) + 1), Sentence("Simulated stage: {stage}", stage=stage)
                )
                await self._pass_stage(launch, stage)
            await self._finish(launch)
        except BaseException:
            await self._undo(launch)
            raise
        finally:
            del self._launching[request.lease_id]
        log.info("server ready lease=%s user=%s url=%s", request.lease_id, request.user, url)
        yield Ready(url)

    async def observe(self, handles: Sequence[Handle]) -> Mapping[LeaseId, ServerState]:
        """RUNNING for what starts or runs, GONE for what died, is parked or is not there."""
        try:
            states = await self._sim.run(self._states)
            if ServerState.RUNNING in states.values():
                await self._sim.listen()
        except ProviderUnavailable as error:
            log.debug("cannot tell provider=%s error=%s", self.name, error)
            return {handle.lease_id: ServerState.UNKNOWN for handle in handles}
        return {handle.lease_id: states.get(handle.lease_id, ServerState.GONE) for handle in handles}

    async def release(self, handle: Handle, mode: ReleaseMode, *, grace_s: float) -> None:
        """Take `stop_s` (at most `grace_s`) for a server that exists, then free all it held."""

        def asked(world: World) -> tuple[Knobs, list[Row]]:
            knobs = self._sim.knobs()
            if knobs.release_fails:
                raise self._sim.silent("release")
            return knobs, world.rows(self._hub, handle.lease_id)

        knobs, rows = await self._sim.run(asked)
        if handle.lease_id in self._launching:
            self._launching[handle.lease_id].released.set()
        if rows and knobs.stop_s:
            await asyncio.sleep(min(knobs.stop_s, grace_s))
        keeps = self._keeps(mode)
        if keeps is None:
            await self._sim.run(lambda world: world.forget(self._hub, handle.lease_id))
        else:
            await self._sim.run(lambda world: world.park(self._hub, handle.lease_id, keeps, time.time()))
        self._sim.seen.pop(handle.lease_id, None)
        if rows:
            log.info("server released lease=%s mode=%s", handle.lease_id, mode.value)

    async def owned(self) -> Sequence[OwnedResource]:
        """All of this hub in the world: starting, running, dead and parked."""

        def listing(world: World) -> list[Row]:
            self._sim.knobs(listing=True)
            self.listings += 1
            return world.rows(self._hub)

        return [
            OwnedResource(
                lease_id=row.lease_id,
                handle=self._handle(row.lease_id, row.stage),
                user=row.user,
                created_at=datetime.fromtimestamp(row.created_at, timezone.utc),
            )
            for row in await self._sim.run(listing)
        ]

    async def activity(self, handle: Handle) -> Activity | None:
        """The last page asked for in this process, or what the knobs `busy` and `idle_for_s` say."""
        knobs, rows = await self._sim.run(lambda world: (self._sim.knobs(), world.rows(self._hub, handle.lease_id)))
        now = time.time()
        if not any(row.serves(now) for row in rows):
            return None
        last = self._sim.seen.get(handle.lease_id, rows[0].ready_at)
        if knobs.idle_for_s is not None:
            last = now - knobs.idle_for_s
        when = None if last is None else datetime.fromtimestamp(last, timezone.utc)
        return Activity(last_activity=when, busy=knobs.busy, evidence="simulated")

    async def usage(self, handles: Sequence[Handle]) -> Mapping[LeaseId, Usage]:
        """What the knobs say that each running server uses, of what its lease was promised."""
        wanted = {handle.lease_id for handle in handles}
        try:
            knobs, rows = await self._sim.run(lambda world: (self._sim.knobs(listing=True), world.rows(self._hub)))
        except ProviderUnavailable as error:
            log.debug("cannot tell usage provider=%s error=%s", self.name, error)
            return {}
        now = time.time()
        return {row.lease_id: _usage(row, knobs, now) for row in rows if row.lease_id in wanted and row.serves(now)}

    async def logs(self, handle: Handle, lines: int) -> str:
        """What a server of this kind would have printed."""
        knobs, rows = await self._sim.run(lambda world: (self._sim.knobs(), world.rows(self._hub, handle.lease_id)))
        if not rows or lines <= 0:
            return ""
        row = rows[0]
        reached = knobs.stages[: knobs.stages.index(row.stage) + 1] if row.stage in knobs.stages else (row.stage,)
        printed = [_log_line(stage, "done") for stage in reached]
        if row.ready_at is not None:
            printed.append(_log_line("serve", "died" if row.dead(time.time()) else f"listening at {row.base_url}"))
        return "\n".join(printed[-lines:])

    async def close(self) -> None:
        """Stop the listener and the worker thread. The world stays; the next object listens at the same place."""
        await self._sim.close()

    def _keeps(self, mode: ReleaseMode) -> str | None:
        """The state in which a release leaves a running server; None: nothing is kept."""
        if mode is ReleaseMode.HIBERNATE and self._settings.hibernate:
            return HIBERNATED
        return STOPPED if mode is not ReleaseMode.DESTROY and self._settings.park else None

    # -- one launch, step by step

    async def _make(self, launch: _Launch, stage: str) -> None:
        """Make the thing of `stage`. Raises StartFailed if the lease was released meanwhile."""

        def step(world: World) -> bool:
            self._sim.knobs(launch.request.settings)
            if launch.begun:
                return world.advance(self._hub, launch.request.lease_id, launch.token, stage)
            row = self._new_row(launch, stage)
            parked = launch.request.parked
            wants = launch.request.resources
            state = world.resume(self._hub, parked.lease_id, row, wants) if parked else None
            if parked and state:
                launch.woke = (parked.lease_id, state)
            else:
                world.begin(row, wants)
            launch.begun = True
            return True

        if launch.released.is_set() or not await self._sim.run(step):
            raise _released(launch)
        launch.reached.append(stage)

    async def _pass_stage(self, launch: _Launch, stage: str) -> None:
        """Take the time of `stage`, and fail as the knobs say."""
        resumes = launch.woke is not None and launch.woke[1] == HIBERNATED
        seed, lease_id = self._settings.seed, launch.request.lease_id
        await self._wait(launch, stage_s(launch.knobs, stage, seed=seed, lease_id=lease_id, resumes=resumes))
        while (now := await self._sim.run(lambda world: self._sim.knobs(launch.request.settings))).stall_at == stage:
            await self._wait(launch, _STALL_CHECK_S)
        if now.fail_at == stage:
            raise _failure(launch, now.fail_kind)

    async def _wait(self, launch: _Launch, seconds: float) -> None:
        left = launch.deadline - time.monotonic()
        try:
            await asyncio.wait_for(launch.released.wait(), min(seconds, left))
        except asyncio.TimeoutError:
            if seconds > left:
                raise StartFailed(
                    Sentence(
                        "The server was not ready within {seconds} seconds. Try again, or tell your instructor.",
                        seconds=round(launch.request.ready_timeout_s),
                    ),
                    detail=f"not ready in time lease={launch.request.lease_id} reached={launch.reached}",
                    log_tail=_log_tail(launch),
                ) from None
        else:
            raise _released(launch)

    async def _finish(self, launch: _Launch) -> None:
        """Let the server serve. Raises StartFailed if the lease was released meanwhile."""

        def step(world: World) -> bool:
            dies_after_s = self._sim.knobs(launch.request.settings).die_after_ready_s
            now = time.time()
            dies_at = None if dies_after_s is None else now + dies_after_s
            return world.ready(self._hub, launch.request.lease_id, launch.token, now, dies_at)

        if launch.released.is_set() or not await self._sim.run(step):
            raise _released(launch)

    async def _undo(self, launch: _Launch) -> None:
        """Take back what the launch made; also when the one who waits is cancelled again."""

        def step(world: World) -> None:
            lease_id = launch.request.lease_id
            if self._sim.knobs(launch.request.settings, anyway=True).leaks:
                log.warning("things left behind, as told lease=%s", lease_id)
            elif launch.woke is not None:
                world.repark(self._hub, lease_id, launch.token, *launch.woke)
            else:
                world.undo(self._hub, lease_id, launch.token)

        try:
            await _through(asyncio.ensure_future(self._sim.run(step)))
        except LabError as error:  # closed meanwhile: the reconciler frees it
            log.warning("launch not undone lease=%s error=%s", launch.request.lease_id, error)

    def _new_row(self, launch: _Launch, stage: str) -> Row:
        request = launch.request
        return Row(
            hub_id=self._hub,
            lease_id=request.lease_id,
            token=launch.token,
            user=request.user,
            profile=request.profile,
            base_url=normal_url(request.base_url),
            stage=stage,
            state=LAUNCHING,
            created_at=time.time(),
        )

    # -- the world and the listener

    @property
    def _hub(self) -> str:
        return self._context.hub_id

    def _handle(self, lease_id: LeaseId, stage: str) -> Handle:
        return Handle(lease_id=lease_id, provider=self.name, data={"stage": stage})

    def _states(self, world: World) -> dict[LeaseId, ServerState]:
        self._sim.knobs(listing=True)
        self.listings += 1
        lives = world.lives(self._hub, time.time())
        return {lease_id: ServerState.RUNNING if alive else ServerState.GONE for lease_id, alive in lives.items()}


def _usage(row: Row, knobs: Knobs, now: float) -> Usage:
    busy_s = None if knobs.uses_cpu is None else knobs.uses_cpu * (now - (row.ready_at or now))
    return Usage(
        taken_at=datetime.fromtimestamp(now, timezone.utc),
        memory_bytes=_bytes(knobs.uses_memory),
        memory_limit_bytes=row.memory_bytes,
        cpu_s=busy_s,
        cpu_limit=row.cpu,
        processes=knobs.uses_processes,
        disk_bytes=_bytes(knobs.uses_disk),
    )


def _bytes(text: str | None) -> int | None:
    return None if text is None else parse_bytes(text)


def _failure(launch: _Launch, kind: str) -> LabError:
    detail = f"simulated failure kind={kind} lease={launch.request.lease_id} reached={launch.reached}"
    if kind == "transient":
        return ProviderUnavailable(Sentence("A simulated hiccup. Try again in a few seconds."), detail=detail)
    if kind == "permanent":
        return SetupError(Sentence("This profile is set up to fail. Pick another one."), detail=detail)
    return StartFailed(
        Sentence("The server died while it was starting. Its last words are below."),
        detail=detail,
        log_tail=_log_tail(launch) + "\n" + _log_line(launch.reached[-1], "Segmentation fault (simulated)"),
    )


def _released(launch: _Launch) -> StartFailed:
    return StartFailed(
        Sentence("The server was stopped while it was starting."),
        detail=f"released during launch lease={launch.request.lease_id}",
        log_tail=_log_tail(launch),
    )


def _log_tail(launch: _Launch) -> str:
    return "\n".join(_log_line(stage, "done") for stage in launch.reached)


def _log_line(stage: str, what: str) -> str:
    return f"[sim] {stage}: {what}"


async def _through(task: asyncio.Future[T]) -> T:
    """The result of `task`, which runs to its end even when the one who waits is cancelled."""
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled() and task.exception() is not None:
            log.warning("not finished after a cancellation error=%s", task.exception())
        raise
