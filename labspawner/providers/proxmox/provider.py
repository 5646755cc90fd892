"""The Proxmox VE provider: each server as a virtual machine of its student's own, cloned from the course's template.

A VM carries hub and lease in its description and in its tags. What is true comes from one listing of the cluster, which
answers everybody for some seconds; a VM is looked at itself only where that listing is known to be late.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from logging import getLogger
from typing import ClassVar, TypeVar
from weakref import WeakValueDictionary

from labspawner.errors import LabError, LeaseConflict, ProviderUnavailable, SetupError, StartFailed
from labspawner.model import (
    Activity,
    Capacity,
    Event,
    Feature,
    Handle,
    Json,
    LaunchRequest,
    LeaseId,
    OwnedResource,
    Ready,
    ReleaseMode,
    Reservation,
    ServerState,
    Usage,
)
from labspawner.providers.contract import ConsoleTicket, Departure, Ear, HomeAnswer, HomeCall, ProviderContext
from labspawner.providers.findings import Asked, Finding, error
from labspawner.providers.launches import Launches
from labspawner.providers.options import read_options
from labspawner.providers.proxmox import nodes, stuck, words
from labspawner.providers.proxmox.addresses import pool_for
from labspawner.providers.proxmox.answers import PveRefused, PveSilent
from labspawner.providers.proxmox.console import open_console, why_ended
from labspawner.providers.proxmox.diagnosis import Subject, diagnose, wants_of, who_asks
from labspawner.providers.proxmox.doing import TaskFailed, Vanished
from labspawner.providers.proxmox.homecalls import place_of
from labspawner.providers.proxmox.job import Job
from labspawner.providers.proxmox.machines import NotOurs
from labspawner.providers.proxmox.making import no_calls
from labspawner.providers.proxmox.options import ProxmoxSettings, ProxmoxVariant
from labspawner.providers.proxmox.plant import Plant
from labspawner.providers.proxmox.record import record_of
from labspawner.providers.proxmox.reserving import ADDRESS
from labspawner.providers.proxmox.views import View
from labspawner.sentences import Sentence
from labspawner.units import human_duration

log = getLogger(__name__)
T = TypeVar("T")

_LET_GO_S = 30.0
_CONSOLE_AGE_S, _PLACES_AGE_S = 2.0, 60.0


class ProxmoxProvider:
    """Starts each server as a virtual machine, and finds it again by its marker."""

    desktop_only: ClassVar[bool] = True
    """Some of its servers are a screen and nothing else, which the desktop service shows."""

    def __init__(self, context: ProviderContext, settings: Mapping[str, Json]) -> None:
        self.name = context.name
        self.settings = read_options(ProxmoxSettings, settings, where=f"Provider {context.name}")
        self.features = frozenset({Feature.PARK, Feature.HIBERNATE, Feature.LOGS, Feature.CONSOLE, Feature.ACTIVITY})
        self._hub_id = context.hub_id
        self._plant = plant = Plant(context, self.settings)
        self.client, self.tasks, self.agent = plant.client, plant.tasks, plant.agent
        self.snapshots, self.reservations, self.draining = plant.snapshots, plant.reservations, plant.draining
        self.leaving = plant.leaving
        self._launches = Launches(self.settings.max_servers)
        self._jobs: dict[LeaseId, Job] = {}
        self._ends: WeakValueDictionary[LeaseId, asyncio.Lock] = WeakValueDictionary()
        self._roll_backs: set[asyncio.Task[None]] = set()

    # -- what there is

    async def capacity(self) -> Capacity:
        """What each node can still hold, never summed."""
        view = await self._view(self.settings.snapshot_s)
        now = datetime.now(timezone.utc)
        running = self._plant.watch.running(await _answered(self._plant.machines.all(view), doing="list servers"))
        left = self.settings.max_servers
        if left is not None:
            left = max(0, left - len({*running, *self._launches.leases()}))
        return nodes.capacity(
            view,
            self.settings,
            hub_id=self._hub_id,
            taken_at=now,
            draining=await self.draining.nodes(),
            servers_left=left,
        )

    async def observe(self, handles: Sequence[Handle]) -> Mapping[LeaseId, ServerState]:
        """Say what is true now, from one listing; a VM itself is asked only where that is late, and not many at once."""
        if not handles:
            return {}
        try:
            view = await self._view(self.settings.snapshot_s)
        except LabError as exc:
            log.warning("cannot observe: %s", exc)
            return {handle.lease_id: ServerState.UNKNOWN for handle in handles}
        return await self._plant.watch.states(handles, view)

    async def owned(self) -> Sequence[OwnedResource]:
        """Every VM with this hub's marker, and every id and address that is held without one, from a listing made now."""
        return await _answered(self._plant.owned(self._launches.leases()), doing="list servers")

    async def activity(self, handle: Handle) -> Activity | None:
        """What the helper in the VM reports: its server's own word, and people at its screen and terminals."""
        record = record_of(handle)
        vmid = record.vmid
        if vmid is None or record.called:
            return None
        try:
            report = await self._plant.arrival.report(vmid)
        except (PveRefused, PveSilent, Vanished) as exc:
            log.debug("no activity lease=%s: %s", handle.lease_id, exc)
            return None
        return report.activity if report is not None and report.lease == handle.lease_id else None

    async def usage(self, handles: Sequence[Handle]) -> Mapping[LeaseId, Usage]:
        """Memory, and what is promised, from the listing."""
        try:
            view = await self._view(self.settings.snapshot_s)
        except LabError:
            return {}
        return self._plant.watch.usage(handles, view)

    async def logs(self, handle: Handle, lines: int) -> str:
        """The last lines of the server's log, which the helper keeps free of its token; empty where it does not answer."""
        record = record_of(handle)
        vmid = record.vmid
        if vmid is None or record.called or lines <= 0:
            return ""
        try:
            return await self._plant.arrival.logs(vmid, lines)
        except Vanished:
            return ""

    def keeps_files(self, settings: Mapping[str, Json]) -> bool:
        """Yes: a server that is stopped keeps its disk, and the next start of the profile finds it. What ends it is the
        profile's own `action: destroy`, its retention, or the deletion of the server."""
        return True

    # -- start

    async def launch(self, request: LaunchRequest) -> AsyncIterator[Event]:
        """Start a server; see the contract. Raises what stands in the way in a sentence."""
        job = self._job(request)
        view = await self._view(self.settings.snapshot_s)
        machines = await _answered(self._plant.machines.all(view), doing="list servers")
        if request.parked is None and any(machine.lease_id == request.lease_id for machine in machines):
            raise LeaseConflict(
                Sentence("Your server is already starting or running. Reload this page."),
                detail=f"there is a VM of lease={request.lease_id} already",
            )
        running = self._plant.watch.running(machines) - {request.lease_id}
        self._launches.begin(request.lease_id, running=running)
        self._jobs[request.lease_id] = job
        job.worker = asyncio.ensure_future(self._plant.start(job))
        try:
            try:
                async for event in job.line.until(job.worker, job.deadline):
                    yield event
                url = job.worker.result()
            except asyncio.TimeoutError as exc:
                raise await self._too_late(job) from exc
            except asyncio.CancelledError:
                if job.released:
                    self._launches.go_on(request.lease_id)
                raise
            except (PveRefused, PveSilent, TaskFailed, Vanished, NotOurs) as exc:
                raise words_of(exc, doing=f"start {job}") from exc
        except BaseException:
            await self._roll_back(job)
            raise
        finally:
            self._launches.end(request.lease_id)
            self._jobs.pop(request.lease_id, None)
        log.info("server answers %s url=%s", job, url)
        yield Ready(url)

    def _job(self, request: LaunchRequest) -> Job:
        """Everything that can be said before anything is made."""
        where = f"Profile {request.profile}, variant of provider {self.name}"
        variant = read_options(ProxmoxVariant, request.settings, where=where)
        if variant.template is None:
            raise SetupError(
                Sentence("This profile names no template to make a virtual machine from. Tell your instructor."),
                detail=f"{where}: template is missing",
            )
        if not variant.serves_jupyter and self.settings.desktop_url is None:
            raise SetupError(
                Sentence("This profile is a desktop, and this hub shows none. Tell your administrator."),
                detail=f"{where}: the desktop service is not configured (desktop_url)",
            )
        pool = None
        if variant.network != "dhcp":
            pool = pool_for(self.settings.addresses, profile=request.profile, wanted=variant.addresses)
            if pool is None and variant.network == "static":
                raise SetupError(
                    Sentence("This profile has no network addresses to give. Tell your instructor."),
                    detail=f"{where}: network is static, and no pool of addresses is for {request.profile}",
                )
        if variant.handover == "call-home" and request.parked is None:
            place = place_of(request.environment, self.settings.hub_connect_url)
            if pool is None or place is None:
                raise no_calls(
                    f"{where}: addresses={pool.name if pool else 'none'} hub={place or 'none that VMs reach'}"
                )
        return Job(
            request=request,
            variant=variant,
            provider=self.name,
            deadline=asyncio.get_running_loop().time() + request.ready_timeout_s,
            addresses=pool,
            parked=request.parked is not None,
        )

    async def call_home(self, call: HomeCall) -> HomeAnswer | None:
        """The environment of a VM that calls for it; see the contract."""
        return await self._plant.calls.answer(call)

    async def _too_late(self, job: Job) -> LabError:
        """The error of a start that took too long, with the server's last words where it has some."""
        await _let_go(job)
        tail = await self._plant.arrival.tail(job, 40)
        return StartFailed(
            Sentence(
                "Your virtual machine was not ready within {waited}. Try again; if it happens again, tell your instructor.",
                waited=human_duration(timedelta(seconds=job.request.ready_timeout_s)),
            ),
            detail=f"not ready in time stage={job.record.stage.value} {job}",
            log_tail=tail,
        )

    async def _roll_back(self, job: Job) -> None:
        """Take back what the start made, to the end even if its caller is cancelled again."""
        task = asyncio.ensure_future(self._undone(job))
        self._roll_backs.add(task)
        task.add_done_callback(self._roll_backs.discard)
        try:
            await asyncio.shield(task)
        except (
            LabError,
            PveRefused,
            PveSilent,
            TaskFailed,
            Vanished,
        ) as exc:  # why we roll back is what the caller hears
            log.error("roll-back left something behind, the reconciler tries again %s: %s", job, exc)

    async def _undone(self, job: Job) -> None:
        await _let_go(job)
        async with self._lock(job.request.lease_id):
            await self._plant.undo(job)

    # -- end

    async def release(self, handle: Handle, mode: ReleaseMode, *, grace_s: float) -> None:
        """Stop, hibernate or destroy, and return when that is true. A stopped or hibernated VM keeps its id, its address and
        its disk. Safe to repeat."""
        lease_id = handle.lease_id
        self._launches.release(lease_id)
        job = self._jobs.get(lease_id)
        if job is not None:
            job.released = True
            await _let_go(job)
        async with self._lock(lease_id):
            await _answered(self._plant.end(handle, mode, grace_s=grace_s), doing=f"release lease={lease_id}")
        log.info("server released lease=%s mode=%s", lease_id, mode.value)

    def _lock(self, lease_id: LeaseId) -> asyncio.Lock:
        """One end at a time for each lease: two would delete each other's VM from under the other. Held across calls to the
        cluster on purpose; a start is not made to wait for it."""
        return self._ends.setdefault(lease_id, asyncio.Lock())

    # -- screen

    async def console(self, handle: Handle) -> ConsoleTicket:
        """A new way to this server's screen. Raises LabError."""
        view = await self._view(_CONSOLE_AGE_S)
        machine = await _answered(self._plant.find(handle, view), doing="open a console")
        if machine is None:
            return await open_console(self.client, vmid=0, node=None, status="")
        running = await _answered(self._plant.is_on(machine), doing="open a console")
        status = "running" if running else "stopped"
        opened = open_console(self.client, vmid=machine.vmid, node=machine.node, status=status)
        return await _answered(opened, doing=f"open the console of vm {machine.vmid}")

    async def console_ended(self, handle: Handle, reference: str) -> Sentence | None:
        """Why a console ended; None where nobody knows."""
        return await why_ended(self.client, reference)

    def offers_screen(self, settings: Mapping[str, Json]) -> bool:
        """Whether a server with these settings of a variant offers its screen."""
        try:
            return read_options(ProxmoxVariant, settings, where="variant").offers_desktop
        except LabError:
            return False

    def ssh(self, handle: Handle) -> str | None:
        """What stands after `ssh `; None where the profile has none."""
        return record_of(handle).ssh or None

    # -- the rest

    def announce_to(self, ear: Ear) -> None:
        """Tell `ear` of servers that end by themselves."""
        self._plant.watch.ear = ear

    async def departures(self, handles: Sequence[Handle]) -> Mapping[LeaseId, Departure]:
        """Servers on nodes that are announced to go away, by where their VMs were seen last."""
        leaving = await self.leaving.nodes()
        if not leaving:
            return {}
        view = await self._view(_PLACES_AGE_S)
        found: dict[LeaseId, Departure] = {}
        for handle in handles:
            record = record_of(handle)
            vm = view.vms.get(record.vmid) if record.vmid is not None else None
            node = vm.node if vm is not None else record.node
            if node in leaving:
                found[handle.lease_id] = leaving[node]
        return found

    async def diagnose_profiles(self, asked: Sequence[Asked]) -> Sequence[Finding]:
        """For `labspawner doctor`: what servers like these will need of this cluster."""
        wants, wrong = wants_of(asked)
        held = await self.reservations.held(datetime.now(timezone.utc))
        subject = Subject(
            get=self.client.get,
            settings=self.settings,
            hub_id=self._hub_id,
            who=await asyncio.to_thread(who_asks, self.settings),
            wants=wants,
            held=frozenset(each.value for each in held if each.pool == ADDRESS),
            draining=await self.draining.nodes(),
            health=self.client.health,
            skew_s=self.client.clock_skew_s,
        )
        return [*wrong, *await diagnose(subject), *await self._stuck(held)]

    async def _stuck(self, held: Sequence[Reservation]) -> Sequence[Finding]:
        try:
            return stuck.findings(await self._plant.machines.all(await self._plant.view(0.0)), held)
        except (PveRefused, PveSilent) as exc:
            return [error("stuck VMs", f"cannot be listed: {exc}")]

    async def close(self) -> None:
        """Finish roll-backs that are under way, and give threads and connections back. Servers keep running."""
        self._plant.watch.ear = None
        if self._roll_backs:
            await asyncio.wait(self._roll_backs)
        await self._plant.close()

    async def _view(self, max_age_s: float) -> View:
        return await _answered(self._plant.view(max_age_s), doing="list the cluster")


