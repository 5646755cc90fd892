"""A hub that dies by `kill -9` at an exact point of a launch, and what it had stored until then.

`KilledAt` wraps any provider. `killed_at` is the same as a provider's entry point, for the configuration of a real hub.
`python -m labspawner.testing.killing SPEC` is the smallest hub there is: it launches one server, stores each checkpoint
as a hub would, and dies where it is told; `launch_and_die` runs it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from labspawner.model import (
    Checkpoint,
    Event,
    Handle,
    Json,
    LaunchRequest,
    Ready,
)
from labspawner.providers.contract import Provider, ProviderContext
from labspawner.testing.forwarding import Forwarding
from labspawner.testing.requests import handle_from_json, handle_to_json, request_from_json, request_to_json


class KilledAt(Forwarding):
    """A provider whose process dies by SIGKILL at a chosen event of a launch; in all else it is `inner`.

    event_index: counts the Checkpoints of a launch from 0; one more than the last is Ready.
    before: die instead of yielding the event; otherwise when the generator is resumed, so when the event was stored.
    once: a file that is made just before dying; while it exists nobody dies, so that a restarted hub lives.
    """

    def __init__(self, inner: Provider, event_index: int, before: bool, once: Path | None = None) -> None:
        super().__init__(inner)
        self._event_index, self._before, self._once = event_index, before, once

    async def launch(self, request: LaunchRequest) -> AsyncIterator[Event]:
        index = 0
        events: Any = self.inner.launch(request)
        async with aclosing(events):
            async for event in events:
                counted = isinstance(event, (Checkpoint, Ready))
                if counted and index == self._event_index and self._before:
                    self._die()
                try:
                    yield event
                finally:  # it was taken, whether the hub asks for more or closes the launch
                    if counted and index == self._event_index:
                        self._die()
                index += counted

    def _die(self) -> None:
        if self._once is not None:
            if self._once.exists():
                return
            self._once.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def killed_at(context: ProviderContext, settings: Mapping[str, Any]) -> KilledAt:
    """The entry point `labspawner.testing.killing:killed_at`, for a hub's configuration.

    settings: `entry_point` (`module:name` of the provider inside), `event_index`, `before`, and, where wanted, `once`
    (a path) and `settings` (the inner provider's).
    """
    inner: Provider = resolve_name(settings["entry_point"])(context, settings.get("settings", {}))
    once = Path(settings["once"]) if settings.get("once") else None
    return KilledAt(inner, int(settings["event_index"]), bool(settings["before"]), once)


@dataclass(frozen=True, slots=True, kw_only=True)
class Doomed:
    """What a killed hub left: the handles it had stored, the URL if it was ready, and how its process ended."""

    handles: tuple[Handle, ...]
    url: str | None
    returncode: int
    stderr: str


async def launch_and_die(
    *,
    entry_point: str,
    context: ProviderContext,
    settings: Mapping[str, Json],
    request: LaunchRequest,
    event_index: int,
    before: bool,
    folder: Path,
    timeout_s: float = 300.0,
) -> Doomed:
    """Launch `request` in a process of its own that dies as `KilledAt` says, and tell what it had stored in `folder`.

    A process that is not killed (because the launch ended earlier) ends with return code 0 after closing its provider.
    """
    journal, spec = folder / "journal", folder / "spec.json"
    journal.unlink(missing_ok=True)
    kill = {"entry_point": entry_point, "settings": dict(settings), "event_index": event_index, "before": before}
    where = {"name": context.name, "hub_id": context.hub_id, "data_dir": str(context.data_dir)}
    spec.write_text(
        json.dumps({"kill": kill, "context": where, "request": request_to_json(request), "journal": str(journal)})
    )
    command = [sys.executable, "-m", "labspawner.testing.killing", str(spec)]
    with (folder / "stderr").open("w+") as stderr:
        done = await asyncio.to_thread(
            subprocess.run,
            command,
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
            timeout=timeout_s,
            check=False,
        )
    lines = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    return Doomed(
        handles=tuple(handle_from_json(line["handle"]) for line in lines if "handle" in line),
        url=next((line["url"] for line in lines if "url" in line), None),
        returncode=done.returncode,
        stderr=(folder / "stderr").read_text(),
    )


async def _be_a_hub(spec: Mapping[str, Any]) -> None:
    """Launch one server, storing each checkpoint before going on."""
    where = spec["context"]
    context = ProviderContext(name=where["name"], hub_id=where["hub_id"], data_dir=Path(where["data_dir"]))
    provider = killed_at(context, spec["kill"])
    try:
        events: Any = provider.launch(request_from_json(spec["request"]))
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Checkpoint):
                    _store(Path(spec["journal"]), {"handle": handle_to_json(event.handle)})
                elif isinstance(event, Ready):
                    _store(Path(spec["journal"]), {"url": event.url})
    finally:
        await provider.close()


def _store(journal: Path, entry: Mapping[str, Json]) -> None:
    with journal.open("a") as file:
        file.write(json.dumps(entry) + "\n")
        file.flush()
        os.fsync(file.fileno())


if __name__ == "__main__":
    asyncio.run(_be_a_hub(json.loads(Path(sys.argv[1]).read_text())))
