"""What keeps the hub answering while hundreds start: one piece of heavy work per turn of the event loop, and less work."""

from labspawner.gate import lookups
from labspawner.gate.doors import open_wide
from labspawner.gate.hub import READY, install, turnstile_of, uninstall
from labspawner.gate.memory import relax
from labspawner.gate.turnstile import Turnstile

__all__ = ["READY", "Turnstile", "install", "lookups", "open_wide", "relax", "turnstile_of", "uninstall"]
