"""The local provider: each server as a process on the hub's own machine, in the best sandbox that this machine allows.

    hub -> zygote (one per interpreter) -> keeper (one per server, outside its sandbox) -> server (inside)

A handle names the keeper: its end is the end of the server and of everything in the sandbox. What was made for a lease
(run folder, control group, port) derives from its id.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from logging import getLogger
from pathlib import Path

import psutil

from labspawner.errors import LabError, ProviderUnavailable, StartFailed
from labspawner.gpu.nvml import Nvml
from labspawner.model import (
    Activity,
    Capacity,
    Checkpoint,
    Event,
    Feature,
    Handle,
    HeldSlice,
    HostCapacity,
    Json,
    LaunchRequest,
    LeaseId,
    OwnedResource,
    Progress,
    Ready,
    ReleaseMode,
    ServerState,
    SliceTest,
    Usage,
)
from labspawner.naming import safe_name
from labspawner.providers.contract import ProviderContext
from labspawner.providers.findings import Finding
from labspawner.providers.launches import Launches
from labspawner.providers.local import explain, sandbox
from labspawner.providers.local.arrival import Arrival
from labspawner.providers.local.diagnosis import diagnose
from labspawner.providers.local.homes import Home, prepare_home
from labspawner.providers.local.limits import usage_now
from labspawner.providers.local.logs import LogBook
from labspawner.providers.local.machine import Found, Machine
from labspawner.providers.local.network.address import Address, at_port, at_socket, hub_inside
from labspawner.providers.local.network.rundir import RunDirs, default_base
from labspawner.providers.local.options import LocalSettings, LocalVariant
from labspawner.providers.local.ports import Ports
from labspawner.providers.local.slices.slices import Slices
from labspawner.providers.local.starting import Job, Place, Preparer, handle_of
from labspawner.providers.local.warm import Started, Zygotes
from labspawner.providers.options import read_options
from labspawner.providers.processes import HostProcesses, Identity, Listing, environment_of, marks
from labspawner.providers.redaction import secrets_in
from labspawner.sentences import Sentence

log = getLogger(__name__)

_FRESH_S = 0.5  # one listing answers all that is asked within this time
_PRUNE_EVERY_S = 60.0
_ROLLBACK_GRACE_S = 2.0
_TAIL_LINES = 40
_STARTED_REMEMBERED = 1000
_HOME_IS_FULL = Sentence("Your home is full: the server starts so that you can delete files, and saves nothing")


class LocalProvider:
    """Starts each server in a sandbox with a home of its own, and finds it again by its mark.

    hub_socket: where servers in a sandbox reach the hub; the hub must listen there, and make the folder if need be.
    sockets_reached: whether hub and proxy can talk to a server at a unix socket; set by who knows.
    """

    features = frozenset({Feature.LOGS, Feature.REPORTS, Feature.GPU_SLICES})

    def __init__(
        self,
        context: ProviderContext,
        settings: Mapping[str, Json],
        *,
        open_nvml: Callable[[Path | None], Nvml] = Nvml.open,
    ) -> None:
        self.name = context.name
        self.settings = read_options(LocalSettings, settings, where=f"Provider {context.name}")
        self._hub_id = context.hub_id
        self._homes = self.settings.homes or context.data_dir / "homes"
        self._logs = LogBook(
            context.data_dir / "logs", limit_bytes=self.settings.log_limit, kept=self.settings.logs_kept
        )
        self._ports = Ports(self.settings.bind_ip, self.settings.port_range)
        self.host = HostProcesses()
        self.machine = Machine(context, self.settings, homes=self._homes, in_thread=self.host.in_thread)
        base = default_base(context.hub_id, environment=os.environ, uid=os.geteuid())
        self._run_dirs = RunDirs(base)
        self.hub_socket = self._run_dirs.hub_socket
        self.slices = Slices(
            self.settings.gpu,
            self._run_dirs,
            self.host,
            provider=self.name,
            hub_id=self._hub_id,
            preload=self.settings.preload,
            open_nvml=open_nvml,
        )
        self._prepare = Preparer(
            self.machine,
            self.settings,
            self._logs,
            self._run_dirs,
            self.slices,
            packages=context.data_dir / "packages",
        )
        self._arrival = Arrival(self.host, self._hub_id, self._tail)
        self.sockets_reached = False
        self._kept = {name: os.environ[name] for name in self.settings.env_keep if name in os.environ}
        self._zygotes = Zygotes(self._kept)
        self._uids = range(self.settings.uid_range[0], self.settings.uid_range[1] + 1) if os.geteuid() == 0 else None
        self._launches = Launches(self.settings.max_servers)
        self._starts: dict[LeaseId, asyncio.Future[Started]] = {}
        self._rollbacks: set[asyncio.Task[None]] = set()
        self._started: dict[LeaseId, Started] = {}
        self._secrets: dict[LeaseId, frozenset[str]] = {}
        self._pruned_at = 0.0

    async def warm_up(self) -> None:
        """Get ready for the first student: ask the machine, and import JupyterLab, where that is wanted. For a hub, when
        it starts."""
        try:
            await self.machine.found()
        except LabError as exc:
            log.error("no server can be started here: %s", exc)
        if self.settings.prewarm:
            await self._zygotes.open()
        loader = await self.host.in_thread(self.slices.loader, self._kept)
        if loader is not None:
            self.slices.watch.start()
            if self.settings.prewarm:
                await self._zygotes.ready()  # one after the other: more students come without a slice
                await self._zygotes.ready(loader=loader)

    @property
    def sandboxed(self) -> bool | None:
        """Whether servers are kept apart; None until the machine was asked."""
        return None if self.machine.known is None else self.machine.known.sandboxed

    @property
    def pretends_gpus(self) -> bool:
        """Whether the slices given out here are of cards that do not exist."""
        return self.settings.gpu.pretend is not None

    @property
    def has_gpus(self) -> bool | None:
        """Whether there are cards to give slices of; None until the machine was asked."""
        return self.slices.cards.found

    async def describe_sandbox(self) -> tuple[Sentence, ...]:
        """For people: the rung, what servers are protected against on it, and what not. Raises SetupError."""
        found = await self.machine.found()
        rung = Sentence("Rung of the sandbox: {rung}.", rung=found.rung.value)
        return (rung, *found.describe(), *await self.slices.describe())

    async def capacity(self) -> Capacity:
        """This machine: memory as it is free now, and the servers that `max_servers` still allows.

        Processor time is shared by all without a bound, so no share of it is ever counted as taken.
        """
        listing = await self.host.listing(max_age_s=2.0)
        cards, held = await self.slices.capacity([process.pid for process in listing.marked])
        running = listing.leases(self._hub_id, self.name).keys() | held
        most = self.settings.max_servers
        memory = await self.host.in_thread(psutil.virtual_memory)
        host = HostCapacity(
            name="localhost",
            servers_total=most,
            servers_free=None if most is None else max(0, most - len(running)),
            memory_total_bytes=memory.total,
            memory_free_bytes=memory.available,
            cards=cards,
            card_policy=self.settings.gpu.policy,
        )
        return Capacity(hosts=(host,), taken_at=datetime.now(timezone.utc), counted=frozenset(running))

    async def launch(self, request: LaunchRequest) -> AsyncIterator[Event]:
        """Start a server; see the contract. Raises SetupError, StartFailed, NoRoom, LeaseConflict or ProviderUnavailable,
        each with a sentence for its cause, and BadConfig for a variant's setting that there is not."""
        job = self._job(request)
        running = (await self.host.listing()).leases(self._hub_id, self.name)
        self._launches.begin(request.lease_id, running=running.keys())
        try:
            yield Checkpoint(handle_of(job, self.name))
            yield Progress(5, Sentence("Preparing your home"))
            found = await self.machine.found()
            home = await self.host.in_thread(
                prepare_home,
                job.home,
                request.user,
                min_free_bytes=self.settings.min_free_disk,
                uids=self._uids if found.sandboxed else None,
            )
            if found.quotas is not None:
                home = await self.host.in_thread(self.machine.limit_disk, found, home)
            if home.full:
                yield Progress(10, _HOME_IS_FULL)
            if request.resources.gpu is not None:
                job = await self._with_slice(job, found)
                yield Checkpoint(handle_of(job, self.name))
            for percent, again in ((20, True), (40, False)):  # once more, on another port, if the first was taken
                place = await self._place(job, found, home)
                yield Checkpoint(handle_of(job, self.name, place=place))
                yield Progress(percent, Sentence("Starting JupyterLab"))
                try:
                    started = await self._start(job, place)
                    yield Checkpoint(handle_of(job, self.name, place=place, keeper=started.keeper))
                    yield Progress(percent + 15, Sentence("Waiting for it to answer"))
                    await self._arrival.until_ready(job, started, place)
                    break
                except StartFailed as exc:
                    if not (again and explain.port_was_taken(exc.log_tail)):
                        raise
                    log.warning("port taken, trying another lease=%s port=%s", request.lease_id, place.address.port)
            if job.held is not None:
                yield Progress(90, Sentence("Trying out your GPU slice"))
                job = await self._tried_out(job, job.held)
                if job.held is not None and job.held.tested is SliceTest.PASSED:
                    yield Progress(95, Sentence("Your GPU slice was tried out, and holds"))
                yield Checkpoint(handle_of(job, self.name, place=place, keeper=started.keeper))
        except BaseException:
            await self._roll_back(request.lease_id)
            raise
        finally:
            self._launches.end(request.lease_id)
            self._ports.give_back(request.lease_id)
        log.debug(
            "server answers lease=%s user=%s pid=%s rung=%s",
            request.lease_id,
            request.user,
            started.keeper[0],
            found.rung,
        )
        yield Ready(place.address.url)

    async def observe(self, handles: Sequence[Handle]) -> Mapping[LeaseId, ServerState]:
        """Say what is true now, from one walk over the machine's processes at most half a second old."""
        try:
            listing = await self.host.listing(max_age_s=_FRESH_S)
        except ProviderUnavailable as exc:
            log.warning("cannot observe: %s", exc)
            return {handle.lease_id: ServerState.UNKNOWN for handle in handles}
        await self._prune_logs(listing)
        return {handle.lease_id: self._state(handle, listing) for handle in handles}

    async def release(self, handle: Handle, mode: ReleaseMode, *, grace_s: float) -> None:
        """End the server and all it started. The home and the log stay, whatever the mode; safe to repeat."""
        grace_s = min(grace_s, self.settings.stop_grace_s)
        self._launches.release(handle.lease_id)
        await self._end(handle.lease_id, grace_s=grace_s, main=_identity(handle))
        self._secrets.pop(handle.lease_id, None)
        log.info("server released lease=%s mode=%s", handle.lease_id, mode.value)

    async def owned(self) -> Sequence[OwnedResource]:
        """Every lease of this hub that has a process on this machine, or a control group or slice that a crash left."""
        found = (await self.host.listing()).leases(self._hub_id, self.name)
        owned = [
            OwnedResource(
                lease_id=lease_id,
                handle=Handle(
                    lease_id=lease_id,
                    provider=self.name,
                    data={"pid": process.pid, "created": process.created, "port": process.port},
                ),
                user=process.user,
                created_at=datetime.fromtimestamp(process.created, timezone.utc),
            )
            for lease_id, process in found.items()
        ]
        machine = await self.machine.found_or_none()
        left = set(await self.host.in_thread(self.slices.on_disk, own=True))
        if machine is not None and machine.groups is not None:
            left |= (await self.host.in_thread(machine.groups.list_groups)).keys()
        lost = left - found.keys() - self._launches.leases()
        return owned + [OwnedResource(lease_id=one, handle=Handle(lease_id=one, provider=self.name)) for one in lost]

    async def activity(self, handle: Handle) -> Activity | None:
        """None: what the hub and the proxy see is all there is."""
        return None

    async def usage(self, handles: Sequence[Handle]) -> Mapping[LeaseId, Usage]:
        """What each server uses now: as its control group counts, else its processes; disk where homes have quotas."""
        found = await self.machine.found_or_none()
        owners = {handle.lease_id: uid for handle in handles if isinstance(uid := handle.data.get("uid"), int)}
        used = await usage_now(
            handles,
            host=self.host,
            hub_id=self._hub_id,
            groups=None if found is None else found.groups,
            quotas=None if found is None else found.quotas,
            owners=owners,
        )
        sliced = [handle.lease_id for handle in handles if HeldSlice.of(handle) is not None]
        gpu = await self.host.in_thread(self.slices.used, sliced) if sliced else {}
        return {lease_id: replace(usage, gpu=gpu.get(lease_id)) for lease_id, usage in used.items()}

    async def logs(self, handle: Handle, lines: int) -> str:
        """The last `lines` lines the server printed, tokens hidden; also for some time after its end."""
        secrets = self._secrets.get(handle.lease_id, frozenset())
        if not secrets:  # started by an earlier hub process: ask the server itself what to hide
            for process in (await self.host.listing(max_age_s=_FRESH_S)).of_lease(handle.lease_id, self._hub_id):
                secrets |= secrets_in(await self.host.in_thread(environment_of, process))
        return await self.host.in_thread(self._logs.tail, handle.lease_id, lines, secrets=secrets)

    def exit_status(self, lease_id: LeaseId) -> int | None:
        """How a server that this process started has ended, as `subprocess` counts; None while it runs, or unknown."""
        started = self._started.get(lease_id)
        return None if started is None else started.exit_status()

    async def diagnose(self) -> Sequence[Finding]:
        """For `labspawner doctor`: what a start will need of this machine."""
        return await diagnose(self, homes=self._homes)

    async def close(self) -> None:
        """Finish roll-backs that are under way, and give threads and zygotes back. Servers keep running."""
        if self._rollbacks:
            await asyncio.wait(self._rollbacks)
        await self.machine.close()
        await self.slices.close()
        await self._zygotes.close()
        for started in self._started.values():
            started.close()
        self._started.clear()
        await self.host.close()
        for folder in (self._run_dirs.base, self._run_dirs.base.parent):
            with contextlib.suppress(OSError):  # another hub's, or in use
                folder.rmdir()

    def _job(self, request: LaunchRequest) -> Job:
        where = f"Profile {request.profile}, variant of provider {self.name}"
        variant = read_options(LocalVariant, request.settings, where=where)
        return Job(
            request=request,
            variant=variant,
            argv=variant.command or request.command,
            home=self._homes / safe_name(request.user),
            log=self._logs.path(request.lease_id),
            deadline=time.monotonic() + request.ready_timeout_s,
        )

    async def _with_slice(self, job: Job, found: Found) -> Job:
        """The launch with a slice promised to it."""
        gpu, lease_id = job.request.resources.gpu, job.request.lease_id
        assert gpu is not None
        return replace(job, held=await self.slices.take(lease_id, gpu, job.variant.gpu, sandboxed=found.sandboxed))

    async def _tried_out(self, job: Job, held: HeldSlice) -> Job:
        """The launch with what its server found out about its slice. Raises StartFailed."""
        held = await self.slices.tried_out(
            job.request.lease_id, held, job.variant.gpu, expected=sandbox.is_jupyter(job.argv), left_s=job.left_s()
        )
        return replace(job, held=held)

    async def _place(self, job: Job, found: Found, home: Home) -> Place:
        """Where the server will be; nothing of it is made yet but a promise of a port."""
        lease_id = job.request.lease_id
        network = self.machine.network_of(found, job.variant)
        software = await self.host.in_thread(self.machine.software_of, found, job.variant)
        sockets = self.sockets_reached if self.settings.unix_sockets is None else self.settings.unix_sockets
        if found.sandboxed and sockets:
            _, hub_port = hub_inside(job.request.environment)
            address = at_socket(str(self._run_dirs.socket(lease_id)), hub_port=hub_port)
        else:
            address = await self._take_port(job)
        return Place(
            found=found,
            home=home,
            software=software,
            network=network,
            address=address,
            run_dir=self._run_dirs.inside(lease_id) if found.sandboxed or home.full or job.held else None,
            group=None if found.groups is None else found.groups.group(lease_id),
        )

    async def _take_port(self, job: Job) -> Address:
        listing = await self.host.listing(max_age_s=_FRESH_S)
        used = {process.port for process in listing.marked if process.port is not None}
        return at_port(self._ports.take(job.request.lease_id, avoid=used), ip=self.settings.bind_ip)

    async def _start(self, job: Job, place: Place) -> Started:
        """Start the server. A cancelled caller leaves the start in `_starts` for the roll-back."""
        lease_id = job.request.lease_id
        self._launches.go_on(lease_id)
        start = asyncio.ensure_future(self._begin(job, place))
        self._starts[lease_id] = start
        started = await asyncio.shield(start)
        self._starts.pop(lease_id, None)
        self._started[lease_id] = started
        while len(self._started) > _STARTED_REMEMBERED:
            self._started.pop(next(iter(self._started))).close()
        self._launches.go_on(lease_id)
        self.host.expire()
        return started

    async def _begin(self, job: Job, place: Place) -> Started:
        request = job.request
        known = marks(request.lease_id, hub_id=self._hub_id, provider=self.name, user=request.user)
        order = await self.host.in_thread(self._prepare.order, job, place, known)
        self._secrets[request.lease_id] = secrets_in(order.environment)
        try:
            started = await self._zygotes.start(order)
        except (OSError, ValueError) as exc:
            raise explain.refused(exc, job.argv[0]) from exc
        finally:
            os.close(order.output_fd)
        if place.group is not None:
            await self.host.in_thread(place.group.joined)
        return started

    async def _tail(self, lease_id: LeaseId) -> str:
        secrets = self._secrets.get(lease_id, frozenset())
        return await self.host.in_thread(self._logs.tail, lease_id, _TAIL_LINES, secrets=secrets)

    async def _roll_back(self, lease_id: LeaseId) -> None:
        """End what the launch started, to the end even if its caller is cancelled again."""
        task = asyncio.ensure_future(self._end(lease_id, grace_s=_ROLLBACK_GRACE_S, main=None))
        self._rollbacks.add(task)
        task.add_done_callback(self._rollbacks.discard)
        try:
            await asyncio.shield(task)
        except ProviderUnavailable as exc:  # what made us roll back is what the caller must hear
            log.error("roll-back left processes behind lease=%s: %s", lease_id, exc)

    async def _end(self, lease_id: LeaseId, *, grace_s: float, main: Identity | None) -> None:
        """End the processes of a lease, then free what was made for it. Raises ProviderUnavailable."""
        also = [] if main is None else [main]
        start = self._starts.pop(lease_id, None)
        if start is not None:
            await asyncio.wait([start])
            if not start.cancelled() and start.exception() is None:
                started = self._started[lease_id] = start.result()
                also.append(started.keeper)
        await self.host.terminate(lease_id, hub_id=self._hub_id, grace_s=grace_s, also=also)
        found = await self.machine.found_or_none()
        await self.host.in_thread(self._prepare.free, lease_id, None if found is None else found.groups)

    def _state(self, handle: Handle, listing: Listing) -> ServerState:
        main = _identity(handle)
        found = listing.of_lease(handle.lease_id, self._hub_id)
        running = listing.is_of(main, handle.lease_id, self._hub_id) if main is not None else bool(found)
        return ServerState.RUNNING if running else ServerState.GONE

    async def _prune_logs(self, listing: Listing) -> None:
        if time.monotonic() - self._pruned_at < _PRUNE_EVERY_S:
            return
        self._pruned_at = time.monotonic()
        live = listing.leases(self._hub_id, self.name).keys() | self._launches.leases()
        await self.host.in_thread(self._logs.prune, live)


def _identity(handle: Handle) -> Identity | None:
    pid, created = handle.data.get("pid"), handle.data.get("created")
    if isinstance(pid, int) and pid > 1 and isinstance(created, (int, float)) and created > 0:
        return pid, float(created)
    return None
