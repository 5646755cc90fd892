"""What the hub knows, as JSON for services of ours. Pure: values in, plain data out; no token, address or path of a host
leaves but what a handle has under a few plain keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import cast

from labspawner.availability import Answer
from labspawner.availability.spots import spot_of
from labspawner.availability.wording import availability
from labspawner.evidence.answers import Outlook, in_all_languages
from labspawner.lifecycle import Notice
from labspawner.lifecycle.admission import Place, Pool
from labspawner.lifecycle.holds import Hold
from labspawner.lifecycle.usages import Use
from labspawner.model import (
    Activity,
    Capacity,
    CardCapacity,
    Decision,
    HeldSlice,
    HostCapacity,
    Json,
    Lease,
    LeaseId,
    Phase,
)
from labspawner.pages.home.gpu import badge_of

PLAIN_KEYS = frozenset(
    {"host", "node", "name", "stage", "vmid", "pod", "namespace", "pid", "rung", "template", "address"}
)
"""What of a handle is shown: names of things, and nothing that opens one."""


def answer_json(answer: Answer, now: datetime) -> dict[str, Json]:
    """One profile, with the words of its card."""
    return {**answer.to_json(), "text": in_all_languages(availability(answer, now).text)}


def server_json(
    lease: Lease,
    *,
    outlook: Outlook | None,
    use: Use | None,
    report: Activity | None,
    last_activity: datetime | None,
    place: Place | None,
    extend: Json,
) -> dict[str, Json]:
    """One server of the class wall."""
    host, card = spot_of(lease)
    held = HeldSlice.of(lease.handle)
    badge = badge_of(held) if held is not None else None
    course = lease.profile.partition("/")[0]
    seen = report.last_activity if report is not None else None
    ready = lease.phase is Phase.READY and outlook is not None
    return {
        "id": lease.id,
        "lease": lease.id,
        "user": lease.user,
        "server": lease.server_name,
        "course": course,
        "profile": lease.profile,
        "profile_title": lease.pinned.get("title") or {"en": lease.profile},
        "phase": lease.phase.value,
        "phase_at": _iso(lease.phase_at),
        "since": _iso(lease.phase_at),
        "created_at": _iso(lease.created_at),
        "ready_at": _iso(lease.ready_at),
        "provider": lease.provider,
        "host": host,
        "card": card,
        "reserves": lease.reserves.to_json(),
        "use": _use(use),
        "last_activity": _iso(seen or last_activity),
        "busy": bool(report is not None and report.work_count),
        "verdict": outlook.verdict if ready and outlook is not None else None,
        "reason": in_all_languages(outlook.forecast.reason) if ready and outlook is not None else None,
        "ends_at": _iso(outlook.forecast.ends_at) if ready and outlook is not None else None,
        "cause": outlook.forecast.cause if ready and outlook is not None else None,
        "badge": {"mark": badge.mark, "text": in_all_languages(badge.text)} if badge is not None else None,
        "slice": _slice(held),
        "handle": _handle(lease),
        "ending": _ending(lease),
        "place": place.wait.place if place is not None else None,
        "wait_low_s": _seconds(place.wait.low) if place is not None else None,
        "wait_high_s": _seconds(place.wait.high) if place is not None else None,
        "extend": extend,
    }


def _use(use: Use | None) -> Json:
    if use is None:
        return None
    usage = use.usage
    return {
        "taken_at": _iso(usage.taken_at),
        "memory_bytes": usage.memory_bytes,
        "memory_limit_bytes": usage.memory_limit_bytes,
        "cores": use.cores,
        "cpu_limit": usage.cpu_limit,
        "disk_bytes": usage.disk_bytes,
        "disk_limit_bytes": usage.disk_limit_bytes,
        "gpu_memory_bytes": usage.gpu.memory_bytes if usage.gpu else None,
        "gpu_memory_limit_bytes": usage.gpu.memory_limit_bytes if usage.gpu else None,
    }


def _slice(held: HeldSlice | None) -> Json:
    if held is None:
        return None
    return {
        "memory_bytes": held.memory_bytes,
        "compute_pct": held.compute_pct,
        "tested": held.tested.value if held.tested else None,
        "pretended": held.pretended,
        "courtesy": held.courtesy,
    }


def _handle(lease: Lease) -> dict[str, Json]:
    data = lease.handle.data if lease.handle is not None else {}
    return {key: value for key, value in data.items() if key in PLAIN_KEYS and isinstance(value, str | int | float)}


def _ending(lease: Lease) -> Json:
    if lease.ending is None:
        return None
    return {"by": lease.ending.by, "reason": in_all_languages(lease.ending.reason)}


def notices_json(notices: Mapping[tuple[str, str], Notice]) -> list[Json]:
    """Why last servers ended."""
    return [
        {
            "user": user,
            "server": server,
            "title": cast(Json, dict(notice.profile_title)),
            "by": notice.ending.by,
            "reason": in_all_languages(notice.ending.reason),
            "at": _iso(notice.at),
        }
        for (user, server), notice in sorted(notices.items())
    ]


def lines_json(lines: Mapping[Pool, Sequence[Place]], leases: Mapping[LeaseId, Lease]) -> list[Json]:
    """Who stands in which line, of those whose lease is named."""
    found: list[Json] = []
    for (provider, gpu), places in sorted(lines.items()):
        waiting: list[Json] = [
            {
                "lease": place.lease_id,
                "user": lease.user,
                "server": lease.server_name,
                "profile": lease.profile,
                "since": _iso(place.since),
                "place": place.wait.place,
                "low_s": _seconds(place.wait.low),
                "high_s": _seconds(place.wait.high),
            }
            for place in places
            if (lease := leases.get(place.lease_id)) is not None
        ]
        if waiting:
            found.append({"provider": provider, "gpu": gpu, "kind": "gpu" if gpu else "cpu", "waiting": waiting})
    return found


def holds_json(holds: Iterable[Hold]) -> list[Json]:
    """What is kept for whom. Not the id: whoever has it could give the place away."""
    return [
        {"user": hold.user, "profile": hold.profile, "provider": hold.provider, "until": _iso(hold.until)}
        for hold in holds
    ]


def provider_json(
    name: str, capacity: Capacity | None, error: str, leases: Sequence[Lease], *, pretended: bool
) -> dict[str, Json]:
    """One provider: hosts, cards, and which leases are where. error: why it does not answer."""
    spots = {lease.id: spot_of(lease) for lease in leases}
    hosts = capacity.hosts if capacity is not None else ()
    names = {host.name for host in hosts}
    of_card = {card.uuid: host.name for host in hosts for card in host.cards}
    where: dict[LeaseId, str] = {}
    for lease in leases:
        host, card = spots[lease.id]
        found = host if host in names else of_card.get(card or "")
        if found is None and len(names) == 1:
            (found,) = names
        if found is not None:
            where[lease.id] = found
    return {
        "name": name,
        "error": in_all_languages(error) if capacity is None else None,
        "taken_at": _iso(capacity.taken_at) if capacity is not None else None,
        "pretended": pretended,
        "hosts": [_host(host, leases, where, spots) for host in hosts],
        "unplaced": [lease.id for lease in leases if lease.id not in where],
    }


Spots = Mapping[LeaseId, tuple[str | None, str | None]]


def _host(host: HostCapacity, leases: Sequence[Lease], where: Mapping[LeaseId, str], spots: Spots) -> Json:
    here = [lease for lease in leases if where.get(lease.id) == host.name]
    return {
        "name": host.name,
        "servers_total": host.servers_total,
        "servers_free": host.servers_free,
        "cpu_total": host.cpu_total,
        "cpu_free": host.cpu_free,
        "memory_total_bytes": host.memory_total_bytes,
        "memory_free_bytes": host.memory_free_bytes,
        "leases": [lease.id for lease in here],
        "cards": [_card(card, host, here, spots) for card in host.cards],
    }


def _card(card: CardCapacity, host: HostCapacity, here: Sequence[Lease], spots: Spots) -> Json:
    only = len(host.cards) == 1
    mine = [
        lease.id
        for lease in here
        if spots[lease.id][1] == card.uuid or (only and spots[lease.id][1] is None and lease.reserves.gpu is not None)
    ]
    return {
        "uuid": card.uuid,
        "memory_total_bytes": card.memory_total_bytes,
        "memory_free_bytes": card.memory_free_bytes,
        "compute_total_pct": card.compute_total_pct,
        "compute_free_pct": card.compute_free_pct,
        "slots_free": card.slots_free,
        "slots_total": card.slots_total,
        "mig": card.uuid.startswith("MIG-"),
        "leases": cast(Json, mine),
    }


def decision_json(decision: Decision) -> Json:
    """One decision of the culler, with what it rested on."""
    return {
        "lease": decision.lease_id,
        "user": decision.user,
        "server": decision.server_name,
        "verdict": decision.verdict,
        "reason": in_all_languages(decision.reason),
        "evidence": dict(decision.evidence),
        "at": _iso(decision.at),
        "applied": decision.applied,
    }


def _iso(instant: datetime | None) -> str | None:
    return instant.isoformat() if instant is not None else None


def _seconds(span: object) -> float | None:
    return span.total_seconds() if hasattr(span, "total_seconds") else None
