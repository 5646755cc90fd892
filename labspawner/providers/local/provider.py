"""The local provider: servers as plain processes on the hub's own machine. A demo on loopback, not a sandbox."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from logging import getLogger
from pathlib import Path

import psutil

from labspawner.errors import ProviderUnavailable, StartFailed
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
from labspawner.naming import safe_name
from labspawner.providers import probe
from labspawner.providers.contract import ProviderContext
from labspawner.providers.launches import Launches
from labspawner.providers.local import explain, sandbox
from labspawner.providers.local.homes import prepare_home
from labspawner.providers.local.logs import LogBook, secrets_in
from labspawner.providers.local.options import LocalSettings, LocalVariant
from labspawner.providers.local.ports import Ports
from labspawner.providers.options import read_options
from labspawner.providers.processes import (
    HostProcesses,
    Identity,
    Listing,
    environment_of,
    listens_on,
    marks,
    start_detached,
)
from labspawner.sentences import Sentence

log = getLogger(__name__)

_LOOK_EVERY_S = 0.1  # at a starting server: its death is noticed within two looks
_FRESH_S = 0.5  # one listing answers all that is asked within this time
_PRUNE_EVERY_S = 60.0
_ROLLBACK_GRACE_S = 2.0
_TAIL_LINES = 40
_CHILDREN_REMEMBERED = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One launch, worked out before anything is touched."""

    request: LaunchRequest
    variant: LocalVariant
    argv: tuple[str, ...]
    home: Path
    log: Path
    deadline: float

    def handle(self, provider: str, *, port: int | None = None, identity: Identity | None = None) -> Handle:
        data: dict[str, Json] = {"home": str(self.home), "log": str(self.log)}
        if port is not None:
            data["port"] = port
        if identity is not None:
            data["pid"], data["created"] = identity
        return Handle(lease_id=self.request.lease_id, provider=provider, data=data)


