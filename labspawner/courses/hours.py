"""When a profile may be started. Pure: now is an argument."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, time, timedelta, timezone, tzinfo
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from labspawner.courses.fields import Model, shown
from labspawner.sentences import Sentence

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_CLOCK = r"([01]\d|2[0-3]):[0-5]\d|24:00"


def zone(name: str) -> tzinfo:
    """The time zone called `name` (`Asia/Shanghai`, `UTC`). Raises ValueError that says what to write."""
    if name == "UTC":
        return timezone.utc
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise ValueError(
            Sentence("{name} is not a time zone: write it like Asia/Shanghai, Europe/Berlin or UTC", name=shown(name))
        ) from exc


def _known_zone(name: str) -> str:
    zone(name)
    return name


def _clock(value: str) -> str:
    if not re.fullmatch(_CLOCK, value, re.ASCII):
        raise ValueError(
            Sentence('{value} is not a time of day: write "08:00" to "24:00", in quotes', value=shown(value))
        )
    return value


TimeZone = Annotated[str, AfterValidator(_known_zone)]
Clock = Annotated[str, AfterValidator(_clock), WithJsonSchema({"type": "string", "pattern": f"^({_CLOCK})$"})]


class Hours(Model):
    """A time of the week at which students may start the profile. Staff may always."""

    days: tuple[Day, ...] = Field(min_length=1, description="Days of the week.", examples=[["mon", "wed"]])
    from_: Clock = Field(alias="from", description="Opens at this time of day.", examples=["10:00"])
    to: Clock = Field(description="Closes at this time of day; later than `from`.", examples=["12:00"])
    timezone: TimeZone = Field(
        default="", description="Time zone of this entry; the course's if left out.", examples=["Asia/Shanghai"]
    )

    @model_validator(mode="after")
    def _in_order(self) -> Hours:
        if self.from_ >= self.to:
            raise ValueError(
                Sentence("hours end at {to}, before they begin: for a night, write two entries", to=self.to)
            )
        if not self.timezone:
            raise ValueError(
                Sentence("hours need a time zone: write `timezone: Asia/Shanghai` (yours) below `course:`")
            )
        return self

    def _edges(self, day: datetime) -> tuple[datetime, datetime]:
        """Opening and closing on the local date of `day`."""
        midnight = datetime.combine(day.date(), time(), tzinfo=day.tzinfo)
        edges = []
        for clock in (self.from_, self.to):
            hour, minute = clock.split(":")
            whole_days, hours = divmod(int(hour), 24)
            edges.append(midnight.replace(hour=hours, minute=int(minute)) + timedelta(days=whole_days))
        return edges[0], edges[1]

    def holds(self, now: datetime) -> bool:
        """Whether `now` (with a time zone) lies in it."""
        local = now.astimezone(zone(self.timezone))
        opens, closes = self._edges(local)
        return DAYS[local.weekday()] in self.days and opens <= local < closes

    def next_after(self, now: datetime) -> datetime:
        """The first opening later than `now`, in the entry's own time zone."""
        local = now.astimezone(zone(self.timezone))
        week = (self._edges(local + timedelta(days=ahead))[0] for ahead in range(8))
        return next(
            opens
            for opens in week
            if DAYS[opens.weekday()] in self.days and opens.astimezone(timezone.utc) > now.astimezone(timezone.utc)
        )


def open_in(hours: Sequence[Hours], now: datetime) -> bool:
    """Whether `now` lies in one of `hours`. No hours at all: always open."""
    return not hours or any(entry.holds(now) for entry in hours)


def next_opening(hours: Sequence[Hours], now: datetime) -> datetime | None:
    """When it opens next, strictly after `now`; None if it is always open."""
    return min((entry.next_after(now) for entry in hours), default=None)
