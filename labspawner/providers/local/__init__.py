"""Servers as processes on the hub's own machine."""

from labspawner.providers.local.options import LocalSettings, LocalVariant
from labspawner.providers.local.provider import LocalProvider

__all__ = ["LocalProvider", "LocalSettings", "LocalVariant"]
