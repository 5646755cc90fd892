"""Launch requests for tests of providers, each valid as it stands, and as JSON for another process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from labspawner.model import Handle, Json, LaunchRequest, LeaseId, Resources
from labspawner.naming import new_lease_id
from labspawner.testing import tinyserver


def launch_request(**changes: Any) -> LaunchRequest:
    """A request for a server that answers HTTP at once; `base_url` and `environment` fit its user and server name."""
    user, server_name = changes.get("user", "student1"), changes.get("server_name", "")
    base_url = f"/user/{quote(user, safe='@~')}/" + (f"{quote(server_name, safe='@~')}/" if server_name else "")
    values: dict[str, Any] = {
        "lease_id": new_lease_id(),
        "hub_id": "test-hub",
        "user": user,
        "server_name": server_name,
        "profile": "py101/base",
        "base_url": base_url,
        "command": tinyserver.command(),
        "environment": {
            "PATH": os.environ.get("PATH", os.defpath),
            "JUPYTERHUB_API_TOKEN": "not-a-secret",
            "JUPYTERHUB_CLIENT_ID": f"jupyterhub-user-{quote(user, safe='')}",
            "JUPYTERHUB_USER": user,
            "JUPYTERHUB_API_URL": "http://127.0.0.1:1/hub/api",
            "JUPYTERHUB_SERVICE_PREFIX": base_url,
        },
        "ready_timeout_s": 120.0,
    }
    return LaunchRequest(**{**values, **changes})


def request_to_json(request: LaunchRequest) -> dict[str, Json]:
    """A request as JSON, environment included: for tests only, a real environment holds secrets."""
    return {
        "lease_id": request.lease_id,
        "hub_id": request.hub_id,
        "user": request.user,
        "server_name": request.server_name,
        "profile": request.profile,
        "base_url": request.base_url,
        "command": list(request.command),
        "environment": dict(request.environment),
        "resources": request.resources.to_json(),
        "settings": dict(request.settings),
        "ready_timeout_s": request.ready_timeout_s,
        "parked": handle_to_json(request.parked) if request.parked else None,
    }


def request_from_json(data: Mapping[str, Any]) -> LaunchRequest:
    """What `request_to_json` wrote."""
    return LaunchRequest(
        **{
            **data,
            "command": tuple(data["command"]),
            "resources": Resources.from_json(data["resources"]),
            "parked": handle_from_json(data["parked"]) if data["parked"] else None,
        }
    )


def handle_to_json(handle: Handle) -> dict[str, Json]:
    """A handle as JSON."""
    return {"lease_id": handle.lease_id, "provider": handle.provider, "data": dict(handle.data)}


def handle_from_json(data: Mapping[str, Any]) -> Handle:
    """What `handle_to_json` wrote."""
    return Handle(lease_id=LeaseId(data["lease_id"]), provider=data["provider"], data=data["data"])
