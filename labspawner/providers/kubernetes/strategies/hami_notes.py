"""HAMi's annotations, read: what a node registers, what its scheduler gave to a pod. Pure.

HAMi wrote its inventory as text (7, later 8 or 9 fields) and now as JSON; all are read. An entry that is none of them is
left out: a card that we do not understand is no room for anybody.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from labspawner.providers.kubernetes.views import NodeView, PodView

REGISTER = "hami.io/node-nvidia-register"
SCORES = "hami.io/node-nvidia-score"
HANDSHAKE = "hami.io/node-handshake"
VGPU_NODE = "hami.io/vgpu-node"
ALLOCATED = "hami.io/vgpu-devices-allocated"
BIND_PHASE = "hami.io/bind-phase"
MIG = "mig"

_STALE = timedelta(minutes=5)
_SLOT = re.compile(r"(?P<uuid>.+)\[(?P<geometry>\d{1,3})-(?P<place>\d{1,3})\]", re.ASCII)
_STAMP = re.compile(r"(\d{4})[.-](\d\d)[.-](\d\d) (\d\d):(\d\d):(\d\d)", re.ASCII)
_LEAST_FIELDS, _WITH_INDEX, _WITH_MODE = 7, 8, 9


@dataclass(frozen=True, slots=True, kw_only=True)
class HamiCard:
    """One card as its node registers it. split: how many may share it. memory_mib, cores: with HAMi's scaling, so they
    may be more than the card has. mode: `hami-core`, `mig`, `mps` or empty."""

    uuid: str
    split: int
    memory_mib: int
    cores: int
    type: str = ""
    numa: int = 0
    healthy: bool = True
    index: int = 0
    mode: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HamiUse:
    """One card's share that a container was given. slot: geometry and place of a MIG instance."""

    uuid: str
    memory_mib: int
    cores: int
    slot: tuple[int, int] | None = None

    @property
    def device(self) -> str:
        """The card's UUID, and the place on it where it is a MIG instance."""
        return self.uuid if self.slot is None else f"{self.uuid}[{self.slot[0]}-{self.slot[1]}]"


def read_register(text: str) -> tuple[HamiCard, ...]:
    """The cards that a node registers, in its order."""
    text = text.strip()
    if text.startswith("["):
        try:
            entries = json.loads(text)
        except (ValueError, RecursionError):
            return ()
        cards = [_from_json(entry) for entry in entries if isinstance(entry, Mapping)]
    else:
        cards = [_from_text(entry.split(",")) for entry in text.split(":") if "," in entry]
    return tuple(card for card in cards if card is not None)


def _from_text(fields: Sequence[str]) -> HamiCard | None:
    if not _LEAST_FIELDS <= len(fields) <= _WITH_MODE:
        return None
    uuid, split, memory, cores, kind, numa, healthy, *rest = (field.strip() for field in fields)
    try:
        return HamiCard(
            uuid=uuid,
            split=int(split),
            memory_mib=int(memory),
            cores=int(cores),
            type=kind,
            numa=int(numa),
            healthy=healthy.lower() in {"true", "1", "t"},
            index=int(rest[0]) if len(fields) >= _WITH_INDEX else 0,
            mode=rest[1] if len(fields) >= _WITH_MODE else "",
        )
    except ValueError:
        return None


def _from_json(entry: Mapping[str, Any]) -> HamiCard | None:
    """HAMi leaves out what is false or zero: a card without `health` is not healthy."""
    said = {str(key).lower(): value for key, value in entry.items()}
    try:
        return HamiCard(
            uuid=str(said["id"]),
            split=int(said.get("count") or 0),
            memory_mib=int(said.get("devmem") or 0),
            cores=int(said.get("devcore") or 0),
            type=str(said.get("type") or ""),
            numa=int(said.get("numa") or 0),
            healthy=said.get("health") is True,
            index=int(said.get("index") or 0),
            mode=str(said.get("mode") or ""),
        )
    except (KeyError, ValueError, TypeError):
        return None


def read_scores(text: str) -> Mapping[str, Mapping[str, int]]:
    """How near the cards of a node are to each other, by UUID; higher is nearer. Empty where it is not said."""
    try:
        return {
            str(entry["uuid"]): {str(other): int(score) for other, score in dict(entry.get("score") or {}).items()}
            for entry in json.loads(text)
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def read_allocation(text: str) -> tuple[tuple[HamiUse, ...], ...]:
    """What each container of a pod was given, in order; those that were given nothing are empty."""
    return tuple(
        tuple(use for device in container.split(":") if (use := _use(device)) is not None)
        for container in text.split(";")
    )


def _use(device: str) -> HamiUse | None:
    fields = device.split(",")
    if len(fields) < 4:
        return None
    try:
        memory, cores = int(fields[2]), int(fields[3])
    except ValueError:
        return None
    slot = _SLOT.fullmatch(fields[0])
    if slot is None:
        return HamiUse(uuid=fields[0], memory_mib=memory, cores=cores)
    return HamiUse(uuid=slot["uuid"], memory_mib=memory, cores=cores, slot=(int(slot["geometry"]), int(slot["place"])))


def node_of(pod: PodView) -> str:
    """The node that the pod counts on: the one HAMi chose, which is known before it is bound there."""
    return pod.annotations.get(VGPU_NODE) or pod.node


def uses_by_node(pods: Iterable[PodView]) -> Mapping[str, Sequence[HamiUse]]:
    """What the pods that have not ended hold of the cards, by node."""
    found: dict[str, list[HamiUse]] = {}
    for pod in pods:
        given = pod.annotations.get(ALLOCATED)
        if given and not pod.ended and (node := node_of(pod)):
            found.setdefault(node, []).extend(use for container in read_allocation(given) for use in container)
    return found


def silent(nodes: Sequence[NodeView]) -> frozenset[str]:
    """The nodes whose device plugin has stopped answering HAMi's handshake, so that HAMi gives nothing of their cards.

    HAMi marks them `Deleted`. Before it does, its `Requesting` stands still while that of the other nodes goes on; their
    newest stamp is the clock, because the stamps name no time zone and HAMi of today leaves old ones behind.
    """
    stamps = {node.name: stamp for node in nodes if (stamp := _stamp(node.annotations.get(HANDSHAKE, "")))}
    newest = max(stamps.values(), default=None)
    gone = set()
    for node in nodes:
        said = node.annotations.get(HANDSHAKE, "")
        stands_still = said.startswith("Requesting") and newest is not None and node.name in stamps
        if said.startswith("Deleted") or (stands_still and newest - stamps[node.name] > _STALE):  # type: ignore[operator]
            gone.add(node.name)
    return frozenset(gone)


def _stamp(said: str) -> datetime | None:
    found = _STAMP.search(said)
    if found is None:
        return None
    try:
        return datetime(*(int(part) for part in found.groups()))  # type: ignore[arg-type]  # noqa: DTZ001 - see `silent`
    except ValueError:
        return None
