"""What the hub says of its providers' hosts and cards, as values that seats are counted with. Pure."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from labspawner.model import Capacity, CardCapacity, HostCapacity

log = logging.getLogger(__name__)

_CARD = (
    "memory_total_bytes",
    "memory_free_bytes",
    "compute_free_pct",
    "compute_total_pct",
    "slots_free",
    "slots_total",
)
_HOST = ("servers_total", "servers_free", "cpu_total", "cpu_free", "memory_total_bytes", "memory_free_bytes")


def capacities_of(answer: Mapping[str, Any]) -> dict[str, Capacity]:
    """The capacity of each provider that the hub knows. One that cannot be read is left out."""
    found: dict[str, Capacity] = {}
    for provider in answer.get("providers", ()):
        try:
            taken_at = datetime.fromisoformat(
                str(provider.get("taken_at") or answer["taken_at"]).replace("Z", "+00:00")
            )
            hosts = tuple(_host(host) for host in provider["hosts"])
            found[str(provider["name"])] = Capacity(hosts=hosts, taken_at=taken_at.astimezone(timezone.utc))
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            log.warning("the capacity of a provider cannot be read: %r", exc)
    return found


def _host(data: Mapping[str, Any]) -> HostCapacity:
    cards = tuple(_card(card) for card in data.get("cards", ()))
    return HostCapacity(name=str(data["name"]), cards=cards, **{key: data[key] for key in _HOST if key in data})


def _card(data: Mapping[str, Any]) -> CardCapacity:
    return CardCapacity(uuid=str(data["uuid"]), **{key: data[key] for key in _CARD if key in data})
