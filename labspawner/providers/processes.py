"""Processes on the hub's own machine that carry a lease's mark in their environment.

Kernels and terminals start sessions of their own, so neither a process group nor a pid names a server: the mark, which
every descendant inherits, does. Processes that shed it are found through their parents while these live. All walks of
/proc happen in a thread; one walk answers every question asked while it is fresh.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from logging import getLogger
from typing import ParamSpec, TypeAlias, TypeVar
from urllib.parse import urlsplit

import psutil

from labspawner.errors import ProviderUnavailable
from labspawner.model import LeaseId
from labspawner.sentences import Sentence

log = getLogger(__name__)

LEASE_MARK = "LABSPAWNER_LEASE_ID"
HUB_MARK = "LABSPAWNER_HUB_ID"
PROVIDER_MARK = "LABSPAWNER_PROVIDER"
USER_MARK = "LABSPAWNER_USER"

Identity: TypeAlias = tuple[int, float]
"""A pid and the instant it was created (seconds since the epoch): survives the reuse of the pid."""

SAME_INSTANT_S = 1.0  # the epoch time of a creation moves a little when the machine's clock is set
AFTERMATH_S = 2.0  # what outlives the server's main process gets this long between SIGTERM and SIGKILL
KILL_S = 10.0  # after SIGKILL, before we say that the host does not answer (a process in uninterruptible sleep)
CLEAN_LOOKS = 2  # between execve() and its end, a process has no environment to read: look twice

_URL = "JUPYTERHUB_SERVICE_URL"
_INTERESTING = frozenset(name.encode() for name in (LEASE_MARK, HUB_MARK, PROVIDER_MARK, USER_MARK, _URL))
_NO_PROCESS = frozenset({b"Z", b"X", b"x"})  # it ended, and waits for its parent
_CHUNK = 65536
_TICKS = os.sysconf("SC_CLK_TCK")

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostProcess:
    """One live process of a lease. port: where its server was told to listen. inherited: it shed the mark itself.
    hidden: its own environment may not be read."""

    pid: int
    created: float
    parent: int
    lease_id: LeaseId
    hub_id: str
    provider: str
    user: str
    port: int | None = None
    inherited: bool = False
    hidden: bool = False


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What one walk saw.

    asked: `time.monotonic()` at its start. living: all processes of the host but zombies, and when each was created.
    hidden: those whose environment we may not read, because they run as another user.
    """

    asked: float
    marked: tuple[HostProcess, ...]
    living: Mapping[int, float]
    hidden: frozenset[int] = frozenset()

    def alive(self, identity: Identity) -> bool:
        """Whether exactly this process lives, not another one that got its pid."""
        created = self.living.get(identity[0])
        return created is not None and abs(created - identity[1]) < SAME_INSTANT_S

    def is_of(self, identity: Identity, lease_id: LeaseId, hub_id: str) -> bool:
        """Whether exactly this process lives and no other lease, or hub, has its mark on it."""
        return self.alive(identity) and self._owner.get(identity[0], (lease_id, hub_id)) == (lease_id, hub_id)

    def leases(self, hub_id: str, provider: str) -> dict[LeaseId, HostProcess]:
        """The leases of one provider of one hub that have a process here, each with its oldest."""
        return {
            lease_id: found[0]
            for (lease_id, hub), found in self._by_lease.items()
            if hub == hub_id and found[0].provider == provider
        }

    def of_lease(self, lease_id: LeaseId, hub_id: str) -> Sequence[HostProcess]:
        """The processes of one lease, the oldest first."""
        return self._by_lease.get((lease_id, hub_id), ())

    @cached_property
    def _owner(self) -> dict[int, tuple[LeaseId, str]]:
        return {process.pid: (process.lease_id, process.hub_id) for process in self.marked}

    @cached_property
    def _by_lease(self) -> dict[tuple[LeaseId, str], list[HostProcess]]:
        found: dict[tuple[LeaseId, str], list[HostProcess]] = {}
        for process in sorted(self.marked, key=lambda process: (process.created, process.pid)):
            found.setdefault((process.lease_id, process.hub_id), []).append(process)
        return found


def marks(lease_id: LeaseId, *, hub_id: str, provider: str, user: str) -> dict[str, str]:
    """The environment that makes a server and all it starts findable."""
    return {LEASE_MARK: lease_id, HUB_MARK: hub_id, PROVIDER_MARK: provider, USER_MARK: user.replace("\0", "")}


# The children of this hub process, whoever asked for them: only their parent can collect them, so they outlive the
# provider object that started them.
_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}


def adopt(child: subprocess.Popen[bytes]) -> None:
    """Collect `child` when it ends, so that no zombie stays while this hub lives."""
    _CHILDREN[child.pid] = child


def reap() -> None:
    """Collect the children that ended."""
    for pid, child in list(_CHILDREN.items()):
        if child.poll() is not None:
            _CHILDREN.pop(pid, None)


