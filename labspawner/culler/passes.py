"""Pass after pass, whatever one of them meets, until told to stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from labspawner.culler.sweep import Sweep
from labspawner.errors import LabError

# JupyterHub gives a managed service 10 s after SIGINT before it sends SIGTERM.
_GRACE_S = 8.0


class Passes:
    """Runs a sweep again and again, never two at a time. A trouble that lasts is logged once, and so is its end.

    prepare: done before the first pass, and again until it succeeds; the database may come up after us.
    interval_s: from the end of one pass to the start of the next.
    grace_s: how long a pass gets to end what it has begun when we are told to stop.
    """

    def __init__(
        self,
        sweep: Sweep,
        prepare: Callable[[], Awaitable[None]],
        *,
        log: logging.Logger,
        interval_s: float,
        grace_s: float = _GRACE_S,
    ) -> None:
        self._sweep = sweep
        self._prepare: Callable[[], Awaitable[None]] | None = prepare
        self._log = log
        self._interval_s = interval_s
        self._grace_s = grace_s
        self._trouble: str | None = None

    async def run(self, stopping: asyncio.Event, *, once: bool = False) -> int:
        """Until `stopping` is set, or for one pass. The exit status: 1 if that one pass could not be made."""
        told = asyncio.create_task(stopping.wait())
        try:
            while not told.done():
                made = await self._interruptible_pass(told)
                if once:
                    return 0 if made else 1
                await asyncio.wait({told}, timeout=self._interval_s)
            return 0
        finally:
            await _cancelled(told)

    async def _interruptible_pass(self, told: asyncio.Task[bool]) -> bool:
        current = asyncio.create_task(self._pass())
        try:
            await asyncio.wait({current, told}, return_when=asyncio.FIRST_COMPLETED)
            if not current.done():
                self._log.info("told to stop: ending what this pass has begun")
                self._sweep.close()
                await asyncio.wait({current}, timeout=self._grace_s)
            return current.done() and current.result()
        finally:
            await _cancelled(current)

    async def _pass(self) -> bool:
        """One pass; False if it could not be made, which is logged."""
        try:
            if self._prepare:
                await self._prepare()
                self._prepare = None
            summary = await self._sweep.run()
        except LabError as exc:
            self._say_once(str(exc), exc_info=False)
            return False
        except Exception as exc:
            # The next pass may do better, and the service must live to make it.
            self._say_once(repr(exc), exc_info=True)
            return False
        if self._trouble is not None:
            self._log.info("passes are made again")
            self._trouble = None
        if summary.culled or summary.not_applied:
            self._log.info(
                "pass made seen=%s culled=%s not_applied=%s", summary.seen, summary.culled, summary.not_applied
            )
        return True

    def _say_once(self, trouble: str, *, exc_info: bool) -> None:
        if trouble != self._trouble:
            self._log.warning("no pass made, nothing culled; trying again: %s", trouble, exc_info=exc_info)
        self._trouble = trouble


async def _cancelled(task: asyncio.Task[bool]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