class LocalProvider:
    """Starts each server as a detached process with a home of its own, and finds it again by its mark."""

    features = frozenset({Feature.LOGS})

    def __init__(self, context: ProviderContext, settings: Mapping[str, Json]) -> None:
        self.name = context.name
        self.settings = read_options(LocalSettings, settings, where=f"Provider {context.name}")
        self._hub_id = context.hub_id
        self._homes = self.settings.homes or context.data_dir / "homes"
        self._logs = LogBook(
            context.data_dir / "logs", limit_bytes=self.settings.log_limit, kept=self.settings.logs_kept
        )
        self._ports = Ports(self.settings.bind_ip, self.settings.port_range)
        self.host = HostProcesses()
        self._launches = Launches(self.settings.max_servers)
        self._forks: dict[LeaseId, asyncio.Future[tuple[subprocess.Popen[bytes], Identity]]] = {}
        self._rollbacks: set[asyncio.Task[None]] = set()
        self._children: dict[LeaseId, subprocess.Popen[bytes]] = {}
        self._secrets: dict[LeaseId, frozenset[str]] = {}
        self._pruned_at = 0.0

    async def capacity(self) -> Capacity:
        """This machine: memory as it is free now, and the servers that `max_servers` still allows.

        Processor time is shared by all without a bound, so no share of it is ever counted as taken.
        """
        listing = await self.host.listing(max_age_s=2.0)
        running = listing.leases(self._hub_id, self.name).keys()
        most = self.settings.max_servers
        memory = await self.host.in_thread(psutil.virtual_memory)
        host = HostCapacity(
            name="localhost",
            servers_total=most,
            servers_free=None if most is None else max(0, most - len(running)),
            memory_total_bytes=memory.total,
            memory_free_bytes=memory.available,
        )
        return Capacity(hosts=(host,), taken_at=datetime.now(timezone.utc), counted=frozenset(running))

    async def launch(self, request: LaunchRequest) -> AsyncIterator[Event]:
        """Start a server; see the contract. Raises SetupError, StartFailed, NoRoom, LeaseConflict or ProviderUnavailable,
        each with a sentence for its cause, and BadConfig for a variant's setting that there is not."""
        job = self._job(request)
        running = (await self.host.listing()).leases(self._hub_id, self.name)
        self._launches.begin(request.lease_id, running=running.keys())
        try:
            yield Checkpoint(job.handle(self.name))
            yield Progress(5, Sentence("Preparing your home"))
            await self.host.in_thread(
                prepare_home, job.home, request.user, min_free_bytes=self.settings.min_free_disk, uids=None
            )
            for percent, again in ((20, True), (40, False)):  # once more, on another port, if the first was taken
                url, port = await self._take_port(job)
                yield Checkpoint(job.handle(self.name, port=port))
                yield Progress(percent, Sentence("Starting JupyterLab"))
                child, identity = await self._fork(job, url)
                yield Checkpoint(job.handle(self.name, port=port, identity=identity))
                yield Progress(percent + 15, Sentence("Waiting for it to answer"))
                try:
                    await self._until_ready(job, child, url, port)
                    break
                except StartFailed as exc:
                    if not (again and explain.port_was_taken(exc.log_tail)):
                        raise
                    log.warning("port taken, trying another lease=%s port=%s", request.lease_id, port)
        except BaseException:
            await self._roll_back(request.lease_id)
            raise
        finally:
            self._launches.end(request.lease_id)
            self._ports.give_back(request.lease_id)
        log.debug("server answers lease=%s user=%s pid=%s port=%s", request.lease_id, request.user, identity[0], port)
        yield Ready(url)

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
        """Every lease of this hub that has a process on this machine."""
        listing = await self.host.listing()
        return [
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
            for lease_id, process in listing.leases(self._hub_id, self.name).items()
        ]

    async def activity(self, handle: Handle) -> Activity | None:
        """None: what the hub and the proxy see is all there is."""
        return None

    async def usage(self, handles: Sequence[Handle]) -> Mapping[LeaseId, Usage]:
        """Nothing is known."""
        return {}

    async def logs(self, handle: Handle, lines: int) -> str:
        """The last `lines` lines the server printed, tokens hidden; also for some time after its end."""
        secrets = self._secrets.get(handle.lease_id, frozenset())
        if not secrets:  # started by an earlier hub process: ask the server itself what to hide
            for process in (await self.host.listing(max_age_s=_FRESH_S)).of_lease(handle.lease_id, self._hub_id)[:1]:
                secrets = secrets_in(await self.host.in_thread(environment_of, process))
        return await self.host.in_thread(self._logs.tail, handle.lease_id, lines, secrets=secrets)

    def exit_status(self, lease_id: LeaseId) -> int | None:
        """How a server that this process started has ended, as `subprocess` counts; None while it runs, or unknown."""
        child = self._children.get(lease_id)
        return None if child is None else child.poll()

    async def close(self) -> None:
        """Finish roll-backs that are under way and give the threads back. Servers keep running."""
        if self._rollbacks:
            await asyncio.wait(self._rollbacks)
        await self.host.close()

    def _job(self, request: LaunchRequest) -> _Job:
        where = f"Profile {request.profile}, variant of provider {self.name}"
        variant = read_options(LocalVariant, request.settings, where=where)
        return _Job(
            request=request,
            variant=variant,
            argv=variant.command or request.command,
            home=self._homes / safe_name(request.user),
            log=self._logs.path(request.lease_id),
            deadline=time.monotonic() + request.ready_timeout_s,
        )

    async def _take_port(self, job: _Job) -> tuple[str, int]:
        listing = await self.host.listing(max_age_s=_FRESH_S)
        used = {process.port for process in listing.marked if process.port is not None}
        port = self._ports.take(job.request.lease_id, avoid=used)
        return f"http://{self.settings.bind_ip}:{port}", port

    async def _fork(self, job: _Job, url: str) -> tuple[subprocess.Popen[bytes], Identity]:
        """Start the process in a thread. A cancelled caller leaves the fork in `_forks` for the roll-back."""
        request = job.request
        environment = sandbox.environment_for(
            request,
            job.variant,
            url=url,
            kept={name: os.environ[name] for name in self.settings.env_keep if name in os.environ},
            marks=marks(request.lease_id, hub_id=self._hub_id, provider=self.name, user=request.user),
        )
        environment["PATH"] = _with_own_folder(environment.get("PATH", os.defpath))
        self._secrets[request.lease_id] = secrets_in(environment)
        self._launches.go_on(request.lease_id)
        invocation = sandbox.plain(job.argv, home=str(job.home), environment=environment, as_root=os.geteuid() == 0)
        fork = asyncio.ensure_future(self.host.in_thread(self._start, request.lease_id, invocation))
        self._forks[request.lease_id] = fork
        started = await asyncio.shield(fork)
        self._forks.pop(request.lease_id, None)
        self._children[request.lease_id] = started[0]
        while len(self._children) > _CHILDREN_REMEMBERED:
            self._children.pop(next(iter(self._children)))
        self.host.expire()
        return started

    def _start(self, lease_id: LeaseId, invocation: sandbox.Invocation) -> tuple[subprocess.Popen[bytes], Identity]:
        command = invocation.argv[0]
        if shutil.which(command, path=invocation.environment["PATH"]) is None and not Path(command).exists():
            raise explain.not_found(command)
        try:
            output_fd = self._logs.open(lease_id)
            try:
                return start_detached(
                    invocation.argv, environment=invocation.environment, cwd=invocation.cwd, output_fd=output_fd
                )
            finally:
                os.close(output_fd)
        except (OSError, ValueError) as exc:
            raise explain.refused(exc, command) from exc

    async def _until_ready(self, job: _Job, child: subprocess.Popen[bytes], url: str, port: int) -> None:
        """Return when the server itself answers. Raises StartFailed when it dies, or when time is up."""
        lease_id = job.request.lease_id
        while True:
            exit_code = child.poll()
            if exit_code is None and job.variant.ready == "started":
                return
            if exit_code is not None:
                raise explain.died(exit_code, await self._tail(lease_id))
            left_s = job.deadline - time.monotonic()
            if left_s <= 0:
                raise explain.silent(job.request.ready_timeout_s, await self._tail(lease_id))
            if await probe.answers(url + job.request.base_url + "api", timeout_s=min(2.0, left_s)):
                listing = await self.host.listing()
                ours = listing.of_lease(lease_id, self._hub_id)
                if await self.host.in_thread(listens_on, ours, port) is not False:
                    return
            await asyncio.sleep(_LOOK_EVERY_S)

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
        also = [] if main is None else [main]
        fork = self._forks.pop(lease_id, None)
        if fork is not None:
            await asyncio.wait([fork])
            if fork.exception() is None:
                also.append(fork.result()[1])
        await self.host.terminate(lease_id, hub_id=self._hub_id, grace_s=grace_s, also=also)

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


def _with_own_folder(path: str) -> str:
    """PATH with the folder of the hub's Python at its end: where `jupyterhub-singleuser` is when the hub was started
    by its full path, without activating its environment."""
    own = str(Path(sys.executable).parent)
    return path if own in path.split(os.pathsep) else os.pathsep.join(filter(None, (path, own)))
