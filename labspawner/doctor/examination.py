"""All looks, one after another, beside a hub that runs: one examination at a time, and its findings as they come."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import cast

from labspawner.config import Settings
from labspawner.doctor import looks
from labspawner.doctor.hub import hub_findings
from labspawner.model import Json
from labspawner.providers.findings import Finding, Level, error
from labspawner.sentences import Sentence

log = logging.getLogger(__name__)

BROKE_OFF = Sentence("it broke off: {error}; the hub's log has more")
HUB = "hub"
"""The name under which what concerns the hub itself is told; the rest is told under a provider's name."""


def of_hub(settings: Settings) -> list[Finding]:
    """The hub's own configuration, its databases and courses. Changes nothing. Blocks."""
    hub_url = settings.sections.get("JupyterHub", {}).get("db_url")
    return [
        *hub_findings(settings.sections, settings),
        *looks.database(settings, hub_url),
        *looks.courses(settings),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """One run of all looks. found: by `HUB` and provider, in the order of `places`, as far as it has come. ended_at: None
    while it runs."""

    began_at: datetime
    places: tuple[str, ...]
    found: Mapping[str, Sequence[Finding]] = field(default_factory=dict)
    ended_at: datetime | None = None

    def count(self, level: Level) -> int:
        """How many findings of this level there are so far."""
        return sum(finding.level is level for findings in self.found.values() for finding in findings)

    def to_json(self) -> dict[str, Json]:
        """A JSON object; `from_json` reads it."""
        return {
            "began_at": self.began_at.isoformat(),
            "ended_at": self.ended_at.isoformat() if self.ended_at else None,
            "places": list(self.places),
            "found": {
                place: [
                    {
                        "level": one.level.value,
                        **{name: _kept(getattr(one, name)) for name in ("what", "detail", "advice")},
                    }
                    for one in findings
                ]
                for place, findings in self.found.items()
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Examination:
        """What `to_json` gave. Raises ValueError for anything else."""
        try:
            ended = data["ended_at"]
            return cls(
                began_at=datetime.fromisoformat(str(data["began_at"])),
                ended_at=datetime.fromisoformat(str(ended)) if ended else None,
                places=tuple(str(place) for place in _list(data["places"])),
                found={
                    str(place): tuple(_finding(one) for one in _list(findings))
                    for place, findings in _object(data["found"]).items()
                },
            )
        except KeyError as exc:
            raise ValueError(f"an examination has {exc}") from exc


def _finding(data: object) -> Finding:
    one = _object(data)
    return Finding(Level(one["level"]), *(Sentence.from_json(one[name]) for name in ("what", "detail", "advice")))


def _kept(said: str) -> Json:
    """Words as JSON, from which they can still be said in another language; a provider's own as they are."""
    return cast("Json", json.loads(json.dumps(said.to_json(), default=str))) if isinstance(said, Sentence) else said


def _object(data: object) -> Mapping[object, object]:
    if not isinstance(data, Mapping):
        raise ValueError(f"an object, not {type(data).__name__}")
    return data


def _list(data: object) -> list[object]:
    if not isinstance(data, list):
        raise ValueError(f"a list, not {type(data).__name__}")
    return data


def look_at(settings: Settings, place: str) -> Sequence[Finding]:
    """All that is to be said of one place: `HUB`, or a provider's name. Blocks."""
    return of_hub(settings) if place == HUB else asyncio.run(looks.provider(settings, place))


class Examiner:
    """Examines the hub of these settings when asked to, at most once at a time. All looks run in one thread with an event
    loop of its own, as the command's do, so that a slow host stalls nobody; what they open they close."""

    def __init__(
        self,
        settings: Settings,
        *,
        look: Callable[[Settings, str], Sequence[Finding]] = look_at,
        clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        self._settings = settings
        self._look_at = look
        self._clock = clock
        self._thread: threading.Thread | None = None
        self._last: Examination | None = None
        self._lock = threading.Lock()

    @property
    def last(self) -> Examination | None:
        """The newest examination, running or over; None before the first."""
        return self._last

    def begin(self) -> Examination:
        """Start an examination, or join the one that runs; returns at once."""
        with self._lock:
            if self._last is None or self._last.ended_at is not None:
                begun = Examination(began_at=self._clock(), places=(HUB, *self._settings.providers))
                self._last = begun
                # A daemon: a hub that stops does not wait for a host that does not answer.
                self._thread = threading.Thread(
                    target=self._examine, args=(begun,), name="labspawner-doctor", daemon=True
                )
                self._thread.start()
            return self._last

    def join(self, timeout_s: float) -> None:
        """Return when no examination runs, or after `timeout_s`. Blocks; for tests and for orderly ends."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _examine(self, begun: Examination) -> None:
        found: dict[str, Sequence[Finding]] = {}
        for place in begun.places:
            found = {**found, place: tuple(self._look(place))}
            self._last = Examination(began_at=begun.began_at, places=begun.places, found=found)
        self._last = Examination(began_at=begun.began_at, places=begun.places, found=found, ended_at=self._clock())
        log.info("examined places=%d errors=%d", len(begun.places), self._last.count(Level.ERROR))

    def _look(self, place: str) -> Sequence[Finding]:
        try:
            return self._look_at(self._settings, place)
        except Exception as exc:
            log.exception("doctor could not look at %s", place)
            return (error(Sentence("examination"), Sentence(BROKE_OFF.template, error=type(exc).__name__)),)
