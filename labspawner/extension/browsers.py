"""The browser tabs that show this server: each says now and then that it lives, when its student last did something,
and what is not saved. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

FORGOTTEN_AFTER = timedelta(seconds=150)  # browsers wake a hidden tab only once a minute
_MOST_TABS, _MOST_PATHS, _LONGEST_PATH, _LONGEST_ID = 32, 50, 300, 64


class NotAHeartbeat(ValueError):
    """What came is no heartbeat of a tab; the text says what is wrong."""


@dataclass(frozen=True)
class Tab:
    """One tab at its last heartbeat."""

    seen: datetime
    visible: bool
    last_input: datetime | None
    unsaved: tuple[str, ...]


class Browsers:
    """What the tabs said. last_input: the newest of all times, also of tabs that are gone."""

    def __init__(self) -> None:
        self._tabs: dict[str, Tab] = {}
        self.last_input: datetime | None = None

    def heard(self, body: object, now: datetime) -> None:
        """Take in one heartbeat: `{"visible", "last_input_s_ago", "unsaved"}`, with `id` where there are several tabs
        and `closed` in the last one. Raises NotAHeartbeat."""
        if not isinstance(body, Mapping):
            raise NotAHeartbeat("a heartbeat is a JSON object")
        tab_id = str(body.get("id", ""))[:_LONGEST_ID]
        last_input = _instant(body.get("last_input_s_ago"), now)
        unsaved = body.get("unsaved", [])
        if not isinstance(unsaved, list) or not all(isinstance(path, str) for path in unsaved):
            raise NotAHeartbeat("unsaved is a list of paths")
        self.last_input = max(filter(None, (self.last_input, last_input)), default=None)
        self._forget(now)
        if body.get("closed") is True:
            self._tabs.pop(tab_id, None)
        elif tab_id in self._tabs or len(self._tabs) < _MOST_TABS:
            paths = tuple(path[:_LONGEST_PATH] for path in unsaved[:_MOST_PATHS])
            self._tabs[tab_id] = Tab(now, body.get("visible") is True, last_input, paths)

    def connected(self, now: datetime) -> list[Tab]:
        """The tabs that were heard of lately."""
        self._forget(now)
        return list(self._tabs.values())

    def unsaved(self, now: datetime) -> list[str]:
        """The documents that a tab has changes of."""
        return sorted({path for tab in self.connected(now) for path in tab.unsaved})[:_MOST_PATHS]

    def _forget(self, now: datetime) -> None:
        self._tabs = {name: tab for name, tab in self._tabs.items() if now - tab.seen < FORGOTTEN_AFTER}


def _instant(seconds_ago: object, now: datetime) -> datetime | None:
    if seconds_ago is None:
        return None
    if isinstance(seconds_ago, bool) or not isinstance(seconds_ago, (int, float)):
        raise NotAHeartbeat("last_input_s_ago is a number of seconds, or null")
    if not math.isfinite(seconds_ago) or not 0 <= seconds_ago < 366 * 86400:
        raise NotAHeartbeat("last_input_s_ago is at least 0 and less than a year")
    return now - timedelta(seconds=seconds_ago)
