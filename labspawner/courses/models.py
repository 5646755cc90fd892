"""The course file, valid by construction. The descriptions here are the reference page and the JSON Schema."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, JsonValue, field_validator, model_validator

from labspawner.courses import devices, kubespawner
from labspawner.courses import hours as opening
from labspawner.courses.fields import (
    Bytes,
    ChoiceKey,
    Duration,
    Image,
    Model,
    OptionKey,
    Percent,
    Slug,
    Template,
    Text,
    shown,
    write_duration,
)
from labspawner.courses.hours import Hours, TimeZone
from labspawner.courses.patterns import compiled
from labspawner.sentences import Sentence

T = TypeVar("T")
Name = Annotated[str, Field(min_length=1, max_length=200)]
CardName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,59}$")]
Cpu = Annotated[float, Field(gt=0, le=4096, allow_inf_nan=False, strict=True)]
MEMBER_GROUP = "course-{slug}"
STAFF_GROUP = "course-{slug}-instructors"
ASSISTANT_GROUP = "course-{slug}-assistants"


class Gpu(Model):
    """A share of one GPU."""

    memory: Bytes = Field(description="Device memory the server may allocate.", examples=["6GiB"])
    cores: Percent = Field(default=100, description="Upper bound on kernel time; best effort.", examples=["25%"])
    policy: Literal["fair", "force", "off"] | None = Field(
        default=None,
        description="How `cores` is meant. fair: more while the card is quiet; force: never more; off: not limited. "
        "Left out: the provider's default.",
    )
    selftest: Literal["require", "warn", "off"] | None = Field(
        default=None,
        description="Whether a slice is tried out before the student gets it. Left out: the provider's default.",
    )
    cards: int | None = Field(
        default=None,
        ge=1,
        le=16,
        strict=True,
        description="A slice of this size on so many different cards (kubernetes). Left out: one.",
    )
    type: tuple[CardName, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=8,
        description="Only cards whose name contains one of these (kubernetes with HAMi).",
        examples=[["A100"]],
    )
    not_type: tuple[CardName, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=8,
        description="No card whose name contains one of these (kubernetes with HAMi).",
    )
    place: Literal["binpack", "spread", "topology"] | None = Field(
        default=None,
        description="Which of the cards with room: the fullest, the emptiest, or by distance (kubernetes with HAMi). "
        "Left out: the provider's choice.",
    )
    priority: Literal["high", "low"] | None = Field(
        default=None, description="Whose work goes first on a shared card (kubernetes with HAMi)."
    )


class VariantKeys(Model):
    """What can be set for a server."""

    cpu: Cpu | None = Field(default=None, description="Cores; may be a fraction.", examples=[2, 0.5])
    memory: Bytes | None = Field(default=None, description="Main memory.", examples=["2GiB"])
    disk: Bytes | None = Field(default=None, description="Size of the disk, where a server has its own.")
    gpu: Gpu | None = Field(default=None, description="A share of one GPU. Left out: no GPU.")
    image: Image | None = Field(default=None, description="Container image (kubernetes).", examples=["lab/scipy:1"])
    template: Template | None = Field(
        default=None,
        description="Virtual machine that is cloned (proxmox), by name or number.",
        examples=["ubuntu-dl", 9100],
    )
    start_timeout: Duration | None = Field(
        default=None, description="How long a start may take. Left out: the administrator's value.", examples=["5m"]
    )
    settings: dict[Name, JsonValue] = Field(
        default_factory=dict,
        description="Keys that only this provider reads; each provider's page lists them.",
        examples=[{"default_url": "/lab", "environment": {"COURSE": "py101"}}],
    )

    @field_validator("settings")
    @classmethod
    def _no_second_place(cls, settings: dict[str, JsonValue]) -> dict[str, JsonValue]:
        for key in COMMON_KEYS & settings.keys():
            raise ValueError(Sentence("{key} does not belong into settings: write it one level up", key=repr(key)))
        return settings

    @model_validator(mode="after")
    def _whole_devices(self) -> VariantKeys:
        if self.template is not None and self.gpu is not None:
            raise ValueError(devices.NO_SLICE)
        return self


COMMON_KEYS = frozenset({*VariantKeys.model_fields, "provider", "title"})


class Variant(VariantKeys):
    """One way to run the profile: a provider and its resources."""

    provider: Slug = Field(
        description="Name of a provider in the hub's configuration.", examples=["local", "kubernetes", "proxmox"]
    )
    title: Text | None = Field(default=None, description="What a student reads where variants can be told apart.")


class OptionChoice(Model):
    """One choice of an option."""

    title: Text = Field(description="What the student reads.", examples=["JupyterLab"])
    summary: Text | None = Field(default=None, description="A sentence below the title.")
    default: bool = Field(default=False, description="Chosen unless the student says otherwise. Else: the first.")
    set: VariantKeys = Field(default=VariantKeys(), description="Keys of the variant that this choice replaces.")

    _lift = model_validator(mode="before")(kubespawner.lift_option_choice)


class UnlistedChoice(Model):
    """A value that the student types. Closed unless `enabled`, and then checked against `validation_regex`."""

    enabled: bool = Field(default=False, description="Whether students may type a value of their own.")
    title: Text | None = Field(default=None, description="Label of the text field.")
    display_name_in_choices: Text = Field(
        default={"en": "Other...", "zh-CN": "其他……"}, description="The entry in the list that opens the text field."
    )
    validation_regex: str = Field(
        default="",
        max_length=300,
        description="Pattern that the WHOLE value must match (KubeSpawner looks only at its beginning).",
        examples=["lab/[a-z0-9-]+:[0-9.]+"],
    )
    validation_message: Text | None = Field(default=None, description="What to read when the value does not match.")
    set: VariantKeys = Field(
        default=VariantKeys(),
        description="Keys of the variant that are replaced; {value} stands for what was typed.",
        examples=[{"image": "{value}"}],
    )

    _lift = model_validator(mode="before")(kubespawner.lift_unlisted)

    @field_validator("validation_regex")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        compiled(pattern)
        return pattern

    @model_validator(mode="after")
    def _closed_or_checked(self) -> UnlistedChoice:
        if self.enabled and not self.validation_regex:
            raise ValueError(
                Sentence(
                    "unlisted_choice needs a pattern, or a student could type anything: write for example "
                    "validation_regex: 'lab/[a-z0-9-]+:[0-9.]+'"
                )
            )
        return self


class Option(Model):
    """A question on the profile's card."""

    title: Text = Field(description="The question.", examples=[{"en": "Interface", "zh-CN": "界面"}])
    summary: Text | None = Field(default=None, description="A sentence below the question.")
    choices: dict[ChoiceKey, OptionChoice] = Field(default_factory=dict, max_length=100, description="The answers.")
    unlisted_choice: UnlistedChoice = Field(default=UnlistedChoice(), description="An answer the student types.")

    _lift = model_validator(mode="before")(kubespawner.lift_option)

    @model_validator(mode="after")
    def _answerable(self) -> Option:
        if not self.choices and not self.unlisted_choice.enabled:
            raise ValueError(Sentence("the option has no choices: write choices: {lab: {title: JupyterLab}}"))
        _at_most_one(Sentence("choice"), [key for key, choice in self.choices.items() if choice.default])
        return self

    @property
    def default_choice(self) -> str | None:
        """Key of the choice that holds when nothing is said; None if a student can only type."""
        return next((key for key, choice in self.choices.items() if choice.default), next(iter(self.choices), None))


