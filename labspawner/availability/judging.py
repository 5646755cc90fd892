"""What is said of one offer to its viewer, from what the providers have room for. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from labspawner.availability.answer import Answer, Elsewhere
from labspawner.availability.offers import Offer, Question
from labspawner.availability.words import Blocked
from labspawner.courses import ResolvedVariant
from labspawner.lifecycle.admission import Room
from labspawner.lifecycle.holds import Hold

Rooms = Mapping[Question, Room | None]
"""None: the provider did not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a viewer has already. servers: the names of their servers by profile; server: the one they choose for."""

    hold: Hold | None = None
    servers: Mapping[str, frozenset[str]] = field(default_factory=dict)
    server: str = ""


NOTHING = Standing()


def judge(
    offer: Offer, rooms: Rooms, *, now: datetime, standing: Standing = NOTHING, typical_s: float | None = None
) -> Answer:
    """Say whether the viewer can start what is offered now, why not, and what else they should know."""
    held = standing.hold if standing.hold is not None and standing.hold.profile == offer.key else None
    known = {variant.index: rooms.get(_question(variant)) for variant in offer.variants}
    usual = _worth_waiting(offer, known)
    refusal = _refusal(offer, standing)
    blocked = refusal or (() if held else _full(offer, known))
    free = _most([room.free for room in known.values() if room is not None])
    total = _most([room.total for room in known.values() if room is not None])
    waits = usual is not None and bool(blocked) and not refusal
    return Answer(
        profile=offer.key,
        free_now=free,
        total=total,
        free_for_you=0 if blocked else _with_own(free, held),
        blocked_by=blocked,
        queues=offer.profile.queue == "wait",
        opens_at=offer.opens,
        next_free_at=min((room.next_free_at for room in known.values() if room and room.next_free_at), default=None),
        waiting=usual.waiting if usual is not None else 0,
        place=usual.wait.place if waits and usual is not None else None,
        wait_low=usual.wait.low if waits and usual is not None else None,
        wait_high=usual.wait.high if waits and usual is not None else None,
        typical_s=typical_s,
        hold_until=held.until if held else None,
        elsewhere=_elsewhere(offer, rooms) if blocked and not _final(refusal) else (),
        taken_at=now,
    )


def _question(variant: ResolvedVariant) -> Question:
    return variant.provider, variant.resources


def _refusal(offer: Offer, standing: Standing) -> tuple[Blocked, ...]:
    """What is in the way whatever is free."""
    limit = offer.profile.limits.per_user
    mine = standing.servers.get(offer.key, frozenset()) - {standing.server}
    if not offer.staff and offer.opens is not None:
        return (Blocked.CLOSED_HOURS,)
    if limit is not None and len(mine) >= limit:
        return (Blocked.PER_USER_LIMIT,)
    if not offer.variants:
        return (Blocked.NO_GPU_HERE,) if offer.cardless else (Blocked.PROVIDER_MISSING,)
    return ()


def _final(refusal: tuple[Blocked, ...]) -> bool:
    """Whether no other variant helps."""
    return bool({Blocked.CLOSED_HOURS, Blocked.PER_USER_LIMIT}.intersection(refusal))


def _full(offer: Offer, known: Mapping[int, Room | None]) -> tuple[Blocked, ...]:
    """Why none of the variants that a start tries has a place at once; empty where one has."""
    rooms = [known[variant.index] for variant in offer.variants]
    if any(room is not None and room.open for room in rooms):
        return ()
    if any(room is None for room in rooms):
        return (Blocked.PROVIDER_SILENT,)  # full here, and nobody knows there
    possible = [room for room in rooms if room is not None and not room.never]
    if not possible:
        return (Blocked.NEVER_FITS,)
    full = all(room.free == 0 for room in possible)
    reasons = [Blocked.IN_LINE] if any(room.waiting for room in possible) else []
    if full:
        reasons.insert(0, Blocked.HELD_BY_OTHERS if any(room.held for room in possible) else Blocked.FULL)
    return tuple(reasons)


def _worth_waiting(offer: Offer, known: Mapping[int, Room | None]) -> Room | None:
    """The room whose line a start would join: of the first variant that could ever fit."""
    return next((room for variant in offer.variants if (room := known[variant.index]) and not room.never), None)


def _most(counts: list[int | None]) -> int | None:
    """The largest of them; None, without a limit, is larger than any."""
    known = [count for count in counts if count is not None]
    return max(known) if known and len(known) == len(counts) else None


def _with_own(free: int | None, held: Hold | None) -> int | None:
    return free if free is None or held is None else free + 1


def _elsewhere(offer: Offer, rooms: Rooms) -> tuple[Elsewhere, ...]:
    """What could be started at once instead."""
    return tuple(
        Elsewhere(
            variant=variant.index + 1,
            title=variant.title or {},
            provider=variant.provider,
            resources=variant.resources,
            free=room.free,
        )
        for variant in offer.others
        if (room := rooms.get(_question(variant))) is not None and room.open
    )
