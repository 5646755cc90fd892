"""Who may look at whose screen, and until when. Pure; the time is an argument."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from labspawner.model import LeaseId
from labspawner.sentences import Sentence

NOT_YOURS = Sentence("This desktop belongs to somebody else.")
ASK_FIRST = Sentence(
    "{owner} has not agreed that somebody else looks. Ask {owner} to open this page and to press "
    "“Let course staff look”; then load it again."
)
CONSENT_FOR = timedelta(minutes=15)


class Role(str, Enum):
    """As what somebody is here. GUEST: one of the course's staff, with the owner's consent."""

    OWNER = "owner"
    GUEST = "guest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewer:
    """Somebody who is logged in. admin: of the hub; counts as staff of every course."""

    name: str
    groups: frozenset[str] = frozenset()
    admin: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """Why somebody may not. askable: the owner could change that."""

    reason: Sentence
    askable: bool = False


def role_of(
    viewer: Viewer, *, owner: str, staff: bool, consent_until: datetime | None, now: datetime
) -> Role | Refused:
    """As what `viewer` may look at the screen of a server of `owner`. staff: of the course that the server is of.

    Being an administrator opens nothing that the owner has not agreed to.
    """
    if viewer.name == owner:
        return Role.OWNER
    if not staff:
        return Refused(NOT_YOURS)
    if consent_until is None or consent_until <= now:
        return Refused(Sentence(ASK_FIRST.template, owner=owner), askable=True)
    return Role.GUEST


class Consents:
    """What owners agreed to: per lease, so that the next server begins without. In memory, so that a restart of this
    service takes all of it back."""

    def __init__(self) -> None:
        self._until: dict[LeaseId, datetime] = {}

    def give(self, lease_id: LeaseId, now: datetime) -> datetime:
        """From now for `CONSENT_FOR`, however much was left; the end of it."""
        self._until = {lease: until for lease, until in self._until.items() if until > now}
        self._until[lease_id] = now + CONSENT_FOR
        return self._until[lease_id]

    def take_back(self, lease_id: LeaseId) -> bool:
        """From now on nobody; whether there was consent."""
        return self._until.pop(lease_id, None) is not None

    def until(self, lease_id: LeaseId, now: datetime) -> datetime | None:
        """The end of the consent that is in force; None where there is none."""
        until = self._until.get(lease_id)
        return until if until is not None and until > now else None


def staff_groups(course_staff: Mapping[str, tuple[str, ...]], profile: str, default: str) -> tuple[str, ...]:
    """The groups whose members are staff of the course that a profile (`course/slug`) is of.

    default: for a course that is not there any more, with `{slug}` for its name.
    """
    course = profile.partition("/")[0]
    return course_staff.get(course) or (default.format(slug=course),)
