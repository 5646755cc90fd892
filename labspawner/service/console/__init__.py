"""The console: instructors write the profiles of their course and run a class; programs do the same by a REST API.

JupyterHub manages it as a process of its own, at `/services/labspawner/`. It is trusted with no rule: who may start what, and
who is staff of what, is decided in the hub. `service`, `roles` and `custom_scopes` are what a hub's configuration needs;
`labspawner.wiring.run_console` puts them there.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from labspawner.service.console.rights import (
    ACT,
    ADMIN,
    ADMIN_UI,
    CONSOLE,
    READ,
    ROSTER,
    SELF,
    WRITE,
)

__all__ = ["NAME", "custom_scopes", "role", "service", "service_scopes", "user_scopes"]

NAME = "labspawner"
"""Stands in the address: `/services/labspawner/`."""


def custom_scopes() -> dict[str, dict[str, Any]]:
    """The entry for `c.JupyterHub.custom_scopes`. `!group=course-x` narrows each but the first and the last to one course."""
    return {
        SELF: {"description": "Use labspawner's console as oneself, with the rights that one's groups give"},
        READ: {"description": "See courses, their people and their servers in labspawner's console"},
        WRITE: {"description": "Write the profiles of courses in labspawner's console", "subscopes": [READ]},
        ROSTER: {"description": "Change who is in courses, in labspawner's console", "subscopes": [READ]},
        ACT: {"description": "Start, stop and extend students' servers, and send messages", "subscopes": [READ]},
        ADMIN: {
            "description": "Everything in labspawner's console, of all courses",
            "subscopes": [READ, WRITE, ROSTER, ACT],
        },
        CONSOLE: {"description": "What the console itself asks of the hub; for no person and no other service"},
    }


def service_scopes(*, creates_users: bool = False) -> list[str]:
    """What the console's own token must have, and no more: names for rosters, groups kept in step, and the hub's inner API,
    which asks for each act whether its actor may."""
    return ["list:users", "admin:groups", CONSOLE, *(["admin:users"] if creates_users else [])]


def role(*, creates_users: bool = False) -> dict[str, Any]:
    """The entry for `c.JupyterHub.load_roles` that gives the console's token its scopes."""
    return {"name": f"{NAME}-console", "services": [NAME], "scopes": service_scopes(creates_users=creates_users)}


def user_scopes() -> list[str]:
    """What every user's role must have: the way in, and the base scope. Being staff of a course is asked there."""
    return [f"access:services!service={NAME}", SELF]


def service(environment: Mapping[str, str], *, url: str) -> dict[str, Any]:
    """The entry for `c.JupyterHub.services`. environment: see `settings.ConsoleSettings`; url: where the process listens, for
    the hub's proxy alone."""
    return {
        "name": NAME,
        "url": url,
        "command": [sys.executable, "-m", "labspawner.service.console"],
        "environment": dict(environment),
        "oauth_no_confirm": True,  # part of the hub: it asks nobody whether they trust it
        # A browser's token gets of these what its user has, and nothing else: with their filters.
        "oauth_client_allowed_scopes": [SELF, READ, WRITE, ROSTER, ACT, ADMIN, ADMIN_UI],
        "display": True,
    }
