"""What keeps the hub answering while hundreds start: one piece of heavy work per turn of the event loop, and less work."""

from labspawner.gate import activity, lookups, tokens
from labspawner.gate.doors import open_wide
from labspawner.gate.hub import READY, install, turnstile_of, uninstall
from labspawner.gate.memory import hush, keep, relax
from labspawner.gate.turnstile import Pace, Turnstile

__all__ = [
    "READY",
    "Pace",
    "Turnstile",
    "activity",
    "hush",
    "install",
    "keep",
    "lookups",
    "open_wide",
    "relax",
    "tokens",
    "turnstile_of",
    "uninstall",
]