class Extend(Model):
    """How far a student may push a stop away."""

    step: Duration = Field(description="One click adds this.", examples=["30m"])
    per_day: int = Field(default=4, ge=1, le=100, description="Clicks per day.")


class Idle(Model):
    """What happens to a server that is not used."""

    after: Duration | None = Field(default=None, description="Without use for this long. Left out: never.")
    gpu_after: Duration | None = Field(default=None, description="GPU without work for this long. Left out: never.")
    warn: tuple[Duration, ...] = Field(
        default=(), max_length=10, description="How long before, the student is warned.", examples=[["10m", "2m"]]
    )
    extend: Extend | None = Field(default=None, description="One-click extension. Left out: none.")
    hold: Duration | Literal["never"] = Field(
        default=timedelta(hours=4),
        description="How long per day a student may keep an idle server with `labspawner hold`; never: not at all.",
        examples=["2h"],
    )
    action: Literal["stop", "hibernate", "destroy"] = Field(
        default="stop", description="stop keeps the home and a VM's disk, hibernate also memory, destroy only the home."
    )
    retain: Duration | None = Field(
        default=None, description="How long a parked server is kept. Left out: for ever.", examples=["14d"]
    )

    @model_validator(mode="after")
    def _warned_in_time(self) -> Idle:
        limits = [span for span in (self.after, self.gpu_after) if span is not None]
        for span in self.warn:
            if limits and span >= min(limits):
                raise ValueError(
                    Sentence(
                        "a warning {warning} before the end would come before the server is idle: write "
                        "less than {limit}",
                        warning=write_duration(span),
                        limit=write_duration(min(limits)),
                    )
                )
        return self


