"""The desktop service: a server's screen in the browser, for its owner, and for course staff whom the owner lets look.

JupyterHub manages it as a process of its own, since it relays every pixel. `service` and `role` are what a hub's
configuration needs; `labspawner.wiring.run_desktop` puts them there.
"""

from __future__ import annotations

import sys
from typing import Any

from labspawner.service.desktop.settings import DesktopSettings

__all__ = ["ADMIN_SCOPE", "NAME", "SCOPES", "role", "service", "user_scopes"]

NAME = "desktop"
"""Stands in the address: `/services/desktop/`."""
SCOPES = ("users:activity",)
"""To note that a desktop is used; reading who somebody is needs nothing but their own log-in."""
ADMIN_SCOPE = "admin-ui"


def role() -> dict[str, Any]:
    """The entry for `c.JupyterHub.load_roles` that lets this service note activity, and nothing more."""
    return {"name": f"labspawner-{NAME}", "services": [NAME], "scopes": list(SCOPES)}


def user_scopes() -> list[str]:
    """What every user's role must have so that they may open the page. Whose screen they may see is asked there."""
    return [f"access:services!service={NAME}"]


def service(settings: DesktopSettings, *, url: str) -> dict[str, Any]:
    """The entry for `c.JupyterHub.services`; use it with `role` and `user_scopes`. url: where the process listens, for the
    hub's proxy alone."""
    return {
        "name": NAME,
        "url": url,
        "command": [sys.executable, "-m", "labspawner.service.desktop"],
        "environment": settings.to_environment(),
        "oauth_no_confirm": True,  # part of the hub: it asks nobody whether they trust it
        "oauth_client_allowed_scopes": [ADMIN_SCOPE],  # tells administrators from others, and permits nothing
        "display": False,  # one gets there from a server's card
    }
