"""One start, poll and stop of an unmodified KubeSpawner; prints what it saw as JSON.

A program, since KubeSpawner keeps its cluster and its reflectors for the whole process. Argument: namespace and image.
"""

from __future__ import annotations

import asyncio
import json
import sys
from types import SimpleNamespace
from typing import Any

from jupyterhub.objects import Hub
from kubespawner import KubeSpawner
from traitlets.config import Config


def _spawner(namespace: str, image: str) -> Any:
    settings = {
        "namespace": namespace,
        "image": image,
        "cmd": ["sleep", "3600"],
        "storage_pvc_ensure": True,
        "storage_capacity": "1Gi",
        "pvc_name_template": "claim-{username}",
        "volumes": [{"name": "home", "persistentVolumeClaim": {"claimName": "claim-{username}"}}],
        "volume_mounts": [{"name": "home", "mountPath": "/home/jovyan"}],
        "k8s_api_request_timeout": 120,  # a machine under load
        "k8s_api_request_retry_timeout": 600,
        "start_timeout": 600,
    }
    db = SimpleNamespace(commit=lambda: None)
    user = SimpleNamespace(name="ada", escaped_name="ada", id=1, url="/user/ada/", groups=[], server=None, spawners={})
    user.settings, user.db, user.admin, user.orm_user = {}, db, False, None
    hub = Hub(connect_url="http://127.0.0.1:8081/hub/")
    config = Config({"KubeSpawner": settings})
    return KubeSpawner(hub=hub, user=user, config=config, _mock=True, api_token="t", oauth_client_id="c")


async def main() -> None:
    spawner = _spawner(*sys.argv[1:])
    url = await spawner.start()
    alive, reasons = await spawner.poll(), [event["reason"] for event in spawner.events]
    await spawner.stop()
    print(json.dumps({"url": url, "alive": alive, "reasons": reasons, "dead": await spawner.poll()}), flush=True)
    await spawner.delete_forever()


if __name__ == "__main__":
    asyncio.run(main())
