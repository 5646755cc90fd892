"""The kubelet stand-in: every bound pod gets a `PodLife`, and is told when it shall end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from labspawner.testing.kube import deletion
from labspawner.testing.kube.images import DEFAULT_IMAGE, Image, plain
from labspawner.testing.kube.podlife import Ending, PodLife
from labspawner.testing.kube.resources import CONFIG_MAPS, PODS, SECRETS, Json, Resource
from labspawner.testing.kube.running import Devices, Runner
from labspawner.testing.kube.store import Change
from labspawner.testing.kube.world import World


@dataclass(slots=True)
class Machine:
    """What all nodes of the double have in common: images, who runs containers, who hands out devices."""

    runner: Runner
    images: dict[str, Image] = field(default_factory=lambda: {DEFAULT_IMAGE: Image()})
    devices: Devices | None = None
    enforce_memory: bool = True

    def image(self, name: str) -> Image | None:
        return self.images.get(plain(name)) or self.images.get(name)


class Kubelet:
    """All kubelets of the cluster in one."""

    def __init__(self, world: World, machine: Machine) -> None:
        self.world, self.machine = world, machine
        self.lost: set[str] = set()
        self._lives: dict[str, PodLife] = {}  # by uid
        world.store.listeners.append(self._heard)

    def _heard(self, change: Change) -> None:
        if change.resource in (SECRETS, CONFIG_MAPS):
            self.wake()
        if change.resource is not PODS:
            return
        pod = change.after.obj
        uid, metadata = pod["metadata"]["uid"], pod["metadata"]
        life = self._lives.get(uid)
        if change.deleted:
            if life is not None:
                life.abandon()
            return
        if life is None and pod["spec"].get("nodeName") and pod["status"]["phase"] == "Pending":
            life = self._lives[uid] = PodLife(self, pod)
            self.world.soon(life.start)
        if life is not None and metadata.get("deletionTimestamp") and metadata.get("deletionGracePeriodSeconds"):
            life.order(Ending("deleted", metadata["deletionGracePeriodSeconds"]))

    def life(self, uid: str) -> PodLife | None:
        return self._lives.get(uid)

    def over(self, life: PodLife) -> None:
        """This life has given back all that it had."""
        self._lives.pop(life.uid, None)

    def wake(self) -> None:
        """Something that pods may wait for has changed: an image, a secret, a config map."""
        for life in self._lives.values():
            life.changed.set()

    def lookup(self, namespace: str) -> Callable[[Resource, str], Json | None]:
        def find(resource: Resource, name: str) -> Json | None:
            entry = self.world.store.get(resource, namespace, name)
            return entry.obj if entry else None

        return find

    def log_of(self, uid: str, container: str, *, previous: bool) -> tuple[Path, Callable[[], bool]] | None:
        """Where the log of this container lies; for `logs.serve`."""
        life = self._lives.get(uid)
        return life.log(container, previous=previous) if life else None

    # nodes

    def lose(self, node: str, *, kill: bool) -> None:
        """This node says nothing any more; with `kill` all that ran there is dead."""
        self.lost.add(node)
        for life in self._on(node):
            life.lose(kill=kill)

    def find(self, node: str) -> None:
        """It says something again: what is dead is told, what was to go goes."""
        self.lost.discard(node)
        for life in self._on(node):
            life.find()

    def _on(self, node: str) -> list[PodLife]:
        return [life for life in self._lives.values() if life.node == node]

    async def close(self) -> None:
        """End everything, without telling the store."""
        lives = list(self._lives.values())
        for life in lives:
            life.abandon()
        await asyncio.gather(*(life.gone.wait() for life in lives))
        await self.machine.runner.close()

    def finish(self, pod: Json) -> None:
        """The kubelet's last word: the pod may go."""
        deletion.finish(self.world, pod)
