"""Puts the extension into a running Jupyter server."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp


def load(server: ServerApp) -> None:
    """Watch, report, and answer the lab; nothing at all where no labspawner hub started this server."""
    if not (os.environ.get("LABSPAWNER_LEASE_ID") and os.environ.get("JUPYTERHUB_API_TOKEN")):
        server.log.debug("labspawner: not started by a labspawner hub, nothing to do")
        return
