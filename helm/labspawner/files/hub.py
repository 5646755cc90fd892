"""What the chart's values say, as configuration of the hub. `jupyterhub.hub.extraConfig` runs it in the hub's pod.

settings.json beside this file is the chart's: traits of `c.Labspawner`, and what to run beside the hub.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labspawner import wiring
from labspawner.config import Labspawner

ETC = Path(__file__).parent.parent  # /etc/labspawner in the pod
LOOK_S = 5.0
SHORTEST_TOKEN = 32
_TASKS: list[asyncio.Task[None]] = []

log = logging.getLogger("labspawner.chart")


def configure(c: Any, etc: Path = ETC) -> None:
    """Plug labspawner into `c`. Raises SystemExit with what to change in the chart's values or its Secret."""
    given = json.loads((etc / "settings" / "settings.json").read_text(encoding="utf-8"))
    secrets = etc / "secrets"
    traits = given["Labspawner"]
    if unknown := sorted(set(traits) - set(Labspawner.class_trait_names(config=True))):
        known = ", ".join(sorted(Labspawner.class_trait_names(config=True)))
        raise SystemExit(f"values: settings: there is no {', '.join(unknown)}. There are: {known}")
    for name, value in traits.items():
        setattr(c.Labspawner, name, value)
    if given["database_in_secret"]:
        c.Labspawner.database_url = _secret(secrets, "database-url", why="database.external is true")
    if given["metrics"]:
        _serve_metrics(c, _secret(secrets, "metrics-token", why="monitoring.enabled is true"))
    if given["culler"]["enabled"]:
        wiring.run_culler(c, dry_run=given["culler"]["dry_run"])
    if (console := given["console"])["enabled"]:
        wiring.run_console(c, url=console["url"], listen=console["listen"], create_users=console["create_users"])
    wiring.wire(c)
    _restart_on_change(etc)


def _secret(folder: Path, key: str, *, why: str) -> str:
    try:
        value = (folder / key).read_text(encoding="utf-8").strip()
    except OSError:
        value = ""
    if not value:
        raise SystemExit(f"The Secret of the value existingSecret has no key {key}, and {why}. Add the key.")
    return value


def _serve_metrics(c: Any, token: str) -> None:
    """A service without a process: a token that may read /hub/metrics, and nothing else."""
    if len(token) < SHORTEST_TOKEN:
        raise SystemExit(
            f"metrics-token is shorter than {SHORTEST_TOKEN} characters. `openssl rand -hex 32` makes one."
        )
    name = "labspawner-metrics"
    c.JupyterHub.services = [*_given(c.JupyterHub, "services"), {"name": name, "api_token": token}]
    role = {"name": name, "scopes": ["read:metrics"], "services": [name]}
    c.JupyterHub.load_roles = [*_given(c.JupyterHub, "load_roles"), role]


def _given(section: Any, key: str) -> list[Any]:
    return section[key] if key in section else []  # noqa: SIM401 - traitlets' get() invents a value


def _restart_on_change(etc: Path) -> None:
    """End the hub when the kubelet brings new settings or secrets, and be started again with them. Servers go on."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return  # the configuration is only being read
    _TASKS.append(loop.create_task(watch(etc, digest(etc))))


def end_the_hub() -> None:
    """As `kubectl delete pod` would; the kubelet starts the container again."""
    os.kill(os.getpid(), signal.SIGTERM)


async def watch(etc: Path, before: str, *, every_s: float = LOOK_S, end: Callable[[], None] = end_the_hub) -> None:
    """Call `end` once when the files are no longer those of `before`. What cannot be read is looked at again."""
    while await asyncio.to_thread(digest, etc) in ("", before):  # noqa: ASYNC110 - a file
        await asyncio.sleep(every_s)
    log.warning("the chart's settings or secrets changed; the hub ends, and is started again with them")
    end()


def digest(etc: Path) -> str:
    """Of all that is read at the start: settings, this program, secrets. Empty while they cannot be read."""
    found = hashlib.sha256()
    try:
        for file in [etc / "settings" / "settings.json", etc / "settings" / "hub.py", *_files(etc / "secrets")]:
            content = file.read_bytes()
            found.update(f"{file.name} {len(content)} ".encode() + content)
    except OSError:
        return ""
    return found.hexdigest()


def _files(folder: Path) -> list[Path]:
    """What a mounted Secret has, which may be missing; the kubelet's own links begin with dots."""
    return sorted(each for each in folder.glob("*") if each.is_file() and not each.name.startswith("."))
