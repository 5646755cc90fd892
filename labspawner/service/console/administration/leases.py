"""The list of leases: which of them somebody looks for, and what may be shown of a handle. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from labspawner.sentences import Sentence
from labspawner.service.console.administration.answers import ServerAnswer
from labspawner.units import human_bytes, human_duration

PHASES: Mapping[str, Sentence] = {
    "queued": Sentence("Waiting"),
    "launching": Sentence("Starting"),
    "ready": Sentence("Running"),
    "stopping": Sentence("Stopping"),
    "parked": Sentence("Parked"),
}
MARKS: Mapping[str, str] = {"ready": "ok", "queued": "soon", "launching": "soon", "stopping": "soon", "parked": "off"}
STUCK_AFTER: Mapping[str, timedelta] = {"launching": timedelta(minutes=30), "stopping": timedelta(minutes=10)}
"""A phase that is usually over by then; a person should look."""

_SECRET = re.compile(r"token|secret|passw|key|ticket|cookie|credential|auth", re.IGNORECASE)
_MOST_ENTRIES, _MOST_CHARACTERS, _DEPTH = 60, 200, 4
_MINUTE = timedelta(minutes=1)
HIDDEN = "•••"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What somebody looks for; empty: everything. text: a part of user, server, profile, lease, host or card."""

    text: str = ""
    provider: str = ""
    phase: str = ""
    course: str = ""

    @classmethod
    def of(cls, given: Mapping[str, str]) -> Wish:
        """From a query string's values; a phase that there is not is none."""
        phase = given.get("phase", "")
        return cls(
            text=given.get("q", "").strip(),
            provider=given.get("provider", ""),
            phase=phase if phase in PHASES else "",
            course=given.get("course", ""),
        )

    def takes(self, server: ServerAnswer) -> bool:
        if self.provider and server.provider != self.provider:
            return False
        if self.phase and server.phase != self.phase:
            return False
        if self.course and server.course != self.course:
            return False
        wanted = self.text.casefold()
        seen = (server.user, server.server, server.profile, server.lease, server.host or "", server.card or "")
        return not wanted or any(wanted in text.casefold() for text in seen)


def shown(servers: Iterable[ServerAnswer], wish: Wish) -> list[ServerAnswer]:
    """Those that are looked for, the ones in trouble first, then the oldest in their phase."""
    order = list(PHASES)
    urgency = ("stopping", "launching", "queued", "ready", "parked")
    known = {phase: place for place, phase in enumerate(urgency)}
    found = [server for server in servers if wish.takes(server)]
    return sorted(found, key=lambda one: (known.get(one.phase, len(order)), one.phase_at, one.user, one.lease))


def age(server: ServerAnswer, now: datetime) -> str:
    """For how long it has been in its phase; from a minute on without seconds."""
    span = max(timedelta(0), now - server.phase_at)
    return human_duration(span if span < _MINUTE else span // _MINUTE * _MINUTE)


def stuck(server: ServerAnswer, now: datetime) -> bool:
    """Whether its phase has taken longer than it ever should."""
    limit = STUCK_AFTER.get(server.phase)
    return limit is not None and now - server.phase_at > limit


def holds(server: ServerAnswer) -> tuple[Sentence, ...]:
    """What it holds, in words."""
    reserves, found = server.reserves, []
    if (gpu := server.slice or reserves.gpu) is not None:
        words = Sentence("GPU: {memory}, {cores} %", memory=human_bytes(gpu.memory_bytes), cores=gpu.compute_pct)
        found.append(words)
    if reserves.cpu is not None:
        found.append(Sentence("CPU: {cores} cores", cores=f"{reserves.cpu:g}"))
    if reserves.memory_bytes is not None:
        found.append(Sentence("Memory: {memory}", memory=human_bytes(reserves.memory_bytes)))
    return tuple(found)


def summary(handle: Mapping[str, Any] | None) -> tuple[tuple[str, str], ...]:
    """What is in a handle, key by key, without anything that could be a secret. Handles hold none; this is for the one that
    does all the same."""
    return tuple(_entries("", handle or {}, _DEPTH))[:_MOST_ENTRIES]


def _entries(above: str, data: Any, depth: int) -> Iterator[tuple[str, str]]:
    pairs = data.items() if isinstance(data, Mapping) else enumerate(data)
    for name, value in pairs:
        path = f"{above}{name}"
        if _SECRET.search(str(name)):
            yield path, HIDDEN
        elif isinstance(value, Mapping | list) and value and depth > 1:
            yield from _entries(f"{path}.", value, depth - 1)
        else:
            yield path, _short(value)


def _short(value: Any) -> str:
    if isinstance(value, Mapping | list):
        return "…" if value else "–"
    text = "–" if value is None or value == "" else str(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"