async def _let_go(job: Job) -> None:
    """End what does the start, and wait for what it was making."""
    worker, loop = job.worker, asyncio.get_running_loop()
    until = loop.time() + _LET_GO_S
    while worker is not None and not worker.done() and loop.time() < until:
        worker.cancel()  # again and again: Python's own `wait_for` may lose one, where what it waits for ends that moment
        await asyncio.wait({worker}, timeout=0.2)
    if job.making is not None:
        await asyncio.wait({job.making})


async def _answered(asked: Awaitable[T], *, doing: str) -> T:
    """What the cluster answered. Raises LabError where it did not, or refused."""
    try:
        return await asked
    except (PveRefused, PveSilent, TaskFailed, Vanished, NotOurs) as exc:
        error = words_of(exc, doing=doing)
        if isinstance(error, ProviderUnavailable):
            raise error from exc
        message = words.NO_ANSWER if isinstance(error, StartFailed) else error.message
        raise ProviderUnavailable(message, detail=str(error), retry_after_s=30.0) from exc


def words_of(exc: Exception, *, doing: str) -> LabError:
    """What people read of a failure at the cluster."""
    if isinstance(exc, TaskFailed):
        return words.error_of_task(exc.end, doing=doing)
    if isinstance(exc, PveRefused):
        return words.refused(exc, doing=doing)
    if isinstance(exc, PveSilent):
        return words.silent(exc, doing=doing)
    return ProviderUnavailable(words.GONE, detail=f"{doing}: {exc}")
