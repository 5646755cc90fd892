"""The class wall: everybody of a course, and what each of them runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from labspawner.service.console.doing import rosters
from labspawner.service.console.house import House
from labspawner.service.console.rights import Caller
from labspawner.service.console.sharing import Memo


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
    """version: another one whenever something changed. places: by name. memo: what was made of these places, for all who
    look at them."""

    version: str
    taken_at: str
    places: tuple[Place, ...]
    lines: tuple[Mapping[str, Any], ...] = ()
    memo: Memo = field(default_factory=Memo, repr=False, compare=False)


async def of(house: House, caller: Caller, slug: str) -> Wall:
    """The course's people and servers, both looked for once for all who look at the same time. Raises Missing, Away."""
    people = await rosters.shown(house, caller, slug)
    known = await house.facts("state", slug)
    places, memo = known.memo.make(("wall", people.mark), lambda: (_places(people.value, known.value), Memo()))
    return Wall(
        version=str(known.value.get("version", "")),
        taken_at=str(known.value.get("taken_at", "")),
        places=places,
        lines=tuple(known.value.get("lines", ())),
        memo=memo,
    )


def _places(roster: rosters.Roster, state: Mapping[str, Any]) -> tuple[Place, ...]:
    """Everybody of the roster with their servers, and who runs something and is not on it; by name."""
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
    return tuple(sorted(places, key=lambda place: place.user))
