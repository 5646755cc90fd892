"""What every page of a hub says at its top, the hub's own and those of the services beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def is_bare(providers: Iterable[object]) -> bool:
    """Whether some provider is known to start servers without a sandbox."""
    return any(getattr(provider, "sandboxed", None) is False for provider in providers)


def pretends_gpus(providers: Iterable[object]) -> bool:
    """Whether some provider gives out slices of GPUs that do not exist."""
    return any(getattr(provider, "pretends_gpus", False) is True for provider in providers)


def told_everywhere(settings: Mapping[str, Any], providers: Iterable[object]) -> dict[str, bool]:
    """The same for pages that another process makes: `demo`, `bare`, `pretended`. settings: of the hub's web application."""
    providers = list(providers)
    lab = (settings.get("template_vars") or {}).get("lab")
    return {
        "demo": lab is not None and lab(None).demo is not None,
        "bare": is_bare(providers),
        "pretended": pretends_gpus(providers),
    }