class Limits(Model):
    """How much one student gets."""

    max_age: Duration | None = Field(default=None, description="A server is ended at this age. Left out: never.")
    per_user: int | None = Field(
        default=None, ge=1, le=100, description="Servers of this profile one student may have at once."
    )


class Access(Model):
    """Who sees the course, as names of JupyterHub groups."""

    groups: tuple[Name, ...] = Field(default=(), description="Students. Left out: course-<course>.")
    staff: tuple[Name, ...] = Field(default=(), description="Instructors. Left out: course-<course>-instructors.")
    everyone: bool = Field(default=False, description="Whether anybody who can log in sees the course.")


class Profile(Model):
    """What a student picks: software and resources."""

    slug: Slug = Field(description="Short name, unique in the course. Do not change it later.", examples=["base"])
    title: Text = Field(description="Name on the card.")
    summary: Text | None = Field(default=None, description="What it is for, in a sentence or two.")
    icon: str | None = Field(default=None, min_length=1, max_length=8, description="A short text or emoji.")
    default: bool = Field(default=False, description="Preselected in its course, before a student's first choice.")
    variants: tuple[Variant, ...] = Field(
        min_length=1,
        max_length=10,
        description="Ways to run it, tried in this order.",
        examples=[[{"provider": "local", "memory": "1GiB"}]],
    )
    options: dict[OptionKey, Option] = Field(default_factory=dict, max_length=20, description="Questions on the card.")
    fallback: Literal["ask", "auto", "never"] = Field(
        default="ask", description="Whether the next variant is taken when one is full."
    )
    queue: Literal["wait", "fail"] = Field(default="wait", description="No room: wait in line, or fail at once.")
    queue_for: Duration = Field(
        default=timedelta(minutes=30), description="How long a student waits in line.", examples=["30m"]
    )
    idle: Idle = Field(default=Idle(), description="What happens when nobody uses the server.")
    limits: Limits = Field(default=Limits(), description="How long, and how many at once.")
    hours: tuple[Hours, ...] = Field(
        default=(),
        max_length=50,
        description="When students may start it; needs the course's timezone. Left out: always.",
        examples=[[{"days": ["mon"], "from": "10:00", "to": "12:00"}]],
    )

    _lift = model_validator(mode="before")(kubespawner.lift_profile)

    @model_validator(mode="after")
    def _can_hibernate(self) -> Profile:
        options = self.options.values()
        picked = [choice.set for option in options for choice in option.choices.values()]
        typed = [option.unlisted_choice.set for option in options]
        devices.check_hibernation(self.idle.action, [keys.settings for keys in (*self.variants, *picked, *typed)])
        return self


