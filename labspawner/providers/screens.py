"""Whether a server has a screen that may be opened: for its card, and for the desktop service."""

from __future__ import annotations

from labspawner.model import Lease
from labspawner.providers.contract import Consoling, ScreenOffering


def offers_screen(provider: object, lease: Lease | None) -> bool:
    """Whether the server of `lease` has a screen, and its profile, as it was at the start, lets its student open it."""
    if lease is None or not isinstance(provider, Consoling):
        return False
    if not isinstance(provider, ScreenOffering):
        return True
    variant = lease.pinned.get("variant")
    settings = variant.get("settings") if isinstance(variant, dict) else None
    return provider.offers_screen(settings if isinstance(settings, dict) else {})
