"""Which proxy runs in front of the hub, and what it can do."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

PROXY = "configurable-http-proxy"
_FIRST_WITH_SOCKETS = 5  # of npm's; the pure-Python one has none
_FIRST_HUB_WITH_SOCKETS = 6


def proxy_command() -> list[str]:
    """The proxy to run: npm's `configurable-http-proxy` where it is on PATH, else the pure-Python one beside us.

    npm's has metrics and is what JupyterHub's own tests use; PyPI's needs no Node.js.
    """
    for folder in os.get_exec_path():
        candidate = Path(folder) / PROXY
        if os.access(candidate, os.X_OK) and _is_node(candidate):
            return [str(candidate)]
    ours = Path(sys.executable).parent / PROXY
    return [str(ours) if ours.exists() else shutil.which(PROXY) or PROXY]


def reach_sockets(command: Sequence[str], *, hub_version: str | None = None) -> bool:
    """Whether this hub, and the proxy that `command` runs, can reach a server at a unix socket.

    False where it cannot be told, for example for a wrapper script. hub_version: JupyterHub's; default: the installed.
    """
    major = (hub_version or metadata.version("jupyterhub")).partition(".")[0]
    if not major.isdecimal() or int(major) < _FIRST_HUB_WITH_SOCKETS:
        return False
    version = _npm_version(command)
    return version is not None and version >= _FIRST_WITH_SOCKETS


def _npm_version(command: Sequence[str]) -> int | None:
    """The major version of npm's proxy; its script is in its package, wherever the link to it is."""
    script = shutil.which(command[0]) if command else None
    if script is None or not _is_node(Path(script)):
        return None
    manifest = Path(script).resolve().parent.parent / "package.json"
    try:
        package = json.loads(manifest.read_text(encoding="utf-8"))
        return int(str(package["version"]).partition(".")[0]) if package["name"] == PROXY else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _is_node(script: Path) -> bool:
    try:
        with script.open("rb") as file:
            return b"node" in file.readline(200)
    except OSError:
        return False
