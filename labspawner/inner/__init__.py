"""The hub's inner API: what only the hub knows, for services of ours that hold `custom:labspawner:console`.

Below `/hub/api/labspawner/v1/`, with a token and never with a cookie. The service asks; what may be done is decided here.
"""

from __future__ import annotations

from typing import Any

from labspawner.inner.acting import ROUTES as ACTING
from labspawner.inner.base import PREFIX, SCOPE
from labspawner.inner.examining import ROUTES as EXAMINING
from labspawner.inner.reading import ROUTES as READING
from labspawner.inner.reconciling import ROUTES as RECONCILING

__all__ = ["PREFIX", "SCOPE", "extra_handlers"]


def extra_handlers() -> list[tuple[str, type, dict[str, Any]]]:
    """For `c.JupyterHub.extra_handlers`. Every room of the inner API gives its ROUTES: (path below PREFIX, handler)."""
    return [(f"{PREFIX}{path}", handler, {}) for path, handler in (*ACTING, *READING, *EXAMINING, *RECONCILING)]
