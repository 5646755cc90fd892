"""What a course that is written in the console may ask for: less than one in a file, which an administrator puts there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta

from labspawner.courses.models import ASSISTANT_GROUP, MEMBER_GROUP, STAFF_GROUP, Course
from labspawner.model import CourseRole, Json
from labspawner.units import parse_bytes, parse_duration, parse_percent

_Reader = Callable[[object], "tuple[str, float | int]"]
HARMLESS_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "*": ("default_url", "environment"),
    "proxmox": ("default_url", "desktop", "environment", "hibernate", "jupyter", "os"),
}
"""By provider, or kind of provider; `*` for the others. None of them reaches beyond the server of one student."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """The most that one server may ask for; None: no limit. A ceiling for what every server has (cpu, memory, how old it may
    get, how long it may idle) has to be met by writing the key: left out, it would mean no limit at all."""

    cpu: float | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    gpu_memory_bytes: int | None = None
    gpu_cores_pct: int | None = None
    gpu_cards: int | None = None
    max_age_s: float | None = None
    idle_s: float | None = None
    retain_s: float | None = None
    start_timeout_s: float | None = None

    @classmethod
    def read(cls, written: Mapping[str, object]) -> Ceilings:
        """From what an administrator types: `{"memory": "16GiB", "max_age": "8h"}`. Raises ValueError that names the key."""
        values: dict[str, float | int] = {}
        for key, value in written.items():
            if key not in _READ:
                raise ValueError(f"there is no limit {key!r}: write one of {', '.join(('profiles', *_READ))}")
            try:
                name, number = _READ[key](value)
            except ValueError as exc:
                raise ValueError(f"{key}: {exc}") from exc
            values[name] = number
        return cls(**values)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The administrator's rules for written courses, and what is already somebody else's.

    settings: by provider, the keys below `settings:` that may be written; `*` for providers that are not named.
    images: patterns (`lab/*:2026.*`) of images and templates that may be named; none: any. profiles: the most in a course.
    everyone: whether this course may be open to all who can log in. taken_courses: names of courses in files.
    taken_groups: groups that decide about something else already.
    """

    settings: Mapping[str, frozenset[str]] = field(
        default_factory=lambda: {name: frozenset(keys) for name, keys in HARMLESS_SETTINGS.items()}
    )
    images: tuple[str, ...] = ()
    ceilings: Ceilings = Ceilings()
    profiles: int = 20
    everyone: bool = False
    taken_courses: frozenset[str] = frozenset()
    taken_groups: frozenset[str] = frozenset()

    def settings_of(self, provider: str) -> frozenset[str]:
        """The keys below `settings:` of a variant that runs on `provider`."""
        return self.settings.get(provider, self.settings.get("*", frozenset()))

    def for_admin(self) -> Bounds:
        """These, for a course that an administrator lets be open to everyone."""
        return replace(self, everyone=True)

    def beside(self, file_courses: Iterable[Course], groups: Collection[str] | None = None) -> Bounds:
        """These, beside the courses in files. groups: those that the hub has; for a course that is new, and only then: a
        group that is there already, or that a file names, decides about something else."""
        courses = tuple(file_courses)
        taken = frozenset() if groups is None else claimed(courses) | frozenset(groups)
        return replace(
            self,
            taken_courses=self.taken_courses | {course.course for course in courses},
            taken_groups=self.taken_groups | taken,
        )

    def to_json(self) -> dict[str, Json]:
        """A JSON object that `from_json` turns back into the same."""
        return {
            "settings": {name: _list(keys) for name, keys in self.settings.items()},
            "images": list(self.images),
            "ceilings": asdict(self.ceilings),
            "profiles": self.profiles,
            "everyone": self.everyone,
            "taken_courses": _list(self.taken_courses),
            "taken_groups": _list(self.taken_groups),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> Bounds:
        """Rebuild from `to_json`."""
        settings, ceilings = data["settings"], data["ceilings"]
        assert isinstance(settings, dict)
        assert isinstance(ceilings, dict)
        return cls(
            settings={name: frozenset(_texts(keys)) for name, keys in settings.items()},
            images=tuple(_texts(data["images"])),
            ceilings=Ceilings(**ceilings),  # type: ignore[arg-type]
            profiles=int(str(data["profiles"])),
            everyone=data["everyone"] is True,
            taken_courses=frozenset(_texts(data["taken_courses"])),
            taken_groups=frozenset(_texts(data["taken_groups"])),
        )


def groups_of(slug: str) -> dict[CourseRole, str]:
    """The JupyterHub groups of a course that is written in the console, by what they make of their members."""
    return {
        CourseRole.MEMBER: MEMBER_GROUP.format(slug=slug),
        CourseRole.ASSISTANT: ASSISTANT_GROUP.format(slug=slug),
        CourseRole.INSTRUCTOR: STAFF_GROUP.format(slug=slug),
    }


def claimed(courses: Iterable[Course]) -> frozenset[str]:
    """Every group whose members see or teach one of `courses`, under whatever name."""
    groups: set[str] = set()
    for course in courses:
        groups.update(course.access.groups, course.access.staff, groups_of(course.course).values())
    return frozenset(groups)


def _list(texts: Iterable[str]) -> list[Json]:
    return [*sorted(texts)]


def _texts(value: Json) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def _size(name: str) -> _Reader:
    return lambda value: (name, parse_bytes(value))


def _span(name: str) -> _Reader:
    return lambda value: (name, _more_than_nothing(parse_duration(value)).total_seconds())


def _more_than_nothing(span: timedelta) -> timedelta:
    if span <= timedelta(0):
        raise ValueError("write a time that is more than 0, or leave the key out")
    return span


def _whole(name: str, most: int) -> _Reader:
    def read(value: object) -> tuple[str, int]:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise ValueError(f"{value!r} is not a whole number from 1 to {most}")
        return name, value

    return read


def _cores(value: object) -> tuple[str, float]:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 4096:
        raise ValueError(f"{value!r} is not a number of cores: write for example 4 or 0.5")
    return "cpu", float(value)


_READ: dict[str, _Reader] = {
    "cpu": _cores,
    "memory": _size("memory_bytes"),
    "disk": _size("disk_bytes"),
    "gpu_memory": _size("gpu_memory_bytes"),
    "gpu_cores": lambda value: ("gpu_cores_pct", parse_percent(value)),
    "gpu_cards": _whole("gpu_cards", 16),
    "max_age": _span("max_age_s"),
    "idle": _span("idle_s"),
    "retain": _span("retain_s"),
    "start_timeout": _span("start_timeout_s"),
}
LIMITS = ("profiles", *_READ)
"""The keys of `c.Labspawner.console_limits`."""