def start_detached(
    argv: tuple[str, ...], *, environment: Mapping[str, str], cwd: str, output_fd: int
) -> tuple[subprocess.Popen[bytes], Identity]:
    """Start a process that outlives the hub: its own session, nothing on stdin, all output to `output_fd`.

    Raises OSError as `subprocess.Popen` does, and ValueError for a NUL in a text. Blocks for milliseconds.
    """
    child: subprocess.Popen[bytes] = subprocess.Popen(  # noqa: S603 - the command is the administrator's
        argv,
        env=dict(environment),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=output_fd,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        created = float(psutil.Process(child.pid).create_time())
    except psutil.Error:  # it died, and was collected by someone else
        created = 0.0
    adopt(child)
    return child, (child.pid, created)


def walk() -> Listing:
    """List the processes of this machine once. Blocks."""
    asked = time.monotonic()
    reap()
    rows: dict[int, HostProcess] = {}
    booted = psutil.boot_time()
    for name in os.listdir("/proc"):  # noqa: PTH208 - names alone, of hundreds of processes
        row = _look_at(int(name), booted) if name.isdecimal() else None
        if row is not None:
            rows[row.pid] = row
    marked = [found for row in rows.values() if (found := _with_inherited_mark(row, rows)) is not None]
    return Listing(
        asked=asked,
        marked=tuple(marked),
        living={pid: row.created for pid, row in rows.items()},
        hidden=frozenset(pid for pid, row in rows.items() if row.hidden),
    )


def _look_at(pid: int, booted: float) -> HostProcess | None:
    """What /proc says of a process, read by hand: psutil takes ten times as long, and every poll of a hub pays for it.

    booted: what `psutil.boot_time()` says, so that the instants of creation are psutil's.
    """
    environment: Mapping[str, str] = {}
    hidden = False
    try:
        stat = _read(f"/proc/{pid}/stat")
        fields = stat[stat.rindex(b")") + 2 :].split()  # the name before may hold anything; see proc(5)
        if fields[0] in _NO_PROCESS:
            return None
        parent, created = int(fields[1]), int(fields[19]) / _TICKS + booted
        try:
            environment = _interesting(_read(f"/proc/{pid}/environ"))
        except PermissionError:  # somebody else's
            hidden = True
    except (OSError, ValueError, IndexError):  # gone meanwhile
        return None
    return HostProcess(
        pid=pid,
        created=created,
        parent=parent,
        lease_id=LeaseId(environment.get(LEASE_MARK, "")),
        hub_id=environment.get(HUB_MARK, ""),
        provider=environment.get(PROVIDER_MARK, ""),
        user=environment.get(USER_MARK, ""),
        port=_port_in(environment.get(_URL, "")),
        hidden=hidden,
    )


def _read(path: str) -> bytes:
    """All of a file of /proc, which gives what there is up to the size asked for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        read = chunk = os.read(descriptor, _CHUNK)
        while len(chunk) == _CHUNK:
            chunk = os.read(descriptor, _CHUNK)
            read += chunk
        return read
    finally:
        os.close(descriptor)


def _interesting(block: bytes) -> dict[str, str]:
    """The variables that a walk reads, from an environment as the kernel gives it: it ends at an empty entry."""
    found: dict[str, str] = {}
    if b"LABSPAWNER_" not in block and b"JUPYTERHUB_" not in block:
        return found
    for entry in block.split(b"\0"):
        if not entry:
            break
        name, _, value = entry.partition(b"=")
        if name in _INTERESTING:
            found[name.decode()] = os.fsdecode(value)
    return found


def _port_in(url: str) -> int | None:
    try:
        return urlsplit(url).port
    except ValueError:
        return None


def _with_inherited_mark(row: HostProcess, rows: Mapping[int, HostProcess]) -> HostProcess | None:
    """`row` with the mark of its nearest marked ancestor, None where there is none."""
    seen = {row.pid}
    ancestor: HostProcess | None = row
    while ancestor is not None and not ancestor.lease_id:
        ancestor = rows.get(ancestor.parent)
        if ancestor is None or ancestor.pid in seen:
            return None
        seen.add(ancestor.pid)
    if ancestor is None or ancestor is row:
        return row
    return replace(
        ancestor, pid=row.pid, created=row.created, parent=row.parent, port=row.port or ancestor.port, inherited=True
    )


def listens_on(processes: Iterable[HostProcess], port: int) -> bool | None:
    """Whether one of `processes` accepts connections on TCP `port`; None where that may not be seen. Blocks."""
    hidden = False
    for row in processes:
        try:
            process = psutil.Process(row.pid)
            connections = getattr(process, "net_connections", None) or process.connections
            if any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in connections(kind="tcp")):
                return True
        except psutil.AccessDenied:
            hidden = True
        except psutil.Error:
            continue
    return None if hidden else False


def environment_of(process: HostProcess) -> Mapping[str, str]:
    """What `process` was started with, secrets included; empty when it is gone, or another user's. Blocks."""
    try:
        return dict(psutil.Process(process.pid).environ())
    except psutil.Error:
        return {}


def _send(identity: Identity, number: signal.Signals) -> None:
    pid, created = identity
    if pid in {0, 1, os.getpid()}:
        return
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - created) < SAME_INSTANT_S:
            process.send_signal(number)
    except psutil.AccessDenied:
        log.warning("may not signal pid=%s: it runs as another user", pid)
    except psutil.Error:
        pass  # it ended first


