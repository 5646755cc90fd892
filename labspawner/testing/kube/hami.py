"""HAMi's part of a cluster: the webhook that takes GPU pods, the scheduler that counts cards, the annotations they write.

Formats: HAMi's documentation. The scheduler's refusals name what lacks per node; HAMi words them differently between its
versions, so nothing should be read from them but the reason FailedScheduling and that the pod waits.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from labspawner.testing.kube import quantities
from labspawner.testing.kube.placing import Lack, NodeRoom
from labspawner.testing.kube.resources import PODS, Json
from labspawner.testing.kube.world import World

REGISTER, HANDSHAKE = "hami.io/node-nvidia-register", "hami.io/node-handshake"
VGPU_NODE, ALLOCATED = "hami.io/vgpu-node", "hami.io/vgpu-devices-allocated"
TO_ALLOCATE, BIND_PHASE = "hami.io/vgpu-devices-to-allocate", "hami.io/bind-phase"
SCHEDULER = "hami-scheduler"


@dataclass(frozen=True, slots=True)
class HamiCard:
    """One card as a node registers it. memory_mib and cores are totals, `split` how many may share it."""

    uuid: str
    memory_mib: int = 24564
    split: int = 10
    cores: int = 100
    type: str = "NVIDIA-NVIDIA A10"
    numa: int = 0
    healthy: bool = True


@dataclass(frozen=True, slots=True)
class HamiNames:
    """The resource names of HAMi's device config."""

    count: str = "nvidia.com/gpu"
    memory: str = "nvidia.com/gpumem"
    percentage: str = "nvidia.com/gpumem-percentage"
    cores: str = "nvidia.com/gpucores"
    priority: str = "nvidia.com/priority"


@dataclass(frozen=True, slots=True)
class _Wish:
    cards: int
    memory_mib: int
    percentage: int
    cores: int

    def memory_on(self, card: HamiCard) -> int:
        if self.memory_mib:
            return self.memory_mib
        return card.memory_mib * self.percentage // 100


@dataclass(slots=True)
class _Used:
    sharers: int = 0
    memory_mib: int = 0
    cores: int = 0


def registered(cards: Sequence[HamiCard], *, as_json: bool = False) -> dict[str, str]:
    """The annotations that HAMi's device plugin writes on a node with these cards; as_json: the newer form."""
    if as_json:
        rows = [
            {
                "id": card.uuid,
                "index": number,
                "count": card.split,
                "devmem": card.memory_mib,
                "devcore": card.cores,
                "type": card.type,
                "numa": card.numa,
                "mode": "hami-core",
                "health": card.healthy,
            }
            for number, card in enumerate(cards)
        ]
        text = json.dumps(rows, separators=(",", ":"))
    else:
        text = "".join(
            f"{c.uuid},{c.split},{c.memory_mib},{c.cores},{c.type},{c.numa},{str(c.healthy).lower()}:" for c in cards
        )
    return {REGISTER: text, HANDSHAKE: time.strftime("Reported %Y-%m-%d %H:%M:%S +0000 UTC", time.gmtime())}


def cards_of(node: Json) -> tuple[HamiCard, ...]:
    """The cards that a node's annotation registers, in either form."""
    text = (node["metadata"].get("annotations") or {}).get(REGISTER, "").strip()
    if text.startswith("["):
        keys = ("id", "devmem", "count", "devcore", "type", "numa", "health")
        return tuple(HamiCard(*(row.get(key) for key in keys)) for row in json.loads(text))
    found = []
    for entry in filter(None, text.split(":")):
        uuid, split, memory, cores, kind, numa, healthy = entry.split(",")[:7]
        found.append(HamiCard(uuid, int(memory), int(split), int(cores), kind, int(numa), healthy == "true"))
    return tuple(found)