class Course(Model):
    """A course: who is in it, and its profiles."""

    course: Slug = Field(description="Short name, unique on the hub. Do not change it later.", examples=["py101"])
    title: Text = Field(description="Name of the course.", examples=[{"en": "Python Basics", "zh-CN": "Python 基础"}])
    summary: Text | None = Field(default=None, description="What the course is about.")
    timezone: TimeZone | None = Field(
        default=None, description="Time zone of `hours`.", examples=["Asia/Shanghai", "Europe/Berlin"]
    )
    access: Access = Field(default=Access(), description="Who sees the course.")
    profiles: tuple[Profile, ...] = Field(min_length=1, max_length=100, description="What can be picked.")

    @model_validator(mode="before")
    @classmethod
    def _hand_down(cls, data: object) -> object:
        """Fill in what depends on the course: group names, and the time zone of each entry of hours."""
        if not isinstance(data, Mapping):
            return data
        filled = dict(data)
        if "profile_list" in filled:
            if "profiles" in filled:
                raise ValueError(Sentence("'profile_list' and 'profiles' mean the same: write only 'profiles'"))
            filled["profiles"] = _each(filled.pop("profile_list"), kubespawner.lift_list_entry)
        slug, access = filled.get("course"), filled.get("access", {})
        if isinstance(slug, str) and isinstance(access, Mapping):
            groups = {"groups": [MEMBER_GROUP.format(slug=slug)], "staff": [STAFF_GROUP.format(slug=slug)]}
            filled["access"] = {**groups, **access}
        if isinstance(filled.get("timezone"), str) and "profiles" in filled:
            filled["profiles"] = _each(filled["profiles"], lambda item: _with_zone(item, filled["timezone"]))
        return filled

    @field_validator("profiles")
    @classmethod
    def _distinct(cls, profiles: tuple[Profile, ...]) -> tuple[Profile, ...]:
        _no_slug_twice(profiles)
        _at_most_one(Sentence("profile"), [profile.slug for profile in profiles if profile.default])
        return profiles

    def key(self, profile: Profile) -> str:
        """`<course>/<slug>`, the name by which everything else knows the profile."""
        return f"{self.course}/{profile.slug}"


def from_profile_list(entries: object) -> tuple[Profile, ...]:
    """Read KubeSpawner's `profile_list` (a list of plain dicts) as profiles; the entries are left as they are.

    Raises ValueError (pydantic's ValidationError, or one sentence) for an unknown key, a value that cannot be read, or
    a slug that is there twice. A `profile_list` that is a callable has to be called first.
    """
    if not isinstance(entries, list):
        raise ValueError(Sentence("profile_list is {entries}: write a list of profiles", entries=shown(entries)))
    profiles = tuple(Profile.model_validate(kubespawner.lift_list_entry(entry)) for entry in entries)
    _no_slug_twice(profiles)
    return profiles


def open_at(profile: Profile, now: datetime) -> bool:
    """Say whether students may start `profile` at `now` (an instant with a time zone)."""
    return opening.open_in(profile.hours, now)


def next_opening(profile: Profile, now: datetime) -> datetime | None:
    """Say when `profile` opens next, strictly after `now`; None if it has no hours, so is always open."""
    return opening.next_opening(profile.hours, now)


def _each(items: Any, change: Any) -> Any:
    return [change(item) for item in items] if isinstance(items, (list, tuple)) else items


def _with_zone(profile: Any, timezone: str) -> Any:
    if not isinstance(profile, Mapping) or not isinstance(profile.get("hours"), (list, tuple)):
        return profile
    fill = lambda entry: {"timezone": timezone, **entry} if isinstance(entry, Mapping) else entry  # noqa: E731
    return {**profile, "hours": _each(profile["hours"], fill)}


def _no_slug_twice(profiles: Iterable[Profile]) -> None:
    seen: set[str] = set()
    for profile in profiles:
        if profile.slug in seen:
            raise ValueError(
                Sentence(
                    "two profiles have the slug {slug}: write another slug for one of them", slug=repr(profile.slug)
                )
            )
        seen.add(profile.slug)


def _at_most_one(what: str, defaults: list[str]) -> None:
    if len(defaults) > 1:
        raise ValueError(
            Sentence(
                "more than one {what} is the default ({names}): write default: true once",
                what=what,
                names=", ".join(defaults),
            )
        )