class HostProcesses:
    """The machine's processes, for one provider: fresh listings without blocking the loop, and the way to end them.

    walks: how often the process table was read.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="labspawner-host")
        self._walk: asyncio.Task[Listing] | None = None
        self._last: Listing | None = None
        self._expired_at = 0.0
        self._closed = False
        self.walks = 0

    async def in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run blocking `work` in this room's own few threads. Raises ProviderUnavailable after `close`."""
        if self._closed:
            raise ProviderUnavailable(Sentence("The hub is shutting down. Try again in a minute."), detail="closed")
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *args, **kwargs))

    def expire(self) -> None:
        """Something was started: a walk that began before now does not answer for it."""
        self._expired_at = time.monotonic()

    async def listing(self, *, max_age_s: float = 0.0) -> Listing:
        """A walk that began at most `max_age_s` before this call; whoever asks meanwhile shares it.

        Raises ProviderUnavailable where /proc cannot be read.
        """
        oldest = max(time.monotonic() - max_age_s, self._expired_at)
        while self._last is None or self._last.asked < oldest:
            if self._walk is None or self._walk.done():
                self._walk = asyncio.ensure_future(self.in_thread(walk))
                self.walks += 1
            try:
                self._last = await asyncio.shield(self._walk)
            except OSError as exc:
                self._last = None
                raise ProviderUnavailable(
                    Sentence("The machine that runs the servers cannot list its processes. Try again in a minute."),
                    detail=f"cannot read the process table: {exc}",
                ) from exc
        return self._last

    async def terminate(self, lease_id: LeaseId, *, hub_id: str, grace_s: float, also: Iterable[Identity] = ()) -> None:
        """End all processes of a lease, and those in `also` that carry no other's mark; returns when none is left.

        Safe to repeat.
        The server itself gets SIGTERM first, so that it can end its kernels in order; what outlives it gets SIGTERM
        too; after `grace_s` seconds in all, SIGKILL. Raises ProviderUnavailable when even that does not help.
        """
        ladder = _Ladder(grace_s=grace_s, now=time.monotonic())
        known: set[Identity] = set(also)
        clean_looks = 0
        while clean_looks < CLEAN_LOOKS:
            listing = await self.listing()
            ours = listing.of_lease(lease_id, hub_id)
            known.update((process.pid, process.created) for process in ours)
            known = {identity for identity in known if listing.is_of(identity, lease_id, hub_id)}
            clean_looks = 0 if known else clean_looks + 1
            if known:
                steps = ladder.next(known, roots=_roots(ours, known), now=time.monotonic())
                if steps is None:
                    raise ProviderUnavailable(
                        Sentence("Your server does not end. Your administrator can find out why; try again later."),
                        detail=f"processes survive SIGKILL lease={lease_id} pids={sorted(pid for pid, _ in known)}",
                    )
                for identity, number in steps:
                    await self.in_thread(_send, identity, number)
            await asyncio.sleep(0.02 if clean_looks or ladder.killing else 0.1)

    async def close(self) -> None:
        """Give the threads back; may be repeated."""
        if self._walk is not None and not self._walk.done():
            await asyncio.wait([self._walk])
        self._closed = True
        self._threads.shutdown(wait=False)


def _roots(ours: Iterable[HostProcess], known: set[Identity]) -> set[Identity]:
    """Those whose parent is not of the lease: the server itself, and what was left to PID 1."""
    parents = {process.pid: process.parent for process in ours}
    return {identity for identity in known if parents.get(identity[0], 0) not in parents}


class _Ladder:
    """Which signal whom, and when: SIGTERM to the oldest root, to the rest when it is gone, SIGKILL at the end."""

    def __init__(self, *, grace_s: float, now: float) -> None:
        self._kill_at = now + grace_s
        self._give_up_at: float | None = None
        self._told: set[Identity] = set()
        self._first: set[Identity] | None = None
        self.killing = False

    def next(
        self, living: set[Identity], *, roots: set[Identity], now: float
    ) -> list[tuple[Identity, signal.Signals]] | None:
        """The signals to send now; None when there is nothing more to try."""
        if self._give_up_at is not None and now >= self._give_up_at:
            return None
        self.killing = now >= self._kill_at
        if self.killing:
            if self._give_up_at is None:  # counted from the first SIGKILL: the walk before it may take long
                self._give_up_at = now + KILL_S
            return [(identity, signal.SIGKILL) for identity in sorted(living)]
        if self._first is None:
            self._first = {min(roots or living, key=lambda identity: (identity[1], identity[0]))}
        if self._first & living:
            wanted = self._first
        else:
            wanted = living
            self._kill_at = min(self._kill_at, now + AFTERMATH_S) if not living & self._told else self._kill_at
        fresh = (wanted & living) - self._told
        self._told |= fresh
        return [(identity, signal.SIGTERM) for identity in sorted(fresh)]
