"""What the instructor's pages show, as frozen values: made by the page handlers, rendered by the templates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from labspawner.sentences import Sentence


class Tone(str, Enum):
    """Decides the colour of a word; never shown without it."""

    OK = "ok"
    SOON = "soon"
    URGENT = "urgent"
    OFF = "off"


class Published(str, Enum):
    """Where a course stands. FILE, HUB: it is in a file or in the hub's configuration, which the console only reads."""

    DRAFT = "draft"
    PUBLISHED = "published"
    ARCHIVED = "archived"
    FILE = "file"
    HUB = "hub"

    @property
    def words(self) -> Sentence:
        return _PUBLISHED[self]


_PUBLISHED = {
    Published.DRAFT: Sentence("Draft: only staff see it"),
    Published.PUBLISHED: Sentence("Published"),
    Published.ARCHIVED: Sentence("Archived"),
    Published.FILE: Sentence("From a file"),
    Published.HUB: Sentence("From the hub's configuration"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a course comes from that is not written here. file: its path, or the setting of the hub. commit: of the newest
    change, shortened; empty outside a git work tree. changed: the file is not as committed."""

    file: str
    commit: str = ""
    subject: str = ""
    author: str = ""
    at: datetime | None = None
    changed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Can:
    """What the reader may do with a course; the pages show no button that would be refused."""

    write: bool = False
    roster: bool = False
    start: bool = False
    stop: bool = False
    extend: bool = False
    message: bool = False
    reset: bool = False
    visit: bool = False

    @property
    def act(self) -> bool:
        return self.start or self.stop or self.extend or self.message or self.reset


@dataclass(frozen=True, slots=True, kw_only=True)
class CourseView:
    """One course, for its pages' head and for its card. title, summary: text by language.

    etag: of the revision that is shown. students, running: None where they are not known just now.
    """

    slug: str
    title: Mapping[str, str]
    published: Published
    summary: Mapping[str, str] = field(default_factory=dict)
    etag: str = ""
    revision: int = 0
    changed_by: str = ""
    changed_at: datetime | None = None
    origin: Origin | None = None
    role: Sentence = Sentence("Instructor")
    can: Can = Can()
    profiles: int = 0
    students: int | None = None
    running: int | None = None
    problems: int = 0

    @property
    def editable(self) -> bool:
        return self.can.write and self.published not in {Published.FILE, Published.HUB}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemView:
    """Something wrong in a course's text. line, column: counted from 1; 0: of the whole."""

    message: str
    line: int = 0
    column: int = 0
    path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """A share in words and as a bar. percent: 0 to 100; None: words alone."""

    words: Sentence
    percent: int | None = None
    tone: Tone = Tone.OK


class Activity(str, Enum):
    """What a student's place does, for the filter of the class wall."""

    RUNNING = "running"
    WAITING = "waiting"
    STARTING = "starting"
    STOPPING = "stopping"
    PARKED = "parked"
    OFF = "off"

    @property
    def words(self) -> Sentence:
        return _ACTIVITY[self]

    @property
    def tone(self) -> Tone:
        if self is Activity.RUNNING:
            return Tone.OK
        return Tone.SOON if self in {Activity.WAITING, Activity.STARTING, Activity.STOPPING} else Tone.OFF


_ACTIVITY = {
    Activity.RUNNING: Sentence("Running"),
    Activity.WAITING: Sentence("In line"),
    Activity.STARTING: Sentence("Starting"),
    Activity.STOPPING: Sentence("Stopping"),
    Activity.PARKED: Sentence("Parked"),
    Activity.OFF: Sentence("Not running"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WallRow:
    """One student and one of their servers on the class wall; without a server, the student alone.

    profile: text by language. verdict: what the culler thinks of it, in words. badge: of the slice's self-test, with a
    tone. notice: why the last server ended, or what the student was told.
    """

    user: str
    server: str = ""
    activity: Activity = Activity.OFF
    note: Sentence | None = None
    profile: Mapping[str, str] = field(default_factory=dict)
    provider: str = ""
    host: str = ""
    use: tuple[Meter, ...] = ()
    last_activity: datetime | None = None
    verdict: Sentence | None = None
    verdict_tone: Tone = Tone.OFF
    ends_at: datetime | None = None
    badge: Sentence | None = None
    badge_tone: Tone = Tone.OFF
    notice: Sentence | None = None

    @property
    def key(self) -> str:
        """What the tick box posts; a slash stands in no user's name here."""
        return f"{self.user}/{self.server}" if self.server else self.user


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a job did for one student. done: None while it has not come to it."""

    user: str
    words: Sentence
    tone: Tone = Tone.OFF
    done: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """A class action and how far it is. over: nothing more will happen."""

    id: str
    verb: str
    title: Sentence
    state: Sentence
    tone: Tone
    total: int
    done: int
    failed: int = 0
    by: str = ""
    at: datetime | None = None
    over: bool = False
    steps: tuple[Step, ...] = ()

    @property
    def percent(self) -> int:
        return 100 if self.over else min(99, round(100 * self.done / self.total)) if self.total else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileRow:
    """One profile in the list of a course. chips: what a server of it has, as on the student's card."""

    slug: str
    title: Mapping[str, str]
    summary: Mapping[str, str] = field(default_factory=dict)
    icon: str = ""
    chips: tuple[Sentence, ...] = ()
    providers: tuple[str, ...] = ()
    default: bool = False
    seats: Sentence | None = None
    seats_tone: Tone = Tone.OFF
    permalink: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionRow:
    """One revision in a course's history."""

    revision: int
    by: str
    at: datetime
    comment: str = ""
    current: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffLine:
    """One line of a comparison. kind: `same`, `added`, `removed`, or `gap` where lines are left out."""

    kind: str
    text: str
    old: int | None = None
    new: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """Somebody of a course. role: `member`, `assistant` or `instructor`; source: `hand`, `csv` or `group`."""

    user: str
    role: str
    source: str = "hand"
    added_by: str = ""
    added_at: datetime | None = None
    known: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedLine:
    """A line of a roster that was not taken, and why."""

    line: int
    text: str
    reason: Sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class RosterPreview:
    """What would happen to a course's roster; nothing has happened yet. text: what was typed, to send it again."""

    added: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    refused: tuple[RefusedLine, ...] = ()
    notes: tuple[Sentence, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Week:
    """What a course used in one week that begins on `day` (a Monday, ISO). Hours as numbers. users: name, hours, GPU hours;
    the largest first."""

    day: str
    people: int
    hours: float
    gpu_hours: float
    users: tuple[tuple[str, float, float], ...] = ()
