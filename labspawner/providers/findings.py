"""What a provider can say of its own state to an operator, before the first class does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, runtime_checkable

from labspawner.errors import LabError
from labspawner.model import Json, Resources


class Level(str, Enum):
    """OK: it works. NOTE: worth knowing, and no fault. WARNING: servers start, and something is lost. ERROR: a person must
    act, or some servers do not start."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. what: in two or three words; detail: what was found; advice: what to do about it.
    English, for operators, and `Sentence`s where the console shall say it in another language; never a secret."""

    level: Level
    what: str
    detail: str
    advice: str = ""


@runtime_checkable
class Diagnosing(Protocol):
    """A provider that knows what to look at. Optional."""

    async def diagnose(self) -> Sequence[Finding]:
        """Look at everything that servers will need, changing nothing. What cannot be looked at is a finding, not an
        error."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What one variant of a profile asks of its provider, with the default of each option. settings: as a `LaunchRequest`
    has them. hibernates: whether the profile's idle servers are hibernated."""

    profile: str
    resources: Resources = Resources()
    settings: Mapping[str, Json] = field(default_factory=dict)
    hibernates: bool = False


@runtime_checkable
class DiagnosingProfiles(Protocol):
    """A provider that looks at what profiles ask of it (templates, devices) too. Optional, and instead of `Diagnosing`."""

    async def diagnose_profiles(self, asked: Sequence[Asked]) -> Sequence[Finding]:
        """As `Diagnosing.diagnose`, for servers like these."""
        ...


def ok(what: str, detail: str) -> Finding:
    """It works."""
    return Finding(Level.OK, what, detail)


def note(what: str, detail: str, advice: str = "") -> Finding:
    """Worth knowing."""
    return Finding(Level.NOTE, what, detail, advice)


def warning(what: str, detail: str, advice: str = "") -> Finding:
    """Something is lost."""
    return Finding(Level.WARNING, what, detail, advice)


def error(what: str, detail: str, advice: str = "") -> Finding:
    """A person must act."""
    return Finding(Level.ERROR, what, detail, advice)


def trouble(what: str, exc: LabError) -> Finding:
    """A person must act, as an error of ours says: its words for the log, and its message where that says more."""
    detail, message = str(exc), exc.message
    return Finding(Level.ERROR, what, message) if message == detail else Finding(Level.ERROR, what, detail, message)
