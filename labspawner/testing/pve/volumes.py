"""Volumes on storages: how they are named, made, copied and removed, and how much room there is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from labspawner.testing.pve.clock import Clock
from labspawner.testing.pve.locks import Locks
from labspawner.testing.pve.tasks import Task, TaskFailed
from labspawner.testing.pve.world import GIB, MIB, Storage, Vm, Volume, World

CLOUDINIT_BYTES = 4 * MIB


@dataclass(frozen=True, slots=True)
class Room:
    total: int
    used: int
    avail: int


class Volumes:
    """alloc_s: how long one allocation holds the storage's lock; delete_s: so for one removal."""

    def __init__(self, world: World, clock: Clock, locks: Locks, *, alloc_s: float, delete_s: float) -> None:
        self._world, self._clock, self._locks = world, clock, locks
        self.alloc_s, self.delete_s = alloc_s, delete_s
        self._limits: dict[tuple[str, str], int] = {}  # storage and node -> bytes in use at which it is full

    # looking

    def find(self, volid: str, node: str) -> Volume | None:
        return self._world.volumes.get((volid, "")) or self._world.volumes.get((volid, node))

    def storage_of(self, volid: str) -> Storage | None:
        return self._world.storages.get(volid.partition(":")[0])

    def on(self, storage: Storage, node: str) -> list[Volume]:
        return [one for one in self._world.volumes.values() if one.storage == storage.name and one.node in ("", node)]

    def room(self, storage: Storage, node: str) -> Room:
        used = storage.taken_bytes + sum(one.used_bytes for one in self.on(storage, node))
        limit = self._limits.get((storage.name, "" if storage.shared else node), storage.total_bytes)
        avail = max(0, min(storage.total_bytes, limit) - used)
        return Room(storage.total_bytes, storage.total_bytes - avail, avail)

    def fill(self, name: str, left_bytes: int | None) -> None:
        """Leave that much room on every node; None: as much as there is."""
        storage = self._world.storages[name]
        for node in ("",) if storage.shared else tuple(self._world.nodes):
            self._limits.pop((name, node), None)
            if left_bytes is not None:
                room = self.room(storage, node)
                self._limits[(name, node)] = room.total - room.avail + left_bytes

    def children(self, volume: Volume) -> list[Volume]:
        return [
            one
            for one in self._world.volumes.values()
            if one.parent == volume.volid and one.storage == volume.storage and one.node == volume.node
        ]

    def path(self, storage: Storage, vmid: int, name: str) -> str:
        base = "/var/lib/vz" if storage.name == "local" else f"/mnt/pve/{storage.name}"
        return f"{base}/images/{vmid}/{name}"

    # changing

    def put(self, storage: Storage, node: str, vmid: int, name: str, size: int, used: int, parent: str = "") -> Volume:
        """A volume that is simply there; name: `vm-101-disk-0.qcow2`."""
        volid = f"{parent}/{vmid}/{name}" if parent else f"{storage.name}:{vmid}/{name}"
        where = "" if storage.shared else node
        fmt = "raw" if name.endswith(".raw") else "qcow2"
        volume = Volume(volid, storage.name, where, vmid, size, used, fmt, parent, self._clock.now())
        self._world.volumes[(volid, where)] = volume
        return volume

    async def make(
        self, task: Task, storage: Storage, node: str, vmid: int, name: str, size: int, used: int, parent: str = ""
    ) -> Volume:
        """Allocate under the storage's lock. Raises TaskFailed for the lock and for no room."""
        async with self._locks.storage(storage, node):
            task.say(f"Formatting '{self.path(storage, vmid, name)}', {_qemu_img(name, size, parent)}")
            await self._clock.sleep(self.alloc_s)
            self._must_fit(storage, node, used, vmid, name)
            return self.put(storage, node, vmid, name, size, used, parent)

    def _must_fit(self, storage: Storage, node: str, more: int, vmid: int, name: str) -> None:
        if self.room(storage, node).avail < more:
            where = self.path(storage, vmid, name)
            raise TaskFailed(f"unable to create image: qemu-img: {where}: Could not write: No space left on device")

    def next_name(self, storage: Storage, node: str, vmid: int, suffix: str = "qcow2") -> str:
        """The first free `vm-ID-disk-N`, by the storage and by what the VM's config names there."""
        taken = {one.volid.rpartition("/")[2].rpartition(".")[0] for one in self.on(storage, node) if one.vmid == vmid}
        number = next(n for n in range(1000) if not {f"vm-{vmid}-disk-{n}", f"base-{vmid}-disk-{n}"} & taken)
        return f"vm-{vmid}-disk-{number}.{suffix}"

    async def copy(self, task: Task, source: Volume, target: Volume, seconds: float) -> None:
        """Fill a full clone, telling its progress. Raises TaskFailed when the room ends on the way."""
        storage = self._world.storages[target.storage]
        whole = source.size_bytes / GIB
        for percent in range(0, 101, 10):
            if percent:
                await self._clock.sleep(seconds / 10)
            done = f"{whole * percent / 100:.1f} GiB" if percent else "0.0 B"
            task.say(f"transferred {done} of {whole:.1f} GiB ({percent:.2f}%)")
            wanted = source.used_bytes * percent // 100
            if self.room(storage, target.node).avail < wanted - target.used_bytes:
                raise TaskFailed("copy failed: qemu-img: error while writing: No space left on device")
            target.used_bytes = max(target.used_bytes, wanted)

    async def remove(self, task: Task | None, volume: Volume) -> None:
        """Remove under the storage's lock. Raises TaskFailed for the lock."""
        storage = self._world.storages[volume.storage]
        async with self._locks.storage(storage, volume.node, task=task):
            await self._clock.sleep(self.delete_s)
            self.drop(volume)

    def drop(self, volume: Volume) -> None:
        self._world.volumes.pop((volume.volid, volume.node), None)

    def drop_all(self, vm: Vm) -> None:
        """All volumes of a VM, also those its config forgot."""
        for volume in [one for one in self._world.volumes.values() if one.vmid == vm.vmid]:
            if not volume.node or volume.node == vm.node:
                self.drop(volume)


def _qemu_img(name: str, size: int, parent: str) -> str:
    if name.endswith(".raw"):
        return f"fmt=raw size={size} preallocation=off"
    if parent:
        base = parent.partition(":")[2]
        backing = f"backing_file=../{base} backing_fmt=qcow2 "
        return (
            f"fmt=qcow2 cluster_size=65536 extended_l2=off compression_type=zlib size={size} {backing}"
            "lazy_refcounts=off refcount_bits=16"
        )
    return (
        "fmt=qcow2 cluster_size=65536 extended_l2=off preallocation=metadata compression_type=zlib "
        f"size={size} lazy_refcounts=off refcount_bits=16"
    )


def size_text(size: int) -> str:
    """As a disk's line says it: 3G, 4M."""
    for unit, letter in ((GIB, "G"), (MIB, "M"), (1024, "K")):
        if size % unit == 0:
            return f"{size // unit}{letter}"
    return str(size)


async def gone(volumes: Volumes, task: Task, made: list[Volume]) -> None:
    """Clean up what a failed task made; what cannot go now stays."""
    for volume in made:
        try:
            await asyncio.shield(volumes.remove(None, volume))
        except TaskFailed as failed:
            task.say(f"Could not remove disk '{volume.volid}', check manually: {failed}")
