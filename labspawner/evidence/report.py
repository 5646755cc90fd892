"""The report of a server, from bytes that a student may have written to a value that decisions can rest on. Pure.

Unknown keys are left alone: a newer extension may say more. What is known has to be of its type, or all is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TypeVar

from labspawner.errors import Permanent
from labspawner.model import Activity, Work, WorkKind
from labspawner.sentences import Sentence

T = TypeVar("T")
Fields = Mapping[str, object]

VERSION = 1
MAX_BYTES = 64 * 1024
MAX_LISTED = 200  # kernels, and terminals
MAX_UNSAVED = 2000
MAX_COUNT = 100_000
MAX_SHOWN = 5  # what is kept of the work: words for people
MAX_NAME_CHARS = 200
_LONG_AGO = timedelta(days=3660)
_LONGEST_HOLD_S = _LONG_AGO.total_seconds()


class BadReport(Permanent):
    """What a server sent cannot be read as a report, or as a request."""

    reason = "bad_report"
    status_code = 400


def parse_report(body: bytes, *, now: datetime, valid_for: timedelta) -> Activity:
    """Read a report. Its instants are read by its own clock (`at` is now), and none lies in the future.

    Raises BadReport, which names the field.
    """
    data = parse_object(body)
    version = data.get("v")
    if type(version) is not int or version != VERSION:
        raise _bad("v", "1")
    at = _instant("at", data.get("at"))
    if at is None:
        raise _bad("at", "an instant with its time zone")
    return _Reader(now, at).activity(data, now + valid_for)


def parse_object(body: bytes) -> Fields:
    """A small JSON object. Raises BadReport."""
    if len(body) > MAX_BYTES:
        raise BadReport(Sentence("The report is larger than {limit} KiB.", limit=MAX_BYTES // 1024))
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise BadReport(Sentence("The report is not JSON.")) from exc
    if not isinstance(data, dict):
        raise BadReport(Sentence("The report is not a JSON object."))
    return data


def parse_hold(body: bytes) -> float:
    """The seconds that a server asks to be held for; 0 gives a hold up. Raises BadReport."""
    seconds = parse_object(body).get("seconds")
    # The comparison is False for NaN too.
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= _LONGEST_HOLD_S:
        raise BadReport(Sentence("A hold is a number of seconds, 0 or more."))
    return float(seconds)


class _Reader:
    """Reads instants of a clock that says `at` when ours says `now`."""

    def __init__(self, now: datetime, at: datetime) -> None:
        self._now, self._at = now, at

    def activity(self, data: Fields, valid_until: datetime) -> Activity:
        kernels = [_mapping("kernels", item) for item in _list("kernels", data.get("kernels"), MAX_LISTED)]
        terminals = [_mapping("terminals", item) for item in _list("terminals", data.get("terminals"), MAX_LISTED)]
        clients = _mapping("clients", {} if data.get("clients") is None else data["clients"])
        unsaved = [_text("unsaved", item) for item in _list("unsaved", data.get("unsaved"), MAX_UNSAVED)]
        uses = [self._instant("last_activity", data), self._instant("last_input", clients)]
        uses += [self._instant("last_execution", kernel) for kernel in kernels]
        uses += [self._instant("last_activity", terminal) for terminal in terminals]
        _flag("visible", clients.get("visible"))
        names = [_kernel_name(kernel) for kernel in kernels]
        running = [self._instant("busy_since", kernel) for kernel in kernels]
        waiting = [_flag("waiting_for_input", kernel.get("waiting_for_input")) for kernel in kernels]
        work = [
            Work(kind=WorkKind.KERNEL, what=name, since=since)
            for name, since, waits in zip(names, running, waiting, strict=True)
            if since is not None and not waits
        ]
        work += [found for terminal in terminals if (found := self._terminal(terminal)) is not None]
        return Activity(
            taken_at=self._now,
            valid_until=valid_until,
            last_activity=max((use for use in uses if use is not None), default=None),
            work=tuple(sorted(work, key=lambda item: item.since or self._now)[:MAX_SHOWN]),
            work_count=len(work),
            waiting=sum(since is not None and waits for since, waits in zip(running, waiting, strict=True)),
            clients=_count("connected", clients.get("connected")),
            unsaved=len(unsaved),
            gpu_refusals=_large("gpu_refusals", data.get("gpu_refusals")),
        )

    def _terminal(self, terminal: Fields) -> Work | None:
        _text("name", terminal.get("name"))
        foreground, since = _text("foreground", terminal.get("foreground")), self._instant("since", terminal)
        return Work(kind=WorkKind.TERMINAL, what=foreground, since=since) if foreground else None

    def _instant(self, name: str, fields: Fields) -> datetime | None:
        """By our clock; the future is now, and what is older than ten years was then."""
        instant = _instant(name, fields.get(name))
        if instant is None:
            return None
        return self._now - min(max(self._at - instant, timedelta(0)), _LONG_AGO)


def _kernel_name(kernel: Fields) -> str:
    _text("id", kernel.get("id"))
    name, path = _text("name", kernel.get("name")), _text("path", kernel.get("path"))
    return path or name or "?"


def _instant(name: str, value: object) -> datetime | None:
    if value is None:
        return None
    try:
        # Python 3.10 does not know `Z`
        instant = datetime.fromisoformat(value.replace("Z", "+00:00")) if isinstance(value, str) else None
        if instant is not None and instant.tzinfo is not None:
            return instant
    except ValueError:
        pass
    raise _bad(name, "an instant with its time zone, or null")


def _list(name: str, value: object, most: int) -> list[object]:
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > most:
        raise _bad(name, f"a list of at most {most}")
    return value


def _mapping(name: str, value: object) -> Fields:
    if not isinstance(value, dict):
        raise _bad(name, "an object")
    return value


def _text(name: str, value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _bad(name, "text, or null")
    return value if len(value) <= MAX_NAME_CHARS else value[: MAX_NAME_CHARS - 3] + "..."


def _flag(name: str, value: object) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    raise _bad(name, "true or false")


def _count(name: str, value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
        raise _bad(name, f"a whole number from 0 to {MAX_COUNT}")
    return value


def _large(name: str, value: object) -> int:
    """A count that may be any size: a program that asks in a loop is no reason to refuse its server's reports."""
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _bad(name, "a whole number, 0 or more")
    return min(value, 2**53)


def _bad(name: str, wanted: str) -> BadReport:
    return BadReport(Sentence("The report's {field} must be {wanted}.", field=name, wanted=wanted))
