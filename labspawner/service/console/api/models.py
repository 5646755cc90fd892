"""What programs send and get: the models that check it, and that the OpenAPI document is made of.

Instants are ISO 8601 with a time zone; sizes carry their unit in the text of a course; sentences are in the language that the
request asks for (`Accept-Language`).
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MAX_TEXT = 256 * 1024

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")]
"""The short name of a course or a profile."""
YamlText = Annotated[str, StringConstraints(max_length=MAX_TEXT)]
Comment = Annotated[str, StringConstraints(max_length=500)]
UserName = Annotated[str, StringConstraints(min_length=1, max_length=255)]
RoleName = Literal["member", "assistant", "instructor"]
Texts = dict[str, str]
"""A text by language."""


class Sent(BaseModel):
    """What a program sends. An unknown field is refused: it is a misspelt one."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Given(BaseModel):
    """What a program gets."""

    model_config = ConfigDict(extra="forbid")


class Flaw(Given):
    """Something wrong. line, column: counted from 1, where it stands in a text; path: which part of what was sent."""

    path: str
    message: str
    line: int | None = None
    column: int | None = None


class Problem(BaseModel):
    """An error, by RFC 9457. `detail` is for people; `type` and the members beside are for programs."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str
    problems: list[Flaw] | None = None
    by: str | None = None
    at: datetime | None = None
    etag: str | None = None
    retry_after_s: float | None = None


class Me(Given):
    name: str
    service: bool
    admin: bool
    may_create: bool
    groups: list[str]


# -- courses -----------------------------------------------------------------------------------------------------------


class Commit(Given):
    hash: str
    at: datetime
    subject: str
    author: str
    changed: bool


class CourseSummary(Given):
    """A course in a list. origin: in a file or in the hub's configuration, which are read-only here, or written here.
    standing: what the caller is in it."""

    slug: str
    title: Texts
    summary: Texts
    origin: Literal["file", "hub", "written"]
    state: Literal["draft", "published", "archived"]
    standing: Literal["admin", "instructor", "assistant", "none"]
    etag: str
    revision: int
    changed_by: str
    changed_at: datetime | None
    profiles: list[str]
    problems: int
    shadowed: bool


class Courses(Given):
    courses: list[CourseSummary]


class Course(CourseSummary):
    """A course with its text, which is YAML."""

    text: str
    flaws: list[Flaw]
    file: str
    commit: Commit | None


class NewCourse(Sent):
    slug: Slug
    text: YamlText
    comment: Comment = ""


class CourseText(Sent):
    text: YamlText
    comment: Comment = ""


class CourseState(Sent):
    state: Literal["draft", "published", "archived"]


class Duplicate(Sent):
    slug: Slug


class ToLint(Sent):
    text: YamlText
    students: Annotated[int, Field(ge=0, le=2000)] = 0


class SeatsOf(Given):
    """What one variant of a profile would hold. text: the verdict as a sentence; null: the hub does not say what it has."""

    profile: str
    variant: int
    places: int | None
    needed: int | None
    text: str | None


class Lint(Given):
    ok: bool
    flaws: list[Flaw]
    seats: list[SeatsOf]


class Profile(Given):
    """One profile as its form shows it: the keys of the course file, units as written. yaml_only: why no form can show it
    without losing something; then `form` is empty, and the profile is changed in the course's text."""

    slug: str
    key: str
    title: Texts
    form: dict[str, Any]
    yaml_only: str | None = None


class Profiles(Given):
    profiles: list[Profile]


class ProfileForm(Sent):
    form: dict[str, Any]
    comment: Comment = ""


class Revision(Given):
    revision: int
    by: str
    at: datetime
    comment: str
    text: str | None = None


class Revisions(Given):
    revisions: list[Revision]


class Change(Given):
    where: list[str]
    before: str | None
    after: str | None


class DiffLine(Given):
    kind: str
    text: str
    old: int | None
    new: int | None


class Difference(Given):
    changes: list[Change]
    lines: list[DiffLine]


