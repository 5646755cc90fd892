"""What the student's pages show, as frozen values: made by the spawner, rendered by `form` and the templates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Protocol

from labspawner.model import Ending, Resources
from labspawner.sentences import Sentence
from labspawner.units import human_bytes, human_duration


class AvailabilityKind(str, Enum):
    """Decides the mark beside the words; never shown without them."""

    FREE = "free"
    FEW = "few"
    FULL = "full"
    UNKNOWN = "unknown"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a profile can be started now, in words."""

    kind: AvailabilityKind
    text: Sentence

    @classmethod
    def of(cls, free: int | None) -> Availability:
        """What `free` further starts mean to a student. None: not counted."""
        if free is None:
            return cls(AvailabilityKind.UNKNOWN, Sentence("places not counted"))
        if free <= 0:
            return cls(AvailabilityKind.FULL, Sentence("full now"))
        return cls(AvailabilityKind.FEW if free <= 2 else AvailabilityKind.FREE, Sentence("{count} free", count=free))

    @classmethod
    def closed(cls, why: Sentence | None = None) -> Availability:
        return cls(AvailabilityKind.CLOSED, why or Sentence("closed now"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One entry of an option. label: text by language."""

    value: str
    label: Mapping[str, str]
    selected: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectField:
    """One option of a profile, shown as a drop-down inside its card."""

    course: str
    slug: str
    option: str
    label: Mapping[str, str]
    choices: tuple[Choice, ...]

    @property
    def name(self) -> str:
        return field_name(self.course, self.slug, self.option)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileCard:
    """One profile. disabled: why it cannot be chosen; None where it can.

    title, summary: text by language, as the instructor wrote it. chips: see `chips_for`.
    """

    course: str
    slug: str
    title: Mapping[str, str]
    summary: Mapping[str, str] = field(default_factory=dict)
    chips: tuple[Sentence, ...] = ()
    availability: Availability = field(default_factory=lambda: Availability.of(None))
    disabled: Sentence | None = None
    options: tuple[SelectField, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.course}/{self.slug}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CourseGroup:
    """The cards of one course. title: text by language."""

    slug: str
    title: Mapping[str, str]
    cards: tuple[ProfileCard, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnPage:
    """Everything inside the spawn form.

    user_name: whom the server is for. preselected: the key of the last choice.
    broken: one message per course file that cannot be read; for staff only, so empty for students.
    """

    user_name: str
    courses: tuple[CourseGroup, ...]
    preselected: str | None = None
    broken: tuple[str, ...] = ()

    def cards(self) -> Iterator[ProfileCard]:
        for course in self.courses:
            yield from course.cards

    def chosen(self) -> str | None:
        """The key to preselect: the last choice while it can be chosen, else the first card that can."""
        enabled = [card.key for card in self.cards() if card.disabled is None]
        if self.preselected in enabled:
            return self.preselected
        return next(iter(enabled), None)


class Notice(Protocol):
    """Why a server ended, for its owner. profile_title: text by language; `at` carries a timezone."""

    @property
    def profile_title(self) -> Mapping[str, str]: ...
    @property
    def ending(self) -> Ending: ...
    @property
    def at(self) -> datetime: ...


class NoticeBoard(Protocol):
    """What the pages ask of the engine; it stands in the hub's settings as `labspawner`."""

    def notice(self, user_name: str, server_name: str) -> Notice | None: ...


def field_name(course: str, slug: str, option: str) -> str:
    """The form field of an option. Compare whole names: a course's name may contain `--` itself."""
    return f"option--{course}--{slug}--{option}"


def chips_for(
    resources: Resources,
    *,
    idle_after: timedelta | None = None,
    max_age: timedelta | None = None,
    keeps_files: bool = True,
) -> tuple[Sentence, ...]:
    """The short facts on a card: what the server has, and when it is stopped."""
    chips = []
    if resources.gpu:
        chips.append(Sentence("GPU {memory}", memory=human_bytes(resources.gpu.memory_bytes)))
        if resources.gpu.compute_pct < 100:
            chips.append(Sentence("{percent} % of a GPU's time", percent=resources.gpu.compute_pct))
    if resources.cpu:
        chips.append(Sentence("{count} CPU", count=f"{resources.cpu:g}"))
    if resources.memory_bytes:
        chips.append(Sentence("{size} memory", size=human_bytes(resources.memory_bytes)))
    if resources.disk_bytes:
        chips.append(Sentence("{size} disk", size=human_bytes(resources.disk_bytes)))
    if idle_after:
        chips.append(Sentence("stops after {span} idle", span=human_duration(idle_after)))
    if max_age:
        chips.append(Sentence("at most {span}", span=human_duration(max_age)))
    if keeps_files:
        chips.append(Sentence("keeps files"))
    return tuple(chips)
