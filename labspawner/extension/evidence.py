"""All that is known of how this server is used, as the hub wants to read it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from logging import getLogger
from typing import Any

from labspawner.extension import terminals
from labspawner.extension.browsers import Browsers
from labspawner.extension.kernels import Kernels
from labspawner.extension.terminals import Terminal

log = getLogger(__name__)

SAVES = "https://events.jupyter.org/jupyter_server/contents_service/v1"
VERSION = 1


def iso(instant: datetime | None) -> str | None:
    """An instant with its time zone; null for none."""
    return None if instant is None else instant.astimezone(timezone.utc).isoformat(timespec="milliseconds")


class Evidence:
    """Watches one Jupyter server. sessions, terminal_manager: the server's own; browsers: what its tabs said.
    refusals: how often its GPU slice had no memory for a program."""

    def __init__(
        self,
        *,
        kernels: Kernels,
        sessions: Any,
        terminal_manager: Callable[[], Any],
        clock: Callable[[], datetime],
        refusals: Callable[[], int] = lambda: 0,
    ) -> None:
        self._kernels = kernels
        self._sessions = sessions
        self._terminal_manager = terminal_manager
        self._clock = clock
        self._refusals = refusals
        self._refused = 0
        self._terminals: list[Terminal] = []
        self._last_save: datetime | None = None
        self._last_activity: datetime | None = None  # also of kernels and terminals that are gone
        self.browsers = Browsers()

    def look(self) -> None:
        """Look at kernels and terminals; cheap enough for every second."""
        self._kernels.look()
        self._refused = self._refusals()
        self._terminals = terminals.look(self._terminal_manager())

    def state(self) -> object:
        """What makes a report urgent when it changes: what is busy, what only waits, and memory that was refused."""
        return frozenset(self._kernels.busy()), tuple(terminals.foregrounds(self._terminals)), self._refused

    async def saved(self, *, data: Mapping[str, Any], **_: object) -> None:
        """Listen to the server's own events for a file that was saved."""
        if data.get("action") == "save":
            self._last_save = self._clock()

    def last_activity(self) -> datetime | None:
        """The newest real use: a cell begun or ended, something typed in a terminal, a saved file, keys or mouse."""
        typed = (terminal.last_input for terminal in self._terminals)
        uses: Iterable[datetime | None] = (
            self._kernels.last_execution(), self._last_save, self.browsers.last_input, *typed, self._last_activity
        )  # fmt: skip
        self._last_activity = max(filter(None, uses), default=self._last_activity)
        return self._last_activity

    async def report(self) -> dict[str, Any]:
        """The report, as JSON."""
        self.look()
        now, paths = self._clock(), await self._paths()
        tabs = self.browsers.connected(now)
        return {
            "v": VERSION,
            "at": iso(now),
            "last_activity": iso(self.last_activity()),
            "kernels": [self._kernel(kernel_id, paths) for kernel_id in self._kernels.ids()],
            "terminals": [
                {
                    "name": terminal.name,
                    "foreground": terminal.foreground,
                    "since": iso(terminal.since),
                    "last_activity": iso(terminal.last_input),
                }
                for terminal in self._terminals
            ],
            "clients": {
                "connected": len(tabs),
                "last_input": iso(self.browsers.last_input),
                "visible": any(tab.visible for tab in tabs),
            },
            "unsaved": self.browsers.unsaved(now),
            "gpu_refusals": self._refused,
        }

    def _kernel(self, kernel_id: str, paths: Mapping[str, str]) -> dict[str, Any]:
        log = self._kernels.log(kernel_id)
        return {
            "id": kernel_id,
            "name": self._kernels.name(kernel_id),
            "path": paths.get(kernel_id, ""),
            "busy_since": iso(log.busy_since),
            "last_execution": iso(log.last_execution),
            "waiting_for_input": self._kernels.waits(kernel_id),
        }

    async def _paths(self) -> dict[str, str]:
        """Which kernel belongs to which document. Only words for people, so that a fault costs no report."""
        try:
            sessions = await self._sessions.list_sessions()
            return {str(session["kernel"]["id"]): str(session["path"]) for session in sessions}
        except Exception:  # a session manager may be anybody's
            log.debug("labspawner: no list of sessions", exc_info=True)
            return {}
