"""The adapter: any JupyterHub Spawner class as a provider. One child Spawner per lease, rebuilt from the handle."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from logging import getLogger
from typing import Any

from jupyterhub.spawner import LocalProcessSpawner, Spawner
from jupyterhub.utils import maybe_future
from traitlets import TraitError

from labspawner.deadlines import within
from labspawner.errors import BadConfig, LabError, ProviderUnavailable, StartFailed
from labspawner.model import (
    Activity,
    Capacity,
    Checkpoint,
    Event,
    Feature,
    Handle,
    HostCapacity,
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
from labspawner.providers import probe
from labspawner.providers.adapter import child as children
from labspawner.providers.adapter import explain
from labspawner.providers.adapter.options import AdapterSettings, check_traits, spawner_class
from labspawner.providers.consumption import measure
from labspawner.providers.contract import ProviderContext
from labspawner.providers.launches import Launches
from labspawner.providers.options import read_options
from labspawner.providers.processes import HostProcesses, Listing, adopt, marks
from labspawner.providers.standins import Identity
from labspawner.sentences import Sentence

log = getLogger(__name__)

_LOOK_EVERY_S = 0.05
_FRESH_S = 0.5
_POLLS_AT_ONCE = 8
_ROLLBACK_GRACE_S = 2.0
_REMOTE_STOP_S = 30.0  # deleting a container or a job takes its time, whatever the server inside does
_FORCED_STOP_S = 10.0


class AdapterProvider:
    """Runs servers with a Spawner class of others; whatever runs on this machine is also found by its mark."""

    features: frozenset[Feature] = frozenset()

    def __init__(self, context: ProviderContext, settings: Mapping[str, Json]) -> None:
        self.name = context.name
        where = f"Provider {context.name}"
        self.settings = read_options(AdapterSettings, settings, where=where)
        self._class = spawner_class(self.settings.spawner_class)
        check_traits(self._class, (*self.settings.config, *self.settings.variant_traits), where=where)
        self._hub_id = context.hub_id
        self.host = HostProcesses()
        self._launches = Launches(self.settings.max_servers)
        self._children: dict[LeaseId, Spawner] = {}
        self._starts: dict[LeaseId, asyncio.Future[Any]] = {}
        self._rollbacks: set[asyncio.Task[None]] = set()
        self._polls = asyncio.Semaphore(_POLLS_AT_ONCE)

    async def capacity(self) -> Capacity:
        """One host without limits but `max_servers`: a Spawner class does not tell more."""
        running = await self._running(max_age_s=2.0)
        most = self.settings.max_servers
        free = None if most is None else max(0, most - len(running))
        host = HostCapacity(name=self.name, servers_total=most, servers_free=free)
        return Capacity(hosts=(host,), taken_at=datetime.now(timezone.utc), counted=running)

    async def launch(self, request: LaunchRequest) -> AsyncIterator[Event]:
        """Start a server; see the contract. Raises StartFailed or SetupError for what the Spawner raised, BadConfig for
        a variant's setting that `variant_traits` does not allow."""
        deadline = time.monotonic() + request.ready_timeout_s
        identity, lease_id = Identity.of_request(request), request.lease_id
        child = self._equipped(request, identity)
        state: dict[str, Json] = {}
        self._launches.begin(lease_id, running=await self._running())
        try:
            yield Checkpoint(self._handle(lease_id, identity, state))
            yield Progress(10, Sentence("Starting your server"))
            self._children[lease_id] = child
            for again in (isinstance(child, LocalProcessSpawner) and not child.port, False):
                self._launches.go_on(lease_id)
                start = self._starts[lease_id] = asyncio.ensure_future(_started(child))
                while not start.done():
                    await asyncio.wait([start], timeout=_LOOK_EVERY_S)
                    if (now := children.state_of(child)) != state:
                        state = now
                        yield Checkpoint(self._handle(lease_id, identity, state))
                    if not start.done() and time.monotonic() >= deadline:
                        raise explain.too_slow(request.ready_timeout_s)
                # A release cancels the start, which must not look like our caller's doing.
                self._launches.go_on(lease_id)
                url = start.result()
                self.host.expire()
                yield Progress(50, Sentence("Waiting for it to answer"))
                try:
                    await self._until_ready(child, url + request.base_url + "api", deadline, request.ready_timeout_s)
                    break
                except StartFailed:
                    if not (again and child.pid == 0 and children.port_was_taken(child)):
                        raise  # else once more, on another port
                    log.warning("port taken, trying another lease=%s port=%s", lease_id, child.port)
                    child.port = 0
            if (now := children.state_of(child)) != state:
                yield Checkpoint(self._handle(lease_id, identity, now))
        except BaseException as exc:
            await self._roll_back(lease_id, child)
            if isinstance(exc, LabError) or not isinstance(exc, Exception):
                raise
            raise explain.failed(exc, self._class.__name__) from exc
        finally:
            self._starts.pop(lease_id, None)
            self._launches.end(lease_id)
        log.info("server ready lease=%s user=%s spawner=%s", lease_id, request.user, self._class.__name__)
        yield Ready(url)

    async def observe(self, handles: Sequence[Handle]) -> Mapping[LeaseId, ServerState]:
        """Say what is true now: each child is polled, a few at once; one that raises or hangs is UNKNOWN."""
        try:
            listing = await self.host.listing(max_age_s=_FRESH_S)
        except ProviderUnavailable as exc:
            log.warning("cannot observe: %s", exc)
            return {handle.lease_id: ServerState.UNKNOWN for handle in handles}
        states = await asyncio.gather(*(self._state(handle, listing) for handle in handles))
        return {handle.lease_id: state for handle, state in zip(handles, states, strict=True)}

    async def release(self, handle: Handle, mode: ReleaseMode, *, grace_s: float) -> None:
        """Stop the child, then end what of it still runs on this machine. Safe to repeat."""
        self._launches.release(handle.lease_id)
        await self._end(handle.lease_id, self._child_of(handle), grace_s=grace_s)
        log.info("server released lease=%s mode=%s", handle.lease_id, mode.value)

    async def owned(self) -> Sequence[OwnedResource]:
        """Every lease of this hub that has a process on this machine. What a Spawner runs elsewhere cannot be listed:
        no Spawner class has a way to ask."""
        listing = await self.host.listing()
        return [
            OwnedResource(
                lease_id=lease_id,
                handle=Handle(lease_id=lease_id, provider=self.name),
                user=process.user,
                created_at=datetime.fromtimestamp(process.created, timezone.utc),
            )
            for lease_id, process in listing.leases(self._hub_id, self.name).items()
        ]

    async def activity(self, handle: Handle) -> Activity | None:
        """None: a Spawner class does not tell."""
        return None

    async def usage(self, handles: Sequence[Handle]) -> Mapping[LeaseId, Usage]:
        """What the processes of each server use on this machine; of one that runs elsewhere nothing can be told."""
        try:
            listing = await self.host.listing(max_age_s=_FRESH_S)
        except ProviderUnavailable as exc:
            log.warning("cannot tell usage: %s", exc)
            return {}

        def measured() -> dict[LeaseId, Usage]:
            asked = {handle.lease_id: listing.of_lease(handle.lease_id, self._hub_id) for handle in handles}
            found = {lease_id: measure(processes) for lease_id, processes in asked.items()}
            return {lease_id: usage for lease_id, usage in found.items() if usage is not None}

        return await self.host.in_thread(measured)

    async def logs(self, handle: Handle, lines: int) -> str:
        """Empty: a Spawner class has no common way to ask."""
        return ""

    async def close(self) -> None:
        """Finish roll-backs that are under way and give the threads back. Servers keep running."""
        if self._rollbacks:
            await asyncio.wait(self._rollbacks)
        self._children.clear()
        await self.host.close()

    async def _running(self, *, max_age_s: float = 0.0) -> frozenset[LeaseId]:
        listing = await self.host.listing(max_age_s=max_age_s)
        return frozenset({*self._children, *listing.leases(self._hub_id, self.name)})

    def _handle(self, lease_id: LeaseId, identity: Identity, state: dict[str, Json]) -> Handle:
        return Handle(lease_id=lease_id, provider=self.name, data={**identity.to_json(), "state": state})

    def _equipped(self, request: LaunchRequest, identity: Identity) -> Spawner:
        where = f"Profile {request.profile}, variant of provider {self.name}"
        for name in request.settings:
            if name not in self.settings.variant_traits:
                raise BadConfig(
                    Sentence(
                        "{where}: {name} may not be set by a profile; variant_traits of the provider does not list it.",
                        where=where,
                        name=repr(name),
                    )
                )
        try:
            child = children.build(self._class, identity, config=self.settings.config, state={})
            children.equip(
                child,
                request,
                traits=request.settings,
                marks=marks(request.lease_id, hub_id=self._hub_id, provider=self.name, user=request.user),
                start_timeout=max(1, math.ceil(request.ready_timeout_s)),
            )
        except TraitError as exc:
            raise BadConfig(Sentence("{where}: {problem}.", where=where, problem=str(exc).rstrip("."))) from exc
        except Exception as exc:  # the class is not ours: it may raise anything
            raise explain.failed(exc, self._class.__name__) from exc
        return child

    def _child_of(self, handle: Handle) -> Spawner | None:
        """The child of a lease, rebuilt where an earlier hub process had it; None where the handle does not say how."""
        child = self._children.get(handle.lease_id)
        identity = Identity.of_handle(handle)
        state = handle.data.get("state")
        if child is not None or identity is None or not isinstance(state, dict):
            return child
        try:
            child = children.build(self._class, identity, config=self.settings.config, state=state)
        except Exception as exc:  # the class is not ours: it may raise anything
            raise ProviderUnavailable(
                Sentence("Your server cannot be reached just now. Try again in a minute."),
                detail=f"cannot rebuild a {self._class.__name__} lease={handle.lease_id}: {type(exc).__name__}: {exc}",
            ) from exc
        self._children[handle.lease_id] = child
        return child

    async def _until_ready(self, child: Spawner, url: str, deadline: float, timeout_s: float) -> None:
        """Return when the server answers. Raises StartFailed when it dies, or when time is up."""
        while True:
            exit_status = await self._poll(child)
            if exit_status is not None:
                raise explain.died(exit_status)
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise explain.too_slow(timeout_s)
            if await probe.answers(url, timeout_s=min(2.0, left_s)):
                return
            await asyncio.sleep(_LOOK_EVERY_S * 2)

    async def _poll(self, child: Spawner) -> object:
        """The child's own poll: None while it runs. Raises whatever it raises, and asyncio.TimeoutError."""
        async with self._polls:
            return await within(self.settings.poll_timeout_s, _asked(child.poll))

    async def _state(self, handle: Handle, listing: Listing) -> ServerState:
        try:
            child = self._child_of(handle)
            running = await self._runs(handle.lease_id, child, listing)
        except Exception as exc:  # the class is not ours: it may raise anything, and a host's trouble is not the end
            log.warning("cannot poll lease=%s: %s: %s", handle.lease_id, type(exc).__name__, exc)
            return ServerState.UNKNOWN
        if not running and handle.lease_id not in self._launches:
            self._children.pop(handle.lease_id, None)
        return ServerState.RUNNING if running else ServerState.GONE

    async def _runs(self, lease_id: LeaseId, child: Spawner | None, listing: Listing) -> bool:
        here = listing.of_lease(lease_id, self._hub_id)
        if child is None:
            return bool(here)
        if not isinstance(child, LocalProcessSpawner):
            return await self._poll(child) is None
        if not child.pid:  # the hub died between the fork and the checkpoint
            return bool(here)
        # Its own poll takes a zombie, or a stranger that got the pid, for the server.
        ours = child.pid in listing.hidden or any(process.pid == child.pid for process in here)
        return ours and await self._poll(child) is None

    async def _may_run(self, lease_id: LeaseId, child: Spawner) -> bool:
        """False only where it is sure that nothing runs."""
        listing = await self.host.listing()
        try:
            return await self._runs(lease_id, child, listing)
        except Exception as exc:  # the class is not ours: it may raise anything
            log.warning("cannot poll lease=%s: %s: %s", lease_id, type(exc).__name__, exc)
            return True

    async def _roll_back(self, lease_id: LeaseId, child: Spawner) -> None:
        """End what the launch started, to the end even if its caller is cancelled again."""
        task = asyncio.ensure_future(self._end(lease_id, child, grace_s=_ROLLBACK_GRACE_S))
        self._rollbacks.add(task)
        task.add_done_callback(self._rollbacks.discard)
        try:
            await asyncio.shield(task)
        except ProviderUnavailable as exc:  # what made us roll back is what the caller must hear
            log.error("roll-back left something behind lease=%s: %s", lease_id, exc)

    async def _end(self, lease_id: LeaseId, child: Spawner | None, *, grace_s: float) -> None:
        start = self._starts.pop(lease_id, None)
        if start is not None and not start.done():
            start.cancel()
            await asyncio.wait([start], timeout=_FORCED_STOP_S)
        if child is not None:
            await self._stop(lease_id, child, grace_s=grace_s)
        await self.host.terminate(lease_id, hub_id=self._hub_id, grace_s=min(grace_s, _ROLLBACK_GRACE_S))
        if child is not None and await self._may_run(lease_id, child):
            await self._try_to_stop(child, now=True, timeout_s=_FORCED_STOP_S)
            if await self._may_run(lease_id, child):
                raise ProviderUnavailable(
                    Sentence("Your server does not end. Your administrator can find out why; try again later."),
                    detail=f"{self._class.__name__} may still run after stop lease={lease_id}",
                )
        self._children.pop(lease_id, None)

    async def _stop(self, lease_id: LeaseId, child: Spawner, *, grace_s: float) -> None:
        """Ask the child to stop in order; what is left of it on this machine is ended by its mark afterwards."""
        if not await self._may_run(lease_id, child):
            return
        local = isinstance(child, LocalProcessSpawner)
        if grace_s > 0 or not local:
            await self._try_to_stop(child, now=grace_s <= 0, timeout_s=grace_s if local else grace_s + _REMOTE_STOP_S)

    async def _try_to_stop(self, child: Spawner, *, now: bool, timeout_s: float) -> None:
        try:
            await within(timeout_s, _asked(partial(child.stop, now=now)))
        except asyncio.TimeoutError:
            log.info("stop takes longer than %s s spawner=%s", timeout_s, self._class.__name__)
        except Exception as exc:  # the class is not ours; whether it worked is asked afterwards
            log.warning("stop failed spawner=%s: %s: %s", self._class.__name__, type(exc).__name__, exc)


async def _asked(method: Callable[[], Any]) -> Any:
    """What a method of the class gives, which may be a coroutine, a future or a value."""
    return await maybe_future(method())


async def _started(child: Spawner) -> str:
    """Start `child`; the URL where its server will be."""
    try:
        started = await maybe_future(child.start())
    finally:  # it may have begun a process just before it was cancelled
        process = getattr(child, "proc", None)
        if isinstance(child, LocalProcessSpawner) and process is not None:
            adopt(process)
    return children.url_of(child, started)
