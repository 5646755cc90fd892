"""The class wall: everybody of a course, and what each of them runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from labspawner.service.console.doing import rosters
from labspawner.service.console.house import House
from labspawner.service.console.rights import Caller, Verb

PEOPLE_S = 5.0
"""A wall is looked at by many, and people come and go seldom; a change made here shows at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One server of one person, or a person without one. role: `member`, `assistant`, `instructor`; empty for somebody who is
    not on the roster. row: as the hub's `state` has it. known: the hub knows this person."""

    user: str
    role: str
    row: Mapping[str, Any] | None = None
    known: bool = True
    notice: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wall:
    """version: another one whenever something changed. places: by name."""

    version: str
    taken_at: str
    places: tuple[Place, ...]
    lines: tuple[Mapping[str, Any], ...] = ()


async def of(house: House, caller: Caller, slug: str) -> Wall:
    """The course's people and servers as they are now. Raises Missing, Away."""
    await house.require_course(caller, Verb.READ, slug)
    roster = await rosters.get(house, caller, slug, at_most_s=PEOPLE_S)
    state = await house.hub.ask("state", course=slug)
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for row in state.get("servers", ()):
        rows.setdefault(str(row.get("user")), []).append(row)
    notices = {str(one.get("user")): one for one in state.get("notices", ()) if not one.get("server")}
    places: list[Place] = []
    for person in roster.people:
        mine: list[Mapping[str, Any] | None] = list(rows.pop(person.name, []))
        for row in mine or [None]:
            places.append(
                Place(
                    user=person.name,
                    role=person.role.value,
                    row=row,
                    known=person.known,
                    notice=notices.get(person.name),
                )
            )
    for user, others in rows.items():
        places.extend(Place(user=user, role="", row=row, notice=notices.get(user)) for row in others)
    return Wall(
        version=str(state.get("version", "")),
        taken_at=str(state.get("taken_at", "")),
        places=tuple(sorted(places, key=lambda place: place.user)),
        lines=tuple(state.get("lines", ())),
    )
