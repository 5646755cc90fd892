"""Who may do what in which course. Pure: what JupyterHub verified is an argument, and nothing of a request is.

Two ways lead to a right. *Being staff*: a token with the base scope `custom:labspawner:self`, which every user's log-in
has, acts with the rights of its user's groups. *A scope*: `custom:labspawner:profiles:write!group=course-x` lets a token
write that one course, whoever has it; without a filter, all courses. A scope that only stands in a request is text, and
means nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from labspawner.courses.staff import ACTS_OF_ASSISTANTS, NOT_ASSISTANT, NOT_STAFF
from labspawner.sentences import Sentence

SELF = "custom:labspawner:self"
READ = "custom:labspawner:read"
WRITE = "custom:labspawner:profiles:write"
ROSTER = "custom:labspawner:roster"
ACT = "custom:labspawner:act"
ADMIN = "custom:labspawner:admin"
CONSOLE = "custom:labspawner:console"
ADMIN_UI = "admin-ui"
"""What the hub's own pages ask for where they show something to administrators."""


class Verb(str, Enum):
    """What somebody wants to do. CREATE and ADMIN are of no course."""

    READ = "read"
    WRITE = "write"
    ROSTER = "roster"
    START = "act:start"
    STOP = "act:stop"
    EXTEND = "act:extend"
    MESSAGE = "act:message"
    RESET = "act:reset"
    VISIT = "act:visit"
    CREATE = "create"
    ADMIN = "admin"


ACTS = (Verb.START, Verb.STOP, Verb.EXTEND, Verb.MESSAGE, Verb.RESET, Verb.VISIT)
OF_ASSISTANTS = frozenset(
    {Verb.READ, *(verb for verb in ACTS if verb.value.removeprefix("act:") in ACTS_OF_ASSISTANTS)}
)
_SCOPE: Mapping[Verb, str] = {
    Verb.READ: READ,
    Verb.WRITE: WRITE,
    Verb.ROSTER: ROSTER,
    **dict.fromkeys(ACTS, ACT),
}

NOT_ADMIN = Sentence("This is for administrators of the hub.")
NOT_CREATOR = Sentence("You may not make courses on this hub. Ask your administrator to put you among the instructors.")
NO_SCOPE = Sentence("This token does not carry the scope {scope}, so it cannot do this here.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, as JupyterHub knows them. groups: none for a service. scopes: what their token carries, expanded and verified
    by JupyterHub, filters included. ip: where the request came from, for the audit log."""

    name: str
    groups: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()
    service: bool = False
    ip: str = ""

    @property
    def admin(self) -> bool:
        """Whether all courses are theirs: an administrator of the hub, or a token with that scope."""
        return ADMIN in self.scopes or (not self.service and self.scopes.issuperset({SELF, ADMIN_UI}))


@dataclass(frozen=True, slots=True, kw_only=True)
class CourseGroups:
    """A course as its groups. own: the group that a scope's filter names."""

    slug: str
    members: tuple[str, ...] = ()
    staff: tuple[str, ...] = ()
    assistants: tuple[str, ...] = ()

    @property
    def own(self) -> str:
        return f"course-{self.slug}"


def usual_groups(slug: str) -> CourseGroups:
    """The groups of a course that names no others."""
    own = f"course-{slug}"
    return CourseGroups(slug=slug, members=(own,), staff=(f"{own}-instructors",), assistants=(f"{own}-assistants",))


class Standing(str, Enum):
    """As what somebody is in a course."""

    ADMIN = "admin"
    INSTRUCTOR = "instructor"
    ASSISTANT = "assistant"
    NONE = "none"


def standing(caller: Caller, course: CourseGroups) -> Standing:
    """As what `caller` is in `course` by their groups; scopes with filters are not looked at."""
    if caller.admin:
        return Standing.ADMIN
    if caller.service or SELF not in caller.scopes:
        return Standing.NONE
    if not caller.groups.isdisjoint(course.staff):
        return Standing.INSTRUCTOR
    return Standing.ASSISTANT if not caller.groups.isdisjoint(course.assistants) else Standing.NONE


@dataclass(frozen=True, slots=True)
class Rules:
    """What the administrator set. creators: the groups whose members may make courses."""

    creators: frozenset[str] = field(default_factory=lambda: frozenset({"instructors"}))


def may(caller: Caller, verb: Verb, course: CourseGroups | None = None, *, rules: Rules | None = None) -> bool:
    """Whether `caller` may do this. course: None only for CREATE and ADMIN."""
    return refusal(caller, verb, course, rules=rules) is None


def refusal(
    caller: Caller, verb: Verb, course: CourseGroups | None = None, *, rules: Rules | None = None
) -> Sentence | None:
    """Why `caller` may not do this; None where they may. course: None only for CREATE and ADMIN."""
    if caller.admin:
        return None
    if verb is Verb.ADMIN:
        return NOT_ADMIN
    if verb is Verb.CREATE:
        return _may_create(caller, rules or Rules())
    assert course is not None, f"{verb} is of a course"
    if holds(caller.scopes, _SCOPE[verb], course.own):
        return None
    return _not_as(standing(caller, course), caller, verb, course)


def _not_as(role: Standing, caller: Caller, verb: Verb, course: CourseGroups) -> Sentence | None:
    if role is Standing.INSTRUCTOR or (role is Standing.ASSISTANT and verb in OF_ASSISTANTS):
        return None
    if role is Standing.ASSISTANT:
        return NOT_ASSISTANT
    if not caller.service and SELF in caller.scopes:
        return NOT_STAFF
    return Sentence(NO_SCOPE.template, scope=f"{_SCOPE[verb]}!group={course.own}")


def _may_create(caller: Caller, rules: Rules) -> Sentence | None:
    person = not caller.service and SELF in caller.scopes
    return None if person and not caller.groups.isdisjoint(rules.creators) else NOT_CREATOR


def holds(scopes: Iterable[str], wanted: str, group: str) -> bool:
    """Whether verified `scopes` have `wanted` for a group: without a filter, or with `!group=` and exactly that group. Any
    other filter is of something that a course is not."""
    return any(scope in {wanted, f"{wanted}!group={group}"} for scope in scopes)


def courses_of(caller: Caller, courses: Iterable[CourseGroups]) -> list[str]:
    """The courses that `caller` may see in the console."""
    return [course.slug for course in courses if may(caller, Verb.READ, course)]