class Rollback(Sent):
    revision: Annotated[int, Field(ge=1, le=1_000_000_000)]


# -- people ------------------------------------------------------------------------------------------------------------


class Person(Given):
    """Somebody in a course. known: false until their first log-in, after which they are in the course within seconds."""

    name: str
    role: RoleName
    source: Literal["hand", "csv", "group"]
    known: bool
    added_by: str
    added_at: datetime | None


class Roster(Given):
    """managed: groups come with the log-in, and nothing can be changed here. groups: of each role."""

    people: list[Person]
    managed: bool
    groups: dict[str, str]
    etag: str


class RefusedLine(Given):
    number: int
    text: str
    reason: str


class RosterText(Sent):
    """A roster as text: a name in each line, or a table with commas, semicolons or tabs."""

    text: YamlText
    role: RoleName = "member"


class RosterPreview(Given):
    added: list[str]
    kept: list[str]
    removed: list[str]
    refused: list[RefusedLine]
    encoding: str
    etag: str


class People(Sent):
    names: Annotated[list[UserName], Field(min_length=1, max_length=2000)]
    role: RoleName = "member"


# -- class -------------------------------------------------------------------------------------------------------------


class Place(Given):
    """One person's place in the class. server: as the hub has it; null: nothing runs."""

    user: str
    role: str
    known: bool
    server: dict[str, Any] | None
    notice: dict[str, Any] | None


class Wall(Given):
    version: str
    taken_at: str
    places: list[Place]
    lines: list[dict[str, Any]]


class JobArgs(Sent):
    """profile, options: of a start. text: of a message. reason: of a stop or reset; the student reads it."""

    profile: Annotated[str, StringConstraints(max_length=200)] | None = None
    options: dict[str, str] | None = None
    text: Annotated[str, StringConstraints(max_length=500)] | None = None
    reason: Annotated[str, StringConstraints(max_length=500)] | None = None


class NewJob(Sent):
    verb: Literal["start", "stop", "extend", "message", "reset"]
    users: Annotated[list[UserName], Field(min_length=1, max_length=2000)]
    args: JobArgs = JobArgs()


class Step(Given):
    user: str
    server: str
    state: Literal["waiting", "started", "ok", "failed", "skipped"]
    sentence: str | None
    changed_at: datetime


class Job(Given):
    id: str
    course: str
    verb: str
    actor: str
    state: Literal["running", "done", "cancelled"]
    cancelling: bool
    total: int
    done: int
    failed: int
    begun_at: datetime
    ended_at: datetime | None
    args: dict[str, Any]
    steps: list[Step]


class Jobs(Given):
    jobs: list[Job]


class ToVisit(Sent):
    """Whose server to open. server: its name; empty for the default one."""

    user: UserName
    server: Annotated[str, StringConstraints(max_length=255)] = ""


class Visit(Given):
    """state: `asked` until the student agrees, then `open` for a while. path: of the server on the hub's host."""

    state: Literal["asked", "open"]
    sentence: str
    until: datetime | None
    path: str


class UserHours(Given):
    user: str
    hours: float
    gpu_hours: float


class Week(Given):
    begins: date
    hours: float
    gpu_hours: float
    people: int
    users: list[UserHours]


class Usage(Given):
    weeks: list[Week]


class Link(Given):
    """A path from the root of the hub's host."""

    path: str


class Availability(Given):
    """What the caller could start now, by profile, as the hub says it."""

    version: str
    taken_at: str
    profiles: dict[str, dict[str, Any]]


# -- administrators ----------------------------------------------------------------------------------------------------


class AuditRow(Given):
    id: int
    at: datetime
    actor: str
    actor_ip: str
    verb: str
    course: str
    subject: str
    object: str
    detail: dict[str, Any]
    result: str


class Audit(Given):
    """Newest first. Read on with `before`: the id of the last row."""

    entries: list[AuditRow]


class HubFacts(BaseModel):
    """What the hub's inner API says, as it says it."""

    model_config = ConfigDict(extra="allow")
