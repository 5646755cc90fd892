"""Values for tests, each valid as it stands; name only what the test is about."""

from __future__ import annotations

import os
import sys
from datetime import datetime, timezone
from typing import Any

from labspawner.model import LaunchRequest, Lease, LeaseId
from labspawner.naming import new_lease_id

NOW = datetime(2026, 11, 2, 10, 0, tzinfo=timezone.utc)


def a_request(**changes: Any) -> LaunchRequest:
    """A request for a server that answers HTTP at once (JupyterHub's own stand-in for a single-user server)."""
    values: dict[str, Any] = {
        "lease_id": new_lease_id(),
        "hub_id": "test-hub",
        "user": "student1",
        "server_name": "",
        "profile": "py101/base",
        "base_url": "/user/student1/",
        "command": (sys.executable, "-m", "jupyterhub.tests.mocksu"),
        "environment": {
            "PATH": os.environ["PATH"],
            "JUPYTERHUB_API_TOKEN": "not-a-secret",
            "JUPYTERHUB_CLIENT_ID": "jupyterhub-user-student1",
            "JUPYTERHUB_USER": "student1",
            "JUPYTERHUB_API_URL": "http://127.0.0.1:1/hub/api",
            "JUPYTERHUB_SERVICE_PREFIX": "/user/student1/",
        },
        "ready_timeout_s": 120.0,
    }
    return LaunchRequest(**{**values, **changes})


def a_lease(**changes: Any) -> Lease:
    values: dict[str, Any] = {
        "id": LeaseId(new_lease_id()),
        "hub_id": "test-hub",
        "user": "student1",
        "server_name": "",
        "provider": "sim",
        "profile": "py101/base",
        "created_at": NOW,
        "phase_at": NOW,
    }
    return Lease(**{**values, **changes})
