"""Who may act upon a course's servers. Pure; the hub decides by it, whatever its services say."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from labspawner.sentences import Sentence

ACT_SCOPE = "custom:labspawner:act"
ADMIN_SCOPE = "custom:labspawner:admin"
ACTS = ("start", "stop", "extend", "message", "reset", "visit")
ACTS_OF_ASSISTANTS = frozenset({"start", "extend", "message"})

NOT_STAFF = Sentence("You are not on the staff of this course. Ask one of its instructors, or your administrator.")
NOT_ASSISTANT = Sentence(
    "Assistants may look, start, extend and send messages. Ask an instructor of the course to do this."
)


def course_of(profile: str) -> str:
    """The course that a profile (`course/slug`) is of."""
    return profile.partition("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who wants to act, as the hub's own database has them. scopes: of their roles, expanded; for a service that is all it
    has. admin: of the hub."""

    name: str
    groups: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()
    admin: bool = False
    service: bool = False

    @property
    def all_courses(self) -> bool:
        """Whether every course is theirs."""
        return self.admin or ADMIN_SCOPE in self.scopes


def why_not(
    actor: Actor, verb: str, *, own: str, staff: Collection[str], assistants: Collection[str]
) -> Sentence | None:
    """Why `actor` may not do this in a course; None where they may. own: the group that a scope's filter names."""
    if actor.all_courses or not actor.scopes.isdisjoint({ACT_SCOPE, f"{ACT_SCOPE}!group={own}"}):
        return None
    if not actor.groups.isdisjoint(staff):
        return None
    if actor.groups.isdisjoint(assistants):
        return NOT_STAFF
    return None if verb in ACTS_OF_ASSISTANTS else NOT_ASSISTANT