@dataclass(slots=True)
class Hami:
    """A scheduler plug, a webhook and a device manager in one. Counts each card by what the bound pods' annotations say."""

    world: World
    names: HamiNames = field(default_factory=HamiNames)
    allocation_fails: bool = False
    name: str = SCHEDULER
    _used: dict[str, _Used] = field(default_factory=dict)

    @property
    def ignored(self) -> frozenset[str]:
        names = self.names
        return frozenset({names.count, names.memory, names.percentage, names.cores, names.priority})

    # the webhook

    def webhook(self, pod: Json) -> Json:
        """A pod that asks for a share of a card gets HAMi's scheduler, and one card where it names none."""
        spec = pod["spec"]
        if not any(self._asks(container) for container in spec["containers"]):
            return pod
        containers = [self._with_count(container) for container in spec["containers"]]
        scheduler = self.name if spec["schedulerName"] == "default-scheduler" else spec["schedulerName"]
        return pod | {"spec": spec | {"containers": containers, "schedulerName": scheduler}}

    def _asks(self, container: Json) -> bool:
        limits = container["resources"].get("limits") or {}
        return any(name in limits for name in (self.names.count, self.names.memory, self.names.cores))

    def _with_count(self, container: Json) -> Json:
        resources = container["resources"]
        if not self._asks(container) or self.names.count in (resources.get("limits") or {}):
            return container
        more = {group: {**(resources.get(group) or {}), self.names.count: "1"} for group in ("limits", "requests")}
        return container | {"resources": resources | more}

    # the scheduler

    def begin(self, pods: list[Json]) -> None:
        self._used.clear()
        for pod in pods:
            self._count(pod)

    def _count(self, pod: Json) -> None:
        for uuid, _, memory, cores in given(pod):
            used = self._used.setdefault(uuid, _Used())
            used.sharers, used.memory_mib, used.cores = used.sharers + 1, used.memory_mib + memory, used.cores + cores

    def lack(self, pod: Json, room: NodeRoom) -> Lack | None:
        cards = cards_of(room.node)
        wishes = self._wishes(pod)
        if any(wish.cards > 0 for wish in wishes) and not cards:
            return Lack(("node unregistered",), never=True)
        if self._choose(pod, cards) is not None:
            return None
        return Lack(("NodeUnfitPod",), never=False)

    def refused(self, world: World, pod: Json) -> None:
        text = "no available node, all nodes do not meet"
        world.events.counted(pod, "Warning", "FilteringFailed", text, component=self.name)

    def granted(self, pod: Json, node: Json) -> Json:
        chosen = self._choose(pod, cards_of(node)) or []
        if not any(chosen):
            return pod
        text = ";".join("".join(f"{uuid},NVIDIA,{mib},{cores}:" for uuid, mib, cores in part) for part in chosen) + ";"
        at = str(int(time.time()))
        annotations = {
            **(pod["metadata"].get("annotations") or {}),
            VGPU_NODE: node["metadata"]["name"],
            "hami.io/vgpu-time": at,
            "hami.io/bind-time": at,
            TO_ALLOCATE: text,
            ALLOCATED: text,
            BIND_PHASE: "allocating",
        }
        done = pod | {"metadata": pod["metadata"] | {"annotations": annotations}}
        self._count(done)
        return done

    def _wishes(self, pod: Json) -> list[_Wish]:
        return [self._wish(container["resources"].get("limits") or {}) for container in pod["spec"]["containers"]]

    def _wish(self, limits: Mapping[str, str]) -> _Wish:
        def number(name: str, default: int = 0) -> int:
            return int(quantities.value(limits[name])) if name in limits else default

        names = self.names
        return _Wish(number(names.count), number(names.memory), number(names.percentage, 100), number(names.cores))

    def _choose(self, pod: Json, cards: Sequence[HamiCard]) -> list[list[tuple[str, int, int]]] | None:
        """Per container the cards with memory and cores; None when one does not fit."""
        taken: dict[str, _Used] = {}
        chosen: list[list[tuple[str, int, int]]] = []
        for wish in self._wishes(pod):
            part: list[tuple[str, int, int]] = []
            for card in self._sorted(pod, cards):
                if len(part) < wish.cards and self._fits(pod, wish, card, taken.get(card.uuid, _Used())):
                    part.append((card.uuid, wish.memory_on(card), wish.cores))
            if len(part) < wish.cards:
                return None
            for uuid, memory, cores in part:
                have = taken.setdefault(uuid, _Used())
                have.sharers, have.memory_mib, have.cores = (
                    have.sharers + 1,
                    have.memory_mib + memory,
                    have.cores + cores,
                )
            chosen.append(part)
        return chosen

    def _sorted(self, pod: Json, cards: Sequence[HamiCard]) -> list[HamiCard]:
        annotations = pod["metadata"].get("annotations") or {}
        spread = annotations.get("hami.io/gpu-scheduler-policy", "spread") == "spread"
        return sorted(cards, key=lambda card: (1 if spread else -1) * self._used.get(card.uuid, _Used()).memory_mib)

    def _fits(self, pod: Json, wish: _Wish, card: HamiCard, more: _Used) -> bool:
        used = self._used.get(card.uuid, _Used())
        annotations = pod["metadata"].get("annotations") or {}
        only, none = annotations.get("nvidia.com/use-gputype", ""), annotations.get("nvidia.com/nouse-gputype", "")
        kind = card.type.lower()
        if only and not any(part.strip().lower() in kind for part in only.split(",")):
            return False
        if none and any(part.strip().lower() in kind for part in none.split(",") if part.strip()):
            return False
        return (
            card.healthy
            and used.sharers + more.sharers < card.split
            and used.memory_mib + more.memory_mib + wish.memory_on(card) <= card.memory_mib
            and used.cores + more.cores + wish.cores <= card.cores
        )

    # the device plugin

    def allocate(self, node: str, pod: Json, container: Json) -> Mapping[str, str]:
        """What HAMi's plugin sets in a container that has a share; it also ends the bind phase."""
        names = [item["name"] for item in pod["spec"]["containers"]]
        parts = _parts(pod)
        mine = parts[names.index(container["name"])] if parts else []
        if not mine:
            return {}
        self._phase(pod, "failed" if self.allocation_fails else "success")
        limits = {f"CUDA_DEVICE_MEMORY_LIMIT_{number}": f"{part[2]}m" for number, part in enumerate(mine)}
        cores = mine[0][3]
        return {
            "NVIDIA_VISIBLE_DEVICES": ",".join(part[0] for part in mine),
            **limits,
            **({"CUDA_DEVICE_SM_LIMIT": str(cores)} if cores else {}),
            "CUDA_DEVICE_MEMORY_SHARED_CACHE": f"/usr/local/vgpu/{pod['metadata']['uid']}.cache",
        }

    def _phase(self, pod: Json, phase: str) -> None:
        entry = self.world.store.get(PODS, pod["metadata"]["namespace"], pod["metadata"]["name"])
        if entry is not None:
            old = entry.obj["metadata"]
            kept = {key: value for key, value in (old.get("annotations") or {}).items() if key != TO_ALLOCATE}
            metadata = old | {"annotations": kept | {BIND_PHASE: phase}}
            self.world.store.put(PODS, entry.obj | {"metadata": metadata})

    def free(self, node: str, pod: Json) -> None:
        """The pod is gone; its annotations went with it."""


def _parts(pod: Json) -> list[list[tuple[str, str, int, int]]]:
    text = (pod["metadata"].get("annotations") or {}).get(ALLOCATED, "")
    return [[_one(item) for item in part.split(":") if item] for part in text.split(";")][:-1] if text else []


def _one(item: str) -> tuple[str, str, int, int]:
    uuid, kind, memory, cores = item.split(",")[:4]
    return uuid, kind, int(memory), int(cores)


def given(pod: Json) -> list[tuple[str, str, int, int]]:
    """The shares that a pod holds, as (uuid, type, MiB, cores), over all containers."""
    return [share for part in _parts(pod) for share in part]
