"""The garbage collector, told that a hub keeps most of what it makes."""

from __future__ import annotations

import gc

THRESHOLDS = (50_000, 20, 50)
"""Python's own (700, 10, 10) suit small programs: 500 starts at once spent a fifth of their time in collections, each
of which stops the event loop for up to 100 ms. With these, garbage in cycles may take some 50 MB before it is freed."""


def relax() -> None:
    """Collect seldom from now on, and never look again at what was made until now. For a hub that has just started."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
