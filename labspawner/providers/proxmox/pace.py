"""The time that waits of this provider pass in, as an argument: a test double's hours are a moment."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

_HURRY = 20.0
_LEAST_S = 0.02


@dataclass(frozen=True, slots=True)
class Pace:
    """factor: how many times faster than a clock pauses pass; 1.0 outside tests and demos.

    No pause is shorter than some milliseconds: what is waited for is at work meanwhile, and asking takes its time.
    Deadlines and ages are counted in `now()`, which goes at most 20 times faster: a machine is no quicker because a
    simulated cluster is, and must not run into a deadline under load.
    """

    factor: float = 1.0

    def now(self) -> float:
        """Seconds that only grow, of no known beginning."""
        return time.monotonic() * min(self.factor, _HURRY)

    async def sleep(self, seconds: float) -> None:
        """Pause for this long, by this pace."""
        await asyncio.sleep(max(seconds / self.factor, min(seconds, _LEAST_S)))


CLOCK = Pace()
"""Time as it passes."""
