"""A pytest plugin for KubeSpawner's own suite: our child class takes the place of KubeSpawner.

It must run before the suite imports the class: `pytest -p ksut_plugin` with this folder on PYTHONPATH.
"""

from __future__ import annotations

import asyncio
from typing import Any

import kubespawner
import kubespawner.spawner
from jupyterhub.app import JupyterHub

from labspawner.providers.kubernetes.child import ChildSpawner


class AsBuilt(ChildSpawner):
    """Made as the provider makes it: with a session given, so without looking for a cluster."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"api": object(), **kwargs})


kubespawner.KubeSpawner = kubespawner.spawner.KubeSpawner = AsBuilt

_init_internal_ssl = JupyterHub.init_internal_ssl


def _in_a_loop(app: JupyterHub) -> None:
    """JupyterHub 6 wants a running loop here; the suite's fixture `ssl_app` has none."""

    async def init() -> None:
        _init_internal_ssl(app)

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(init())
    finally:
        loop.close()


JupyterHub.init_internal_ssl = _in_a_loop
