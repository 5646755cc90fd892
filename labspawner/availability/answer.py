"""What is said of one profile to one viewer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from labspawner.availability.words import Blocked
from labspawner.model import Json, Resources


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """Another variant of the profile that has room now, where its course lets students pick one. variant: counted from 1.
    title: text by language, where the course gives it one."""

    variant: int
    title: dict[str, str]
    provider: str
    resources: Resources
    free: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Whether a profile can be started now, by the one who asks, and what else is known.

    free_now: how many more such servers fit, per host and per card; None: not limited, or not known (`blocked_by` says
    so). total: how many fit empty hosts; None as before. free_for_you: what of it this viewer may start: a place that is
    held for them counts, places that others wait for do not.
    blocked_by: why not, the weightiest first; empty: it starts at once. queues: whether its course lets people wait in
    line. opens_at: the next class hour. next_free_at: the
    first end of a server here that makes room, as far as ends are known. waiting: how many stand in line; place: what
    the viewer's place would be, or is where they wait already; wait_low, wait_high: a range for that.
    typical_s: how long a start of it usually takes, in seconds. hold_until: a place is held for this viewer.
    elsewhere: what else could be started at once.
    """

    profile: str
    free_now: int | None
    total: int | None
    free_for_you: int | None
    blocked_by: tuple[Blocked, ...] = ()
    queues: bool = True
    opens_at: datetime | None = None
    next_free_at: datetime | None = None
    waiting: int = 0
    place: int | None = None
    wait_low: timedelta | None = None
    wait_high: timedelta | None = None
    typical_s: float | None = None
    hold_until: datetime | None = None
    elsewhere: tuple[Elsewhere, ...] = ()
    taken_at: datetime

    @property
    def startable(self) -> bool:
        """Whether a start begins at once."""
        return not self.blocked_by

    @property
    def joinable(self) -> bool:
        """Whether a start is possible and would wait in line."""
        return self.queues and bool(self.blocked_by) and all(reason.joinable for reason in self.blocked_by)

    def to_json(self) -> dict[str, Json]:
        """For the REST API; instants are ISO 8601 with a time zone, spans seconds."""
        return {
            "profile": self.profile,
            "free_now": self.free_now,
            "total": self.total,
            "free_for_you": self.free_for_you,
            "blocked_by": [reason.value for reason in self.blocked_by],
            "startable": self.startable,
            "joinable": self.joinable,
            "opens_at": _iso(self.opens_at),
            "next_free_at": _iso(self.next_free_at),
            "waiting": self.waiting,
            "place": self.place,
            "wait_low_s": self.wait_low.total_seconds() if self.wait_low is not None else None,
            "wait_high_s": self.wait_high.total_seconds() if self.wait_high is not None else None,
            "typical_s": self.typical_s,
            "hold_until": _iso(self.hold_until),
            "elsewhere": [
                {
                    "variant": one.variant,
                    "title": dict[str, Json](one.title),
                    "provider": one.provider,
                    "resources": one.resources.to_json(),
                    "free": one.free,
                }
                for one in self.elsewhere
            ],
            "taken_at": _iso(self.taken_at),
        }


def _iso(instant: datetime | None) -> str | None:
    return instant.isoformat() if instant is not None else None
