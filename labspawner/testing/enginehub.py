"""A hub without JupyterHub: the engine, its store and one provider, in a process that can be told when to die.

`python -m labspawner.testing.enginehub SPEC` launches one server through the engine and is killed by SIGKILL as
`KilledAt` says, or after the launch; `launch_with_engine_and_die` runs it. `open_engine` is the hub that comes after.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labspawner.lifecycle import Engine, EngineSettings, Order, Variant
from labspawner.model import Json, LaunchRequest
from labspawner.providers.contract import Provider, ProviderContext
from labspawner.store import Store
from labspawner.testing.killing import killed_at
from labspawner.testing.requests import request_from_json, request_to_json


def open_engine(provider: Provider, *, hub_id: str, store: Path) -> Engine:
    """An engine over the SQLite file `store` and `provider`, which reconciles often; not started yet."""
    settings = EngineSettings(hub_id=hub_id, observe_interval_s=0.2, reconcile_interval_s=0.2, release_grace_s=2.0)
    return Engine(store=Store.open(f"sqlite:///{store}"), providers={provider.name: provider}, settings=settings)


def order_for(request: LaunchRequest, provider: str) -> Order:
    """What a student would have ordered to get `request`; the lease id is the engine's to choose."""
    variant = Variant(
        provider=provider,
        resources=request.resources,
        settings=request.settings,
        ready_timeout_s=request.ready_timeout_s,
    )
    return Order(
        user=request.user,
        server_name=request.server_name,
        profile=request.profile,
        variants=(variant,),
        base_url=request.base_url,
        command=request.command,
        environment=request.environment,
    )


async def launch_with_engine_and_die(
    *,
    entry_point: str,
    context: ProviderContext,
    settings: Mapping[str, Json],
    request: LaunchRequest,
    event_index: int,
    before: bool,
    folder: Path,
    store: Path,
    timeout_s: float = 300.0,
) -> tuple[int, str]:
    """Launch in a process of its own that dies at that event, or else after the launch; its return code and stderr."""
    kill = {"entry_point": entry_point, "settings": dict(settings), "event_index": event_index, "before": before}
    where = {"name": context.name, "hub_id": context.hub_id, "data_dir": str(context.data_dir)}
    spec = folder / "engine.json"
    spec.write_text(
        json.dumps({"kill": kill, "context": where, "request": request_to_json(request), "store": str(store)})
    )
    command = [sys.executable, "-m", "labspawner.testing.enginehub", str(spec)]
    with (folder / "engine.stderr").open("w+") as stderr:
        done = await asyncio.to_thread(
            subprocess.run,
            command,
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
            timeout=timeout_s,
            check=False,
        )
    return done.returncode, (folder / "engine.stderr").read_text()


async def _be_a_hub(spec: Mapping[str, Any]) -> None:
    """Launch, and die at the latest when that is done."""
    where = spec["context"]
    context = ProviderContext(name=where["name"], hub_id=where["hub_id"], data_dir=Path(where["data_dir"]))
    provider = killed_at(context, spec["kill"])
    engine = open_engine(provider, hub_id=context.hub_id, store=Path(spec["store"]))
    try:
        await engine.launch(order_for(request_from_json(spec["request"]), provider.name), lambda progress: None)
        os.kill(os.getpid(), signal.SIGKILL)
    finally:
        await engine.close()


if __name__ == "__main__":
    asyncio.run(_be_a_hub(json.loads(Path(sys.argv[1]).read_text())))
