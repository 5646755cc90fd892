"""The garbage collector, told that a hub keeps most of what it makes; and lines of the log that nobody reads, not made."""

from __future__ import annotations

import gc
import logging

THRESHOLDS = (50_000, 20, 50)
"""Python's own (700, 10, 10) suit small programs: 500 starts at once spent a fifth of their time in collections, each
of which stops the event loop for up to 100 ms. With these, garbage in cycles may take some 50 MB before it is freed."""


def relax() -> None:
    """Collect seldom from now on, and never look again at what was made until now. For a hub that has just started."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


def keep() -> None:
    """Never look again at what was made until now, without a look at it: that would hold up a hub that works."""
    gc.freeze()


def hush(log: logging.Logger) -> None:
    """Make no lines that no handler of `log` takes. JupyterHub's logger takes all, its handler drops what is for
    debugging: a dozen lines for every request. Call it when all handlers are there."""
    lowest = min((handler.level for handler in log.handlers), default=logging.NOTSET)
    for logger in (log, *(logging.getLogger(name) for name in ("tornado", "oauthlib", "labspawner"))):
        if (logger is log or logger.parent is log) and logger.level < lowest:
            logger.setLevel(lowest)
