"""A VM of a student's own: an id and an address taken, the template cloned, the copy set up, ready to be switched on.

Each thing is in the handle before it is made. A clone that fails because others clone too is tried again, with another id
where somebody took it; what has our marker is ours, whatever PVE said.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from logging import getLogger
from typing import Any

from labspawner.errors import LabError, ProviderUnavailable, SetupError
from labspawner.model import LeaseId
from labspawner.providers.proxmox import homecalls, nodes, recipe, words
from labspawner.providers.proxmox.answers import Fault, PveRefused, PveSilent, PveUntrusted, TaskEnd
from labspawner.providers.proxmox.client import Client
from labspawner.providers.proxmox.cloning import CloneQueue, Limits, Next, Trouble, Wish, after, pause_s
from labspawner.providers.proxmox.doing import Doing, TaskFailed, Vanished
from labspawner.providers.proxmox.draining import Draining
from labspawner.providers.proxmox.job import Job
from labspawner.providers.proxmox.machines import Machines
from labspawner.providers.proxmox.marks import Marker, clone_name, mac_of, same_vm, uuid_of
from labspawner.providers.proxmox.nodes import Promise, Spot, Template
from labspawner.providers.proxmox.options import ProxmoxSettings
from labspawner.providers.proxmox.pace import Pace
from labspawner.providers.proxmox.record import Stage
from labspawner.providers.proxmox.reserving import Reserver
from labspawner.providers.proxmox.snapshot import Snapshots
from labspawner.providers.proxmox.tasks import Tasks
from labspawner.providers.proxmox.wishes import PciWish, devices
from labspawner.sentences import Sentence

log = getLogger(__name__)

_CONFIG_S = 120.0
_RESERVE, _QUEUE, _CLONE, _CONFIGURE = 2, 4, 6, 40
_CLOCKS_DIFFER_S = 30
_LOOK_EVERY_S = 10.0
_TAKEN = frozenset({Fault.ID_TAKEN})
_LOCKED = frozenset({Fault.LOCK_TIMEOUT, Fault.STORAGE_LOCK})


class NodeLost(Exception):
    """A node went away in the middle of a clone: nobody knows what came of it."""


class Making:
    """Makes VMs."""

    def __init__(
        self,
        client: Client,
        tasks: Tasks,
        snapshots: Snapshots,
        doing: Doing,
        machines: Machines,
        reserver: Reserver,
        draining: Draining,
        settings: ProxmoxSettings,
        *,
        hub_id: str,
        pace: Pace,
    ) -> None:
        self._client = client
        self._tasks = tasks
        self._snapshots = snapshots
        self._doing = doing
        self._machines = machines
        self._reserving = reserver
        self._draining = draining
        self._settings = settings
        self._hub_id = hub_id
        self._pace = pace
        self._queue = CloneQueue(
            Limits(linked_per_template=settings.linked_clones, full_per_storage=settings.full_clones)
        )
        self._promises: dict[LeaseId, Promise] = {}
        self._templates: dict[tuple[int, str], Mapping[str, Any]] = {}
        self._chance = random.Random()  # noqa: S311 - spreads tries, keeps no secret

    async def make(self, job: Job) -> None:
        """A VM of the job's own, ready to be switched on. Raises LabError, PveRefused, PveSilent, TaskFailed."""
        spot = await self._spot(job)
        await job.checkpoint(stage=Stage.RESERVING, desktop=not job.variant.serves_jupyter)
        await job.line.say(_RESERVE, words.RESERVING)
        view = await self._snapshots.now(self._settings.snapshot_s)
        await self._reserving.take_id(job, view.ids)
        await self._reserving.take_address(job, view)
        await self._cloned(job, spot)
        await self._set_up(job)

    def forget(self, lease_id: LeaseId) -> None:
        """The lease's start is undone, or its server ended: nothing is promised to it any more."""
        self._promises.pop(lease_id, None)

    # -- where to

    async def _spot(self, job: Job, *, max_age_s: float | None = None) -> Spot:
        """The best node for it now. Raises LabError where there is none."""
        variant, settings = job.variant, self._settings
        view = await self._snapshots.now(settings.snapshot_s if max_age_s is None else max_age_s)
        wanted = str(variant.template or "")
        found = nodes.find_templates(view, wanted)
        if not found:
            raise nodes.no_template(wanted)
        templates, full = [], False
        for vm in found:
            config = await self._template_config(vm.vmid, vm.name)
            full = full or recipe.copies_fully(variant, config, view.storages)
            templates.append(Template.of(vm, config))
        need = nodes.need_of(
            job.request.resources,
            full=full,
            storage=variant.storage,
            hibernate=variant.hibernate,
            pci=variant.pci.mapping if variant.pci is not None else None,
            nodes=frozenset(variant.nodes),
        )
        mine = job.request.lease_id
        # A promise stands until a listing shows the VM running, which is seconds after it was switched on.
        self._promises = {lease: each for lease, each in self._promises.items() if not nodes.kept(each, view)}
        promised = [promise for lease_id, promise in self._promises.items() if lease_id != mine]
        placement = nodes.place(
            view,
            templates,
            need,
            settings=settings,
            draining=await self._draining.nodes(),
            promised=promised,
            devices=await self._devices(variant.pci),
        )
        if not placement.spots:
            raise nodes.nowhere(placement, need, view=view, settings=settings)
        spot = placement.spots[0]
        self._promises[mine] = replace(nodes.promise_of(spot, need), vmid=job.record.vmid)
        job.full = full
        return spot

    async def _devices(self, wish: PciWish | None) -> Mapping[str, int] | None:
        """How many devices each node has for it; None where none is wanted, or the token may not read that."""
        if wish is None:
            return None
        try:
            return devices(await self._client.get("/cluster/mapping/pci"), wish)
        except PveRefused as exc:
            log.debug("mappings cannot be read: %s", exc)
            return None

    async def _template_config(self, vmid: int, name: str) -> Mapping[str, Any]:
        """A template's configuration. Templates hardly change, and one that did has another name or number in our docs."""
        key = (vmid, name)
        if key not in self._templates:
            self._templates[key] = await self._machines.config(vmid)
        return self._templates[key]

    # -- the clone

    async def _cloned(self, job: Job, spot: Spot) -> None:
        """The VM of the handle is there, and is ours. Raises LabError, PveRefused, PveSilent, TaskFailed."""
        ids_tried = tries_of_id = 1
        error: Exception
        while True:
            try:
                return await self._turn(job, spot)
            except (PveRefused, TaskFailed) as exc:
                trouble, error = _trouble(exc.fault), exc
            except NodeLost as exc:
                # What it finished has our marker, and is ended as a second VM of its lease once the node is back.
                trouble, error = Trouble.TAKEN, exc
                log.warning("node %s went away during a clone, trying elsewhere %s", exc, job)
            view = await self._snapshots.now(0.0)
            lost = isinstance(error, NodeLost)
            if trouble is not Trouble.OTHER and not lost and job.vmid in view.vms and await self._is_ours(job):
                return await self._adopt(job)
            step = after(trouble, taken_now=job.vmid in view.ids, tries_of_id=tries_of_id, ids_tried=ids_tried)
            if step is Next.GIVE_UP:
                raise error
            log.info("clone failed, next: %s %s: %s", step.value, job, error)
            if step is Next.OTHER_ID:
                await self._reserving.take_other_id(job, view, lost=lost)
                ids_tried, tries_of_id = ids_tried + 1, 1
            else:
                await self._pace.sleep(pause_s(tries_of_id, self._chance.random()))
                tries_of_id += 1
            spot = await self._spot(job)

    async def _turn(self, job: Job, spot: Spot) -> None:
        """One try, when it is this start's turn."""
        ticket = self._queue.enter(Wish(template=spot.template.vmid, storage=spot.storage, full=job.full))
        try:
            while not await ticket.wait(1.0):
                job.line.mention(_QUEUE, words.WAITING_FOR_CLONE(ticket.ahead))
            spot = await self._spot(job, max_age_s=0.0)  # PVE would clone onto a node that went away meanwhile
            await job.checkpoint(
                stage=Stage.CLONING,
                node=spot.node,
                source=spot.template.node,
                template=spot.template.vmid,
                name=clone_name(job.request.user, job.request.lease_id),
                since=int(time.time()),
                upid="",
            )
            await self._clone(job, spot)
        finally:
            ticket.leave()

    async def _clone(self, job: Job, spot: Spot) -> None:
        await job.line.say(_CLONE, words.CLONING)
        params = recipe.clone(
            self.marker(job),
            newid=job.vmid,
            pool=self._settings.pool,
            source=spot.template.node,
            target=spot.node,
            full=job.full,
            storage=spot.storage if job.full else None,
        )
        path = f"/nodes/{spot.template.node}/qemu/{spot.template.vmid}/clone"
        try:
            upid = await job.make(self._client.post(path, **params))
        except PveSilent as exc:
            if not exc.sent or isinstance(exc, PveUntrusted):
                raise
            await self._settled(job)
            if not await self._is_ours(job):
                raise
        else:
            await job.checkpoint(stage=Stage.CLONED, upid=str(upid))
            await self._clone_ended(job, str(upid))
        await self._adopt(job)

    async def _clone_ended(self, job: Job, upid: str) -> None:
        """Return when the clone is done. Raises TaskFailed, PveRefused, PveSilent; NodeLost where its node went away."""

        def heard(percent: float | None, _: str) -> None:
            if percent is not None:
                job.line.mention(_CLONE + int((_CONFIGURE - _CLONE) * percent / 100), words.cloning(int(percent)))

        ended = asyncio.ensure_future(self._tasks.end(upid, within_s=self._settings.clone_timeout_s, heard=heard))
        try:
            while not (await asyncio.wait({ended}, timeout=_LOOK_EVERY_S / self._settings.pace))[0]:
                view = await self._snapshots.now(self._settings.snapshot_s)
                if not view.online(job.record.source) or not view.online(job.record.node):
                    raise NodeLost(job.record.node)
            end = ended.result()
        except PveSilent:
            if await self._is_ours(job):  # nobody could tell of the task, and the VM is there
                return
            raise
        finally:
            ended.cancel()
        if not end.ok:
            raise TaskFailed(end, f"clone of {job.record.template} to {job.vmid}")

    async def _settled(self, job: Job) -> None:
        """Return when no clone that may be this one runs any more, as far as that can be told."""
        record = job.record
        await self.wait_for_clones(record.source, record.template or 0, record.since)

    async def wait_for_clones(self, node: str, template: int, since: int) -> None:
        """Return when no clone of this template that began since then runs any more. A task names the template and not the
        new VM, so all are waited for. Raises PveRefused and PveSilent."""
        for seen in await self._tasks.recent(node, template, "qmclone", since - _CLOCKS_DIFFER_S):
            if seen.end is None:
                await self._tasks.end(seen.upid, within_s=self._settings.clone_timeout_s)

    async def end_of_clone(self, upid: str) -> TaskEnd | None:
        """How a clone ended that is asked to; it cleans up after itself. None where nobody knows it any more."""
        with contextlib.suppress(PveRefused):
            await self._tasks.stop(upid)
        try:
            return await self._tasks.end(upid, within_s=self._settings.clone_timeout_s)
        except PveRefused:
            return None

    async def _is_ours(self, job: Job) -> bool:
        """Whether the VM with the job's id has the job's marker."""
        try:
            config = await self._machines.config(job.vmid)
        except Vanished:
            return False
        except PveRefused as exc:
            if exc.fault in {Fault.GONE_OR_FORBIDDEN, Fault.MOVED}:
                return False
            raise
        return same_vm(config, hub_id=self._hub_id, lease_id=job.request.lease_id)

    async def _adopt(self, job: Job) -> None:
        """Write down what the VM is known by. Raises ProviderUnavailable where it is not ours, or not there."""
        await self._snapshots.now(0.0)
        try:
            config = await self._machines.config(job.vmid)
        except Vanished as exc:
            raise _lost(job) from exc
        if not same_vm(config, hub_id=self._hub_id, lease_id=job.request.lease_id):
            raise _lost(job)
        job.config = config
        await job.checkpoint(stage=Stage.MADE, uuid=uuid_of(config) or "", mac=mac_of(config) or "")

    # -- set up

    async def _set_up(self, job: Job) -> None:
        """What the profile says of the VM is in its configuration. Raises LabError, PveRefused, PveSilent, TaskFailed."""
        await job.line.say(_CONFIGURE, words.PREPARING)
        config, vmid = job.config, job.vmid
        network = recipe.Network(pool=job.addresses, address=job.record.address or None)
        calls_home = await self.hint(job)
        drive = recipe.cloud_init_drive(config, job.variant)
        if drive is not None:
            await self._doing.task(vmid, "POST", "config", kind="qmconfig", within_s=_CONFIG_S, **drive)
        params = recipe.configuration(
            config,
            self.marker(job),
            variant=job.variant,
            settings=self._settings,
            resources=job.request.resources,
            network=network,
            calls_home=calls_home,
        )
        await self._doing.put(vmid, "config", **params)
        growth = recipe.growth(config, job.request.resources.disk_bytes)
        if growth is not None:
            await self._doing.task(vmid, "PUT", "resize", kind="resize", within_s=_CONFIG_S, **growth)
        if self._settings.anti_spoofing:
            for method, path, more in recipe.firewall(job.variant, network):
                await self._doing.order(vmid, method, path, **more)

    async def hint(self, job: Job) -> str | None:
        """What tells the VM to call home at its next boot, with a nonce of this start; None where it is not to. What the
        nonce hashes to is stored before anybody has it. Raises SetupError where it has to call, and cannot."""
        place = homecalls.place_of(job.request.environment, self._settings.hub_connect_url)
        if not job.variant.may_call_home or job.addresses is None or not job.record.address or place is None:
            if job.variant.handover == "call-home":
                raise no_calls(f"address={job.record.address or 'none'} hub={place or 'has no address for VMs'} {job}")
            return None
        job.nonce = homecalls.new_nonce()
        await job.checkpoint(nonce=homecalls.digest(job.nonce), called=False)
        return homecalls.hint(job.nonce, place)

    def marker(self, job: Job) -> Marker:
        """Whose the job's VM is."""
        request = job.request
        return Marker(
            hub_id=self._hub_id,
            lease_id=request.lease_id,
            user=request.user,
            server_name=request.server_name,
            profile=request.profile,
            address=job.record.address,
        )


def no_calls(detail: str) -> SetupError:
    """A profile whose VMs are to call home, on a hub that they cannot call."""
    return SetupError(words.NO_CALLS, detail=f"call home: {detail}")


def _trouble(fault: Fault) -> Trouble:
    if fault in _TAKEN:
        return Trouble.TAKEN
    return Trouble.LOCKED if fault in _LOCKED else Trouble.OTHER


def _lost(job: Job) -> LabError:
    return ProviderUnavailable(
        Sentence("Your virtual machine was made, and is not there any more. Try again."),
        detail=f"cloned, but the VM with this id is gone or another's {job}",
    )


def _now() -> datetime:
    return datetime.now(timezone.utc)
