"""What the reconciler would do now: one look at everything, which changes nothing and is kept for a moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from labspawner.errors import LabError
from labspawner.inner.base import InnerHandler
from labspawner.reconciler import Action, Plan, Reconciler

KEY = "labspawner_dry_run"
KEPT_S = 10.0
"""A look asks every provider for a listing, so however many ask, there is one in this time."""


def as_json(plan: Plan, at: datetime) -> dict[str, Any]:
    """A plan for other processes: the sentences as their templates, everything else as plain values."""
    return {
        "at": at.isoformat(),
        "actions": _actions(plan.actions),
        "braked": _actions(plan.braked),
        "suspects": [
            {"kind": kind, "key": key, "since": sighting.since.isoformat(), "count": sighting.count}
            for (kind, key), sighting in sorted(plan.suspects.items())
        ],
    }


def _actions(actions: Iterable[Action]) -> list[dict[str, Any]]:
    return [
        {
            "kind": action.kind,
            "provider": action.provider,
            "lease": action.lease.id if action.lease else action.handle.lease_id if action.handle else "",
            "user": action.lease.user if action.lease else "",
            "server": action.lease.server_name if action.lease else "",
            "mode": action.mode.value,
            "reason": action.reason.to_json(),
        }
        for action in actions
    ]


@dataclass
class DryRuns:
    """The last dry run of one reconciler; whoever asks while one is made waits for it."""

    reconciler: Reconciler
    clock: Callable[[], float] = time.monotonic
    _taken_at: float = float("-inf")
    _last: dict[str, Any] = field(default_factory=dict)
    _making: asyncio.Task[None] | None = None

    async def last(self) -> dict[str, Any]:
        """A dry run that is at most `KEPT_S` old. Raises LabError where the leases cannot be read."""
        if self.clock() - self._taken_at >= KEPT_S:
            if self._making is None or self._making.done():
                self._making = asyncio.get_running_loop().create_task(self._make())
            await asyncio.shield(self._making)
        return self._last

    async def _make(self) -> None:
        plan = await self.reconciler.pass_once(dry_run=True)
        self._last, self._taken_at = as_json(plan, datetime.now(timezone.utc)), self.clock()


class ReconcilerHandler(InnerHandler):
    """`GET reconciler`: what a pass would do now. Nothing is done, and the next pass remembers nothing of it."""

    async def get(self) -> None:
        kept = self.users.settings
        try:
            runtime = self.runtime
            await runtime.engine.start()
            if KEY not in kept:
                kept[KEY] = DryRuns(runtime.engine.reconciler)
            found = await kept[KEY].last()
        except LabError as exc:
            self.refuse(exc)
        else:
            self.answer({"reconciler": {**found, "interval_s": runtime.settings.reconcile_interval_s}})


ROUTES: list[tuple[str, type]] = [(r"reconciler", ReconcilerHandler)]
