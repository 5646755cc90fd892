"""The culler: a service that JupyterHub manages, which ends idle, too old and stuck servers.

`service` and `role` are what a hub's configuration needs; `cull_arbiter` gives the same decisions to a site that runs
jupyterhub-idle-culler. What is decided, and why, is `labspawner.culling`.
"""

from __future__ import annotations

import sys
from typing import Any

from labspawner.culler.arbiter import cull_arbiter

__all__ = ["NAME", "SCOPES", "cull_arbiter", "role", "service"]

NAME = "labspawner-culler"
# Each one is needed, and no other, on JupyterHub 5.3 and 6.1 (tried: without any of them a pass fails).
# `last_activity` of a server comes with read:servers, so `read:users:activity` is not among them.
SCOPES = ("list:users", "read:servers", "delete:servers")


def role(*, name: str = NAME) -> dict[str, Any]:
    """The entry for `c.JupyterHub.load_roles` that gives the culler's token its scopes and nothing more."""
    return {"name": name, "services": [name], "scopes": list(SCOPES)}


def service(
    *,
    store_url: str,
    hub_id: str,
    interval_s: float = 60,
    stuck_after_s: float = 1800,
    default_after_s: float = 0,
    default_max_age_s: float = 0,
    concurrency: int = 10,
    dry_run: bool = False,
    name: str = NAME,
) -> dict[str, Any]:
    """The entry for `c.JupyterHub.services` that runs the culler; use it with `role`.

    The arguments are the traits of `labspawner.culler.app.Culler`; see their help. store_url may hold a password, so
    it travels in the environment: a command line is public on the machine, and the hub logs it.
    """
    command = [
        sys.executable,
        "-m",
        "labspawner.culler",
        f"--hub-id={hub_id}",
        f"--interval={interval_s}",
        f"--stuck-after={stuck_after_s}",
        f"--default-after={default_after_s}",
        f"--default-max-age={default_max_age_s}",
        f"--concurrency={concurrency}",
    ]
    if dry_run:
        command.append("--dry-run")
    return {"name": name, "command": command, "environment": {"LABSPAWNER_STORE_URL": store_url}}
