"""What a node agent says of its cards in an annotation of its node, and what reads it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ANNOTATION = "labspawner.io/gpu-inventory"
RESOURCE_PREFIX = "labspawner.io/gpu-"
VERSION = 1


def resource_of(name: str) -> str:
    """The extended resource of slice class `name`, for example `labspawner.io/gpu-small`."""
    return RESOURCE_PREFIX + name


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedClass:
    """A size of slice that the node's agent offers. cores: percent, 1 to 100."""

    memory_mib: int
    cores: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedUse:
    """A slice that a container holds. pod: `namespace/name`. cls: name of the slice class."""

    cls: str
    pod: str
    container: str = ""
    device: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedCard:
    """One card. classes: how many slices of each class it is divided into. used: the slices that are held."""

    uuid: str
    name: str = ""
    memory_mib: int = 0
    healthy: bool = True
    classes: Mapping[str, int] = field(default_factory=dict)
    used: tuple[PublishedUse, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """All that one agent says: the sizes by name, and its cards."""

    classes: Mapping[str, PublishedClass] = field(default_factory=dict)
    cards: tuple[PublishedCard, ...] = ()
    driver: str = ""

    def to_annotation(self) -> str:
        """The annotation's value: JSON on one line, the same for the same state."""
        return json.dumps(
            {
                "version": VERSION,
                "driver": self.driver,
                "classes": {
                    name: {"memory_mib": each.memory_mib, "cores": each.cores} for name, each in self.classes.items()
                },
                "cards": [
                    {
                        "uuid": card.uuid,
                        "name": card.name,
                        "memory_mib": card.memory_mib,
                        "healthy": card.healthy,
                        "classes": dict(card.classes),
                        "used": [
                            {"class": use.cls, "pod": use.pod, "container": use.container, "device": use.device}
                            for use in card.used
                        ],
                    }
                    for card in self.cards
                ],
            },
            sort_keys=True,
            separators=(",", ":"),
        )

    @classmethod
    def from_annotation(cls, text: str) -> Published | None:
        """What the annotation says; None where it cannot be read, or is of a version that we do not know."""
        try:
            data = json.loads(text)
            if not isinstance(data, Mapping) or data.get("version") != VERSION:
                return None
            return cls(
                classes={
                    str(name): PublishedClass(memory_mib=int(each["memory_mib"]), cores=int(each["cores"]))
                    for name, each in dict(data["classes"]).items()
                },
                cards=tuple(_card(each) for each in data["cards"]),
                driver=str(data.get("driver") or ""),
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None


def _card(data: Mapping[str, Any]) -> PublishedCard:
    used: Sequence[Mapping[str, Any]] = data.get("used") or ()
    return PublishedCard(
        uuid=str(data["uuid"]),
        name=str(data.get("name") or ""),
        memory_mib=int(data["memory_mib"]),
        healthy=data.get("healthy") is not False,
        classes={str(name): int(count) for name, count in dict(data.get("classes") or {}).items()},
        used=tuple(
            PublishedUse(
                cls=str(use["class"]),
                pod=str(use["pod"]),
                container=str(use.get("container") or ""),
                device=str(use.get("device") or ""),
            )
            for use in used
        ),
    )
