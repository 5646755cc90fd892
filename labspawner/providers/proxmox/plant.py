"""All that one provider object works with, put together; and the three things that are done with it: start, undo, end."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timezone
from importlib.util import find_spec
from logging import getLogger
from typing import Any

from labspawner.errors import BadConfig, ProviderUnavailable
from labspawner.model import Handle, LeaseId, OwnedResource, ReleaseMode
from labspawner.providers.contract import ProviderContext, Reserving
from labspawner.providers.proxmox import nodes, recipe, words
from labspawner.providers.proxmox.access import Access
from labspawner.providers.proxmox.agent import GuestAgent
from labspawner.providers.proxmox.answers import Fault, PveRefused, PveSilent
from labspawner.providers.proxmox.arriving import Arrival
from labspawner.providers.proxmox.doing import Doing, Patience, Vanished
from labspawner.providers.proxmox.draining import Draining, ReservedMarks
from labspawner.providers.proxmox.ending import SHUTDOWN_S, Ending, check_not_stuck, no_quorum
from labspawner.providers.proxmox.homecalls import POOL as CALLS
from labspawner.providers.proxmox.homecalls import HomeCalls
from labspawner.providers.proxmox.janitor import Janitor
from labspawner.providers.proxmox.job import Job
from labspawner.providers.proxmox.leaving import Leaving
from labspawner.providers.proxmox.machines import Machine, Machines, NotOurs
from labspawner.providers.proxmox.making import Making
from labspawner.providers.proxmox.marks import mac_of, read_marker, uuid_of
from labspawner.providers.proxmox.options import ProxmoxSettings
from labspawner.providers.proxmox.pace import Pace
from labspawner.providers.proxmox.record import Record, Stage, record_of
from labspawner.providers.proxmox.reserving import ADDRESS, DISKS_LEFT, LEFT_FOR, VMID, Reserver, lost_lease
from labspawner.providers.proxmox.views import View
from labspawner.providers.proxmox.watch import Watch
from labspawner.sentences import Sentence

log = getLogger(__name__)

_ROLL_BACK_GRACE_S = 0.0


class Plant:
    """One cluster, as one hub works with it. Nothing is asked or written before the first call."""

    def __init__(self, context: ProviderContext, settings: ProxmoxSettings) -> None:
        if find_spec("proxmoxer") is None or find_spec("requests") is None:
            raise BadConfig(
                Sentence(
                    "Provider {name}: proxmoxer is not installed in the hub's environment. Install it with: "
                    "pip install 'labspawner[proxmox]'",
                    name=context.name,
                )
            )
        from labspawner.providers.proxmox.client import Client  # noqa: PLC0415 - only a hub with this provider needs it
        from labspawner.providers.proxmox.snapshot import Snapshots  # noqa: PLC0415
        from labspawner.providers.proxmox.tasks import Tasks  # noqa: PLC0415

        self._settings = settings
        self._name, self._hub_id = context.name, context.hub_id
        self.pace = pace = Pace(settings.pace)
        self.client = Client(
            access_of(settings), pace=pace, threads=settings.threads, connect_s=settings.connect_timeout_s
        )
        self.tasks = Tasks(self.client, pace=pace)
        self.snapshots = Snapshots(self.client, pace=pace)
        self.agent = GuestAgent(self.client, pace=pace, at_once=settings.agent_calls)
        self.reservations: Reserving = context.reservations or _own_reservations(context)
        self._reserver = Reserver(self.reservations, settings)
        self.draining = Draining(ReservedMarks(self.reservations))
        self.leaving = Leaving(self.reservations)
        patience = Patience(locks_s=settings.lock_patience_s, cluster_s=settings.patience_s)
        self.doing = Doing(self.client, self.tasks, self.snapshots, pace=pace, patience=patience)
        self.machines = Machines(self.doing, self.snapshots, settings, hub_id=self._hub_id, now=pace.now)
        self.watch = Watch(self.doing, self.snapshots, hub_id=self._hub_id)
        self.calls = HomeCalls(now=pace.now, tell=self._tell_of_call)
        self.arrival = Arrival(self.doing, self.agent, self.calls, settings, pace=pace, runs=self.watch.runs)
        self.ending = Ending(
            self.machines, self.doing, self.tasks, self.snapshots, settings, pace=pace, stopped=self.watch.stopped
        )
        self.making = Making(
            self.client,
            self.tasks,
            self.snapshots,
            self.doing,
            self.machines,
            self._reserver,
            self.draining,
            settings,
            hub_id=self._hub_id,
            pace=pace,
        )
        self.janitor = Janitor(self.machines, self.doing, self.reservations, provider=context.name)
        self._blind = False

    async def view(self, max_age_s: float) -> View:
        """A listing at most so old; a new one after one that failed. Raises PveRefused and PveSilent."""
        try:
            view = await self.snapshots.now(0.0 if self._blind else max_age_s)
        except (PveRefused, PveSilent):
            self._blind = True
            raise
        self._blind = False
        return view

    async def find(self, handle: Handle, view: View) -> Machine | None:
        """The VM of a handle; None where it has none. Raises PveRefused and PveSilent."""
        record = record_of(handle)
        vm = view.vms.get(record.vmid) if record.vmid is not None else None
        machine = await self.machines.of(vm) if vm is not None else None
        if machine is not None and machine.lease_id == handle.lease_id:
            return _with_uuid(machine, record)
        return next((each for each in await self.machines.of_lease(handle.lease_id, view)), None)

    async def owned(self, starting: Collection[LeaseId]) -> Sequence[OwnedResource]:
        """Everything of this hub, from a listing made now. Raises PveRefused, PveSilent, StoreUnavailable."""
        return await self.janitor.owned(await self.view(0.0), starting)

    async def is_on(self, machine: Machine) -> bool:
        """Whether the VM runs; asked of itself where the listing says no, since that is late. Raises as `find`."""
        if machine.vm.status == "running":
            return True
        status = await self.doing.get(machine.vmid, "status/current")
        return isinstance(status, Mapping) and status.get("status") == "running"

    async def _tell_of_call(self, lease_id: LeaseId, wrong: str) -> None:
        """Keep it for `labspawner doctor`. Raises StoreUnavailable."""
        await self.reservations.set_aside(CALLS, lease_id, datetime.now(timezone.utc) + LEFT_FOR, why=wrong[:500])

    # -- start

    async def start(self, job: Job) -> str:
        """The URL of a server that answers. Raises LabError, PveRefused, PveSilent, TaskFailed, Vanished, NotOurs."""
        if not await self._taken_up(job):
            await self.making.make(job)
            self.watch.made(job.vmid)
        return await self.arrival.bring(job)

    async def _taken_up(self, job: Job) -> bool:
        """Whether there is a VM that an earlier launch left, so that it is gone on with."""
        parked = job.request.parked
        if parked is None:
            return False
        view = await self.view(0.0)
        machine = await self.find(parked, view)
        if machine is None:
            if record_of(parked).vmid is not None:
                self._check_believable(view, record_of(parked))
                if (vmid := await self._half_of(parked.lease_id, view)) is not None:
                    raise words.error_of(Fault.GONE_OR_FORBIDDEN, detail=f"vm {vmid} is there and not seen {job}")
                log.warning("the parked VM is gone, starting afresh %s", job)
            job.parked = False
            return False
        if not view.online(machine.node):
            raise ProviderUnavailable(
                Sentence("The machine that keeps your server is not there now. Try again later: your files are on it."),
                detail=f"vm {machine.vmid} is on node {machine.node}, which is offline {job}",
                retry_after_s=60.0,
            )
        await self._take_up(job, machine, view)
        return True

    async def _take_up(self, job: Job, machine: Machine, view: View) -> None:
        now = await self.machines.look(machine)
        check_not_stuck(machine, now.lock)
        if now.running and job.variant.handover == "call-home":
            await self.ending.switch_off(machine, grace_s=SHUTDOWN_S)  # it calls when it boots, and never again
            now = await self.machines.look(machine)
        if not now.running:
            self._check_room(job, machine, now.config, view)
        marker = read_marker(now.config.get("description"))
        address = marker.address if marker is not None else ""
        job.was_running, job.was_hibernated = now.running, now.lock == "suspended"
        job.addresses = job.addresses if address else None
        job.config = now.config
        await job.checkpoint(
            stage=Stage.MADE,
            vmid=machine.vmid,
            node=machine.node,
            name=machine.vm.name,
            address=address,
            ssh=f"{job.variant.user}@{address}" if job.variant.ssh and address else "",
            uuid=uuid_of(now.config) or "",
            mac=mac_of(now.config) or "",
            desktop=not job.variant.serves_jupyter,
            nonce="",
        )
        lease_id, instant = job.request.lease_id, datetime.now(timezone.utc)
        await self.reservations.adopt(VMID, str(machine.vmid), lease_id, instant)
        if address:
            await self.reservations.adopt(ADDRESS, address, lease_id, instant)
        if not now.running and not now.lock:
            await self._as_the_profile_says(job, machine)

    def _check_room(self, job: Job, machine: Machine, config: Mapping[str, Any], view: View) -> None:
        """Raises LabError where its node has not what it needs to run. Its disks are there already."""
        need = nodes.need_of(
            job.request.resources,
            pci=job.variant.pci.mapping if job.variant.pci is not None else None,
            nodes=frozenset({machine.node}),
        )
        settings = self._settings.model_copy(update={"storage_reserve": 0})
        placement = nodes.place(view, [nodes.Template.of(machine.vm, config)], need, settings=settings)
        if not placement.spots:
            raise nodes.nowhere(placement, need, view=view, settings=settings)

    async def _as_the_profile_says(self, job: Job, machine: Machine) -> None:
        """A VM that is off gets what its profile says by now, and this lease's marker."""
        network = recipe.Network(pool=job.addresses, address=job.record.address or None)
        calls_home = await self.making.hint(job)
        wanted = recipe.configuration(
            job.config,
            self.making.marker(job),
            variant=job.variant,
            settings=self._settings,
            resources=job.request.resources,
            network=network,
            calls_home=calls_home,
        )
        changes = {key: value for key, value in wanted.items() if str(job.config.get(key)) != str(value)}
        if changes:
            await self.doing.put(machine.vmid, "config", **changes)

    async def undo(self, job: Job) -> None:
        """Nothing is left of a start that failed; what it resumed, or came to resume, is as it was. Raises like `end`."""
        handle = job.record.handle(job.request.lease_id, self._name)
        if not job.parked:
            await self.end(handle, ReleaseMode.DESTROY, grace_s=_ROLL_BACK_GRACE_S)
        elif job.record.vmid is not None and not job.was_running:
            mode = ReleaseMode.HIBERNATE if job.was_hibernated else ReleaseMode.STOP
            await self.end(handle, mode, grace_s=_ROLL_BACK_GRACE_S)

    # -- end

    async def end(self, handle: Handle, mode: ReleaseMode, *, grace_s: float) -> None:
        """Park or destroy every VM of the lease, and free what it held where none is kept. Raises LabError, PveRefused,
        PveSilent, TaskFailed."""
        lease_id, record = handle.lease_id, record_of(handle)
        self.making.forget(lease_id)
        view = await self.view(0.0)
        machines = await self.machines.of_lease(lease_id, view, vmid=record.vmid)
        if not machines and record.stage in {Stage.CLONING, Stage.CLONED}:
            await self._settle(record, view)
            view = await self.view(0.0)
            machines = await self.machines.of_lease(lease_id, view, vmid=record.vmid)
        if not machines:
            self._check_believable(view, record)
            await self._put_half_aside(lease_id, view)
        if mode is ReleaseMode.HIBERNATE and record.called:
            log.warning("stopped instead of hibernated: it gets its environment when it boots lease=%s", lease_id)
            mode = ReleaseMode.STOP
        kept = await self._end_all([_with_uuid(each, record) for each in machines], mode, grace_s=grace_s)
        if not kept:
            await self.reservations.free(lease_id, datetime.now(timezone.utc), cool_down=self._settings.cool_down)

    async def _end_all(self, machines: Sequence[Machine], mode: ReleaseMode, *, grace_s: float) -> bool:
        """Whether a VM is kept."""
        kept = False
        for machine in machines:
            try:
                if mode is ReleaseMode.DESTROY:
                    left = await self.ending.destroy(machine, grace_s=grace_s)
                    if left:
                        until, why = datetime.now(timezone.utc) + LEFT_FOR, DISKS_LEFT + ", ".join(left)
                        await self.reservations.set_aside(VMID, str(machine.vmid), until, why=why[:500])
                    self.watch.deleted(machine.vmid)
                    self.machines.forget(machine.vmid)
                    log.info("vm deleted vm=%s lease=%s", machine.vmid, machine.lease_id)
                else:
                    await self.ending.park(machine, mode, grace_s=grace_s)
                    kept = True
            except Vanished:
                log.info("vm was deleted meanwhile vm=%s lease=%s", machine.vmid, machine.lease_id)
            except NotOurs as exc:
                log.warning("a VM is left alone: %s", exc)
        return kept

    async def _settle(self, record: Record, view: View) -> None:
        """Return when the clone of a start that is over has come to its end. Raises ProviderUnavailable where its node does
        not say: its id and address stay held until it does."""
        if record.source and not view.online(record.source):
            raise words.error_of(
                Fault.NODE_AWAY, detail=f"clone of vm {record.vmid} began on {record.source}, now offline"
            )
        if record.upid:
            await self.making.end_of_clone(record.upid)
        elif record.template is not None and record.source:
            await self.making.wait_for_clones(record.source, record.template, record.since)

    def _check_believable(self, view: View, record: Record) -> None:
        """Raises ProviderUnavailable where a VM that is not listed may be there all the same."""
        if record.vmid is None:
            return
        if view.quorate is False:
            raise no_quorum(f"vm {record.vmid} is not listed, and the cluster is not quorate")
        if view.blind:
            raise ProviderUnavailable(
                words.NO_ANSWER, detail="the account sees no VM and no storage: are its rights gone?"
            )

    async def _half_of(self, lease_id: LeaseId, view: View) -> int | None:
        """The id of a VM that this account does not see, where the lease holds it: a clone that died half-way is in no pool,
        and only an administrator can remove it. Raises PveRefused and PveSilent."""
        held = await self.reservations.held(datetime.now(timezone.utc), VMID)
        vmid = next((int(each.value) for each in held if each.owner == lease_id), None)
        if vmid is None or vmid in view.ids:
            return None
        try:
            await self.client.get("/cluster/nextid", vmid=vmid)
        except PveRefused as exc:
            if exc.fault is not Fault.ID_TAKEN:
                raise
            return vmid
        return None

    async def _put_half_aside(self, lease_id: LeaseId, view: View) -> None:
        """Keep the id of half a VM, and let its lease end: a student must not wait for an administrator. Raises
        ProviderUnavailable where that was done before, and the half is still there."""
        vmid = await self._half_of(lease_id, view)
        if vmid is None:
            return
        detail = f"vm {vmid} of lease={lease_id} is in no pool that this hub sees"
        if lease_id == lost_lease(vmid):
            raise words.stuck("clone", detail=detail)
        log.error("half a clone is left: %s; %s", detail, words.advice("clone"))
        await self._reserver.lose(vmid)

    async def close(self) -> None:
        """Give threads, connections and the database back. May be repeated."""
        await self.snapshots.close()
        await asyncio.gather(self.client.close(), self.reservations.close())


