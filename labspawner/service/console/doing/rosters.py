"""Who is in a course: JupyterHub's groups say so, and are kept in step with the roster that somebody made here."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from labspawner.courses.bounds import groups_of
from labspawner.model import CourseRole
from labspawner.sentences import Sentence
from labspawner.service.console import names as roster_names
from labspawner.service.console import words
from labspawner.service.console.doing.recording import entry
from labspawner.service.console.house import House
from labspawner.service.console.names import MAX_PEOPLE, RefusedLine
from labspawner.service.console.problems import Exists, Invalid, Problem, Stale
from labspawner.service.console.rights import Caller, Verb
from labspawner.service.console.sharing import Look
from labspawner.store.rosters import Seat, Source

log = logging.getLogger(__name__)

MANAGED = Sentence(
    "On this hub, groups come with the log-in. Who is in the group {group} there is in the course; nothing can be "
    "changed here."
)
LAST = Sentence("{name} is the last instructor of this course. Make somebody else an instructor first.")
BROADER = Sentence(
    "This course is of the group {group}, which other courses may use too. Ask your administrator to change it."
)
_ORDER = (CourseRole.INSTRUCTOR, CourseRole.ASSISTANT, CourseRole.MEMBER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody in a course. known: the hub knows them; others are put into their group right after their first log-in."""

    name: str
    role: CourseRole
    source: Source
    known: bool
    added_by: str = ""
    added_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """The people of a course: instructors, assistants, members, each by name. managed: groups come with the log-in. etag:
    of these people, for `replace`."""

    people: tuple[Person, ...]
    managed: bool
    groups: Mapping[CourseRole, str]
    etag: str

    def of(self, role: CourseRole) -> list[Person]:
        return [person for person in self.people if person.role is role]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What a roster would change. refused: lines that are left out. encoding: that the file is in."""

    added: tuple[str, ...]
    kept: tuple[str, ...]
    removed: tuple[str, ...]
    refused: tuple[RefusedLine, ...]
    encoding: str
    etag: str


async def get(house: House, caller: Caller, slug: str) -> Roster:
    """Everybody in the course, as hub and roster have them now."""
    await house.require_course(caller, Verb.READ, slug)
    return await _roster(house, slug)


async def shown(house: House, caller: Caller, slug: str) -> Look[Roster]:
    """The same for a page, looked for once for all who look at it within seconds."""
    await house.require_course(caller, Verb.READ, slug)

    async def look(course: str) -> Roster:
        return await _roster(house, course)

    people = house.shared("people", look, at_most_s=house.fresh.people_s, rests_on=lambda: house.of_people)
    return await people.get(slug)


async def preview(house: House, caller: Caller, slug: str, content: bytes | str, *, role: str = "member") -> Preview:
    """What `replace` with this content would do. Changes nothing. Raises Invalid where nothing of it can be read."""
    await house.require_course(caller, Verb.ROSTER, slug)
    found = _read(content)
    roster, wanted = await _roster(house, slug), _role(role)
    before = {person.name for person in roster.of(wanted)}
    after = set(found.names)
    return Preview(
        added=tuple(name for name in found.names if name not in before),
        kept=tuple(name for name in found.names if name in before),
        removed=tuple(sorted(before - after)),
        refused=found.refused,
        encoding=found.encoding,
        etag=roster.etag,
    )


async def replace(
    house: House, caller: Caller, slug: str, content: bytes | str, *, role: str = "member", etag: str
) -> Roster:
    """Make those of one role exactly these people. Raises Stale where the roster is another one since `etag`, and Exists
    where nobody would be left to teach."""
    await house.require_course(caller, Verb.ROSTER, slug)
    found, wanted = _read(content), _role(role)
    async with house.changing(slug):
        roster = await _roster(house, slug)
        if roster.etag != etag:
            raise Stale(words.ROSTER_STALE, by="", at=house.now(), etag=roster.etag)
        before = {person.name for person in roster.of(wanted)}
        gone = sorted(before - set(found.names))
        _refuse_last(roster, gone, wanted, kept=found.names)
        await _remove(house, caller, roster, slug, gone, wanted)
        new = [name for name in found.names if name not in before]
        return await _add(house, caller, roster, slug, new, wanted, Source.CSV)


async def add(house: House, caller: Caller, slug: str, names: Sequence[str], *, role: str = "member") -> Roster:
    """Put people into the course; who has another role there gets this one. Raises Invalid for what is no user name."""
    await house.require_course(caller, Verb.ROSTER, slug)
    wanted = _role(role)
    _refuse_bad(names)
    async with house.changing(slug):
        roster = await _roster(house, slug)
        if wanted is not CourseRole.INSTRUCTOR:
            _refuse_last(roster, names, CourseRole.INSTRUCTOR)
        if len({person.name for person in roster.people} | set(names)) > MAX_PEOPLE:
            raise Invalid(roster_names.TOO_MANY)
        return await _add(house, caller, roster, slug, names, wanted, Source.HAND)


async def remove(house: House, caller: Caller, slug: str, names: Sequence[str], *, role: str = "member") -> Roster:
    """Take people out of the course; servers that run go on. Raises Exists for the last instructor."""
    await house.require_course(caller, Verb.ROSTER, slug)
    wanted = _role(role)
    async with house.changing(slug):
        roster = await _roster(house, slug)
        _refuse_last(roster, names, wanted)
        await _remove(house, caller, roster, slug, names, wanted)
        return await _roster(house, slug)


async def keep_in_step(house: House, slug: str, *, known: frozenset[str] | None = None) -> int:
    """Put everybody of the roster who is a user of the hub into their group, making groups that are missing; how many were
    put there. Takes nobody out: whoever is in a group by another way stays. known: users who became such just now."""
    seats = await house.store.rosters.of(slug)
    if known is not None:
        seats = [seat for seat in seats if _as_known(seat.user, known) is not None]
        if not seats:
            return 0
    if (await house.about()).manages_groups:
        return 0
    users = known if known is not None else await house.hub.users()
    put = 0
    own = groups_of(slug)
    for role, group in _groups(house, slug).items():
        if group != own[role]:
            continue  # a file of this name has come since, and names a group that is not this course's alone
        members = await house.hub.group(group)
        if members is None:
            await house.hub.make_group(group)
            members = []
        there = set(members)
        here = [_as_known(seat.user, users) for seat in seats if seat.role is role]
        missing = sorted({name for name in here if name is not None and name not in there})
        if missing:
            await house.hub.add_to_group(group, missing)
            put += len(missing)
    return put


# -- below it ----------------------------------------------------------------------------------------------------------


async def _roster(house: House, slug: str) -> Roster:
    groups = _groups(house, slug)
    about = await house.about()
    seats = {seat.user: seat for seat in await house.store.rosters.of(slug)}
    asked = (house.hub.group(group) for group in groups.values())
    members = dict(zip(groups, await asyncio.gather(*asked), strict=True))
    people: dict[str, Person] = {}
    for role in _ORDER:
        for name in members[role] or ():
            seat = seats.get(name)
            mine = seat is not None and seat.role is role
            people.setdefault(
                name,
                Person(
                    name=name,
                    role=role,
                    source=seat.source if mine and seat else Source.GROUP,
                    known=True,
                    added_by=seat.added_by if mine and seat else "",
                    added_at=seat.added_at if mine and seat else None,
                ),
            )
    for seat in seats.values():
        if seat.user not in people and seat.user.lower() not in people:
            people[seat.user] = Person(
                name=seat.user,
                role=seat.role,
                source=seat.source,
                known=False,
                added_by=seat.added_by,
                added_at=seat.added_at,
            )
    ordered = sorted(people.values(), key=lambda person: (_ORDER.index(person.role), person.name))
    digest = hashlib.sha256(repr([(person.name, person.role.value) for person in ordered]).encode()).hexdigest()
    return Roster(people=tuple(ordered), managed=about.manages_groups, groups=groups, etag=digest[:24])


async def _add(
    house: House, caller: Caller, roster: Roster, slug: str, names: Sequence[str], role: CourseRole, source: Source
) -> Roster:
    if names:
        _refuse_managed(house, roster, slug, role)
        now = house.now()
        seats = [
            Seat(course=slug, user=name, role=role, source=source, added_by=caller.name, added_at=now) for name in names
        ]
        audit = [
            entry(house, caller, "roster.add", course=slug, subject=name, detail={"role": role.value}) for name in names
        ]
        await house.store.rosters.put(slug, seats, audit=audit)
        house.enrolled()
        await _leave_others(house, roster, names, role)
        if house.creates_users:
            users = await house.hub.users()
            await house.hub.make_users([name for name in names if _as_known(name, users) is None])
        await keep_in_step(house, slug)
    return await _roster(house, slug)


async def _leave_others(house: House, roster: Roster, names: Sequence[str], role: CourseRole) -> None:
    """Whoever gets a role leaves the groups of the others."""
    wanted = set(names)
    for other, group in roster.groups.items():
        if other is not role:
            there = [person.name for person in roster.of(other) if person.known and person.name in wanted]
            if there:
                await house.hub.remove_from_group(group, there)


async def _remove(
    house: House, caller: Caller, roster: Roster, slug: str, names: Sequence[str], role: CourseRole
) -> None:
    """Out of the group first: if the roster then cannot be written, the next try does both again."""
    people = {person.name: person for person in roster.of(role)}
    gone = [people[name] for name in names if name in people]
    if not gone:
        return
    _refuse_managed(house, roster, slug, role)
    there = [person.name for person in gone if person.known]
    if there:
        await house.hub.remove_from_group(roster.groups[role], there)
    audit = [
        entry(house, caller, "roster.remove", course=slug, subject=person.name, detail={"role": role.value})
        for person in gone
    ]
    await house.store.rosters.remove(slug, [person.name for person in gone], audit=audit)
    house.enrolled()


def _groups(house: House, slug: str) -> dict[CourseRole, str]:
    """The group of each role; of a file course that names others, the first that it names."""
    usual, named = groups_of(slug), house.groups(slug)
    return {
        CourseRole.INSTRUCTOR: (named.staff or (usual[CourseRole.INSTRUCTOR],))[0],
        CourseRole.ASSISTANT: usual[CourseRole.ASSISTANT],
        CourseRole.MEMBER: (named.members or (usual[CourseRole.MEMBER],))[0],
    }


def _refuse_managed(house: House, roster: Roster, slug: str, role: CourseRole) -> None:
    group = roster.groups[role]
    if roster.managed:
        raise Exists(Sentence(MANAGED.template, group=group), kind="managed-groups")
    if group != groups_of(slug)[role]:
        raise Exists(Sentence(BROADER.template, group=group), kind="shared-group")


def _refuse_last(roster: Roster, gone: Iterable[str], role: CourseRole, *, kept: Iterable[str] = ()) -> None:
    """Raise Exists where no instructor whom the hub knows would be left."""
    if role is not CourseRole.INSTRUCTOR:
        return
    leaving = set(gone) - set(kept)
    teaching = {person.name for person in roster.of(CourseRole.INSTRUCTOR) if person.known}
    if leaving & teaching and not teaching - leaving:
        raise Exists(Sentence(LAST.template, name=sorted(leaving & teaching)[0]), kind="last-instructor")


def _refuse_bad(names: Sequence[str]) -> None:
    if len(names) > MAX_PEOPLE:
        raise Invalid(roster_names.TOO_MANY)
    for name in names:
        if (why := roster_names.why_not(name)) is not None:
            raise Invalid(Sentence("{name}: {why}", name=name[:100], why=why))


def _read(content: bytes | str) -> roster_names.Names:
    found = roster_names.read(content)
    if found.problem is not None:
        raise Invalid(found.problem)
    return found


def _role(text: str) -> CourseRole:
    try:
        return CourseRole(text)
    except ValueError as exc:
        raise Problem(words.UNREADABLE) from exc


def _as_known(name: str, users: Iterable[str]) -> str | None:
    """The name as the hub has it: most log-ins write it small."""
    there = users if isinstance(users, (set, frozenset)) else set(users)
    return next((form for form in (name, name.lower()) if form in there), None)
