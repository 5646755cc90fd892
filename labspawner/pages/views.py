"""What the student's pages show, as frozen values: made by the spawner, rendered by `form` and the templates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Protocol

from labspawner.courses import field_name
from labspawner.courses.choice import UNLISTED, UNLISTED_SUFFIX
from labspawner.courses.patterns import MAX_VALUE
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
    def unlimited(cls) -> Availability:
        """Nothing limits how many can be started."""
        return cls(AvailabilityKind.FREE, Sentence("free"))

    @classmethod
    def closed(cls, why: Sentence | None = None) -> Availability:
        return cls(AvailabilityKind.CLOSED, why or Sentence("closed now"))


class Texts(dict[str, str]):
    """Text by language inside a Sentence: each reader gets their own; a log gets English."""

    def __str__(self) -> str:
        return self.get("en") or next(iter(self.values()), "")

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """Another variant that can be started at once. variant: counted from 1. text: what its button says."""

    variant: int
    text: Sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One entry of an option. label: text by language."""

    value: str
    label: Mapping[str, str]
    selected: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TextField:
    """An answer that the student types.

    label, hint, entry: text by language; hint says what fits, entry is the one in the list that means this text.
    pattern: what the whole text must match, in Python's words: for a mark on the page, the validator decides.
    value: what was typed last. selected: whether it was typed last, and not picked from the list.
    """

    label: Mapping[str, str]
    entry: Mapping[str, str]
    hint: Mapping[str, str] = field(default_factory=dict)
    pattern: str = ""
    value: str = ""
    selected: bool = False
    max_chars: int = MAX_VALUE


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectField:
    """One option of a profile inside its card: a drop-down, a drop-down with a text field, or (no choices) a text field.

    label, summary: text by language.
    """

    course: str
    slug: str
    option: str
    label: Mapping[str, str]
    summary: Mapping[str, str] = field(default_factory=dict)
    choices: tuple[Choice, ...] = ()
    typed: TextField | None = None

    @property
    def name(self) -> str:
        """What the drop-down posts as, `typed_name` the text field; `typed_entry` is the value that means the text."""
        return field_name(self.course, self.slug, self.option)

    @property
    def typed_name(self) -> str:
        return self.name + UNLISTED_SUFFIX

    @property
    def typed_entry(self) -> str:
        return UNLISTED


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileCard:
    """One profile. disabled: why it cannot be chosen; None where it can.

    title, summary: text by language, as the instructor wrote it. icon: an emoji or a few letters, only for the eye.
    chips: see `chips_for`. notes: what only the course's staff reads. options_open: whether the options show at once.
    go: what the button does (`start`, `join`, `wait`), go_label: what it says. elsewhere: what can be started instead.
    """

    course: str
    slug: str
    title: Mapping[str, str]
    summary: Mapping[str, str] = field(default_factory=dict)
    icon: str = ""
    chips: tuple[Sentence, ...] = ()
    availability: Availability = field(default_factory=lambda: Availability.of(None))
    disabled: Sentence | None = None
    notes: tuple[Sentence, ...] = ()
    options: tuple[SelectField, ...] = ()
    options_open: bool = False
    go: str = "start"
    go_label: Sentence = field(default_factory=lambda: Sentence("Start"))
    elsewhere: tuple[Offered, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.course}/{self.slug}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CourseGroup:
    """The cards of one course. title, summary: text by language."""

    slug: str
    title: Mapping[str, str]
    cards: tuple[ProfileCard, ...]
    summary: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnPage:
    """Everything inside the spawn form.

    user_name: whom the server is for. preselected: the key of the last choice. not_offered: a link named a profile that
    is not among these.
    broken: one message per course file that cannot be read; for staff only, so empty for students.
    """

    user_name: str
    courses: tuple[CourseGroup, ...]
    preselected: str | None = None
    not_offered: bool = False
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


def chips_for(
    resources: Resources,
    *,
    idle_after: timedelta | None = None,
    max_age: timedelta | None = None,
    keeps_files: bool = True,
    hibernates: bool = False,
) -> tuple[Sentence, ...]:
    """The short facts on a card: what the server has, and when it is stopped. hibernates: with its memory kept."""
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
        span = human_duration(idle_after)
        chips.append(
            Sentence("hibernates after {span} idle", span=span)
            if hibernates
            else Sentence("stops after {span} idle", span=span)
        )
    if max_age:
        chips.append(Sentence("at most {span}", span=human_duration(max_age)))
    chips.append(Sentence("keeps files") if keeps_files else Sentence("files end with the server"))
    return tuple(chips)
