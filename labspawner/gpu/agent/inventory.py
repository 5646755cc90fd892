"""What a node says of its cards and slices, in one annotation: written by the agent, read by hubs. Pure.

    {"version": 1, "at": "2026-11-22T08:00:00+00:00", "pool": "default", "pretended": false,
     "cards": [{"uuid": "GPU-...", "index": 0, "name": "NVIDIA RTX A5000", "memory_mib": 24564, "healthy": true,
                "why": "", "distances": {"GPU-...": 20},
                "classes": {"small": {"memory_mib": 6144, "cores": 25, "count": 3, "used": 1}}}],
     "slices": [{"name": "small-5d41402abc4b2a76", "class": "small", "devices": ["small-0-GPU-..."],
                 "cards": {"GPU-...": {"memory_mib": 6144, "cores": 25}},
                 "namespace": "jhub", "pod": "jupyter-ann", "container": "notebook", "tested": "passed", "why": ""}]}

Slices are those that a pod has now. Nobody but who may patch nodes can write it, so a hub may believe it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

ANNOTATION = "labspawner.io/gpu-inventory"
RESOURCE_DOMAIN = "labspawner.io"
RESOURCE_PREFIX = "gpu-"
VERSION = 1
TESTED = ("passed", "failed", "untested", "off", "pending")


class BadInventory(ValueError):
    """The annotation is none that this labspawner can read; the text says why."""


def resource_of(class_name: str) -> str:
    """The extended resource that stands for slices of a class: `labspawner.io/gpu-small`."""
    return f"{RESOURCE_DOMAIN}/{RESOURCE_PREFIX}{class_name}"


@dataclass(frozen=True, slots=True)
class Share:
    """What a slice has of one card. cores_pct: percent of its compute time."""

    memory_mib: int
    cores_pct: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassUse:
    """One slice class on one card. count: how many slices there are; used: how many of them pods have."""

    memory_mib: int
    cores_pct: int
    count: int
    used: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CardState:
    """One card that is cut into slices. why: of one that is not healthy, the driver's words."""

    uuid: str
    index: int
    name: str
    memory_mib: int
    healthy: bool = True
    why: str = ""
    classes: Mapping[str, ClassUse] = field(default_factory=dict)
    distances: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceUse:
    """One slice that a container has. cards: by UUID. tested: one of TESTED; pending: its server has not said yet.
    why: of a test that did not pass, the reason."""

    name: str
    class_name: str
    devices: tuple[str, ...]
    cards: Mapping[str, Share]
    namespace: str
    pod: str
    container: str
    tested: str = "pending"
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInventory:
    """All cards of one node that are shared, and who has slices of them. pretended: the cards do not exist."""

    at: datetime
    pool: str = "default"
    pretended: bool = False
    cards: tuple[CardState, ...] = ()
    slices: tuple[SliceUse, ...] = ()

    def of_pod(self, namespace: str, pod: str) -> tuple[SliceUse, ...]:
        """The slices of one pod."""
        return tuple(one for one in self.slices if (one.namespace, one.pod) == (namespace, pod))

    def same_but_for_time(self, other: NodeInventory | None) -> bool:
        """Whether there is nothing new in `other` but its instant."""
        return other is not None and (self.cards, self.slices, self.pool, self.pretended) == (
            other.cards,
            other.slices,
            other.pool,
            other.pretended,
        )


def render(inventory: NodeInventory) -> str:
    """The annotation's text, which `parse` reads back as the same value."""
    return json.dumps(
        {
            "version": VERSION,
            "at": inventory.at.isoformat(),
            "pool": inventory.pool,
            "pretended": inventory.pretended,
            "cards": [_card_json(card) for card in inventory.cards],
            "slices": [_slice_json(one) for one in inventory.slices],
        },
        separators=(",", ":"),
    )


def parse(text: str) -> NodeInventory:
    """Read the annotation. Raises BadInventory. Keys that are not known are left alone."""
    try:
        data = json.loads(text)
        if data["version"] != VERSION:
            raise BadInventory(f"it is of version {data['version']!r}, and this labspawner reads version {VERSION}")
        at = datetime.fromisoformat(data["at"])
        if at.tzinfo is None:
            raise BadInventory("its instant has no time zone")
        return NodeInventory(
            at=at,
            pool=str(data["pool"]),
            pretended=bool(data.get("pretended", False)),
            cards=tuple(_card(card) for card in data["cards"]),
            slices=tuple(_slice(one) for one in data["slices"]),
        )
    except BadInventory:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise BadInventory(f"it cannot be read: {type(exc).__name__}: {exc}") from exc


def _card_json(card: CardState) -> dict[str, Any]:
    return {
        "uuid": card.uuid,
        "index": card.index,
        "name": card.name,
        "memory_mib": card.memory_mib,
        "healthy": card.healthy,
        "why": card.why,
        "distances": dict(card.distances),
        "classes": {
            name: {"memory_mib": one.memory_mib, "cores": one.cores_pct, "count": one.count, "used": one.used}
            for name, one in card.classes.items()
        },
    }


def _slice_json(one: SliceUse) -> dict[str, Any]:
    return {
        "name": one.name,
        "class": one.class_name,
        "devices": list(one.devices),
        "cards": {
            uuid: {"memory_mib": share.memory_mib, "cores": share.cores_pct} for uuid, share in one.cards.items()
        },
        "namespace": one.namespace,
        "pod": one.pod,
        "container": one.container,
        "tested": one.tested,
        "why": one.why,
    }


def _card(data: Mapping[str, Any]) -> CardState:
    return CardState(
        uuid=str(data["uuid"]),
        index=_number(data["index"]),
        name=str(data["name"]),
        memory_mib=_number(data["memory_mib"]),
        healthy=bool(data["healthy"]),
        why=str(data.get("why", "")),
        distances={str(uuid): _number(level) for uuid, level in data.get("distances", {}).items()},
        classes={
            str(name): ClassUse(
                memory_mib=_number(one["memory_mib"]),
                cores_pct=_number(one["cores"]),
                count=_number(one["count"]),
                used=_number(one["used"]),
            )
            for name, one in data["classes"].items()
        },
    )


def _slice(data: Mapping[str, Any]) -> SliceUse:
    tested = str(data["tested"])
    return SliceUse(
        name=str(data["name"]),
        class_name=str(data["class"]),
        devices=tuple(str(device) for device in data["devices"]),
        cards={
            str(uuid): Share(_number(share["memory_mib"]), _number(share["cores"]))
            for uuid, share in data["cards"].items()
        },
        namespace=str(data["namespace"]),
        pod=str(data["pod"]),
        container=str(data["container"]),
        tested=tested if tested in TESTED else "untested",
        why=str(data.get("why", "")),
    )


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BadInventory(f"{value!r} stands where a whole number of 0 or more belongs")
    return value