def access_of(settings: ProxmoxSettings) -> Access:
    """Where the cluster is, and as whom we come. Raises BadConfig for a password file that cannot be read."""
    password = ""
    if settings.password_file is not None:
        try:
            password = settings.password_file.read_text(encoding="utf-8").strip()
        except OSError as exc:
            raise BadConfig(
                Sentence("The file with the cluster's password cannot be read: {why}.", why=str(exc.strerror or exc))
            ) from exc
    fingerprints = {each: settings.fingerprint_of(each) or "" for each in settings.endpoints}
    return Access(
        endpoints=settings.endpoints,
        token=settings.token.get_secret_value().strip() if settings.token is not None else "",
        token_file=settings.token_file,
        username=settings.username or "",
        password=password,
        ca_file=settings.ca_file,
        fingerprint=fingerprints if any(fingerprints.values()) else "",
    )


def _own_reservations(context: ProviderContext) -> Reserving:
    """In the provider's own folder, where the hub has no database for it."""
    from labspawner.store.reservations import Reservations  # noqa: PLC0415 - SQLAlchemy, for this case only

    path = context.data_dir / "reservations.sqlite"
    return Reservations.open(f"sqlite:///{path}", hub_id=context.hub_id, scope=context.name)


def _with_uuid(machine: Machine, record: Record) -> Machine:
    """The machine with what its handle knows of it."""
    if machine.vmid != record.vmid or not record.uuid:
        return machine
    return Machine(vmid=machine.vmid, node=machine.node, lease_id=machine.lease_id, uuid=record.uuid, vm=machine.vm)
