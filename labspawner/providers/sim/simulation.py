"""What stands between the provider and its world: one worker thread, the knobs, the listener."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import metadata
from typing import TypeVar

from labspawner.errors import ProviderUnavailable
from labspawner.model import Json, LeaseId
from labspawner.providers.contract import ProviderContext
from labspawner.providers.sim.faults import Faults
from labspawner.providers.sim.listener import Listener
from labspawner.providers.sim.settings import Knobs, SimSettings
from labspawner.providers.sim.world import Row, World
from labspawner.sentences import Sentence

log = logging.getLogger(__name__)
T = TypeVar("T")
WORLD_FILE = "sim-world.sqlite"


class Simulation:
    """One object's access to the world of its `data_dir`; opened at first use, given back by `close`.

    seen: when each server was last asked for a page, seconds since the epoch; of this process only.
    """

    def __init__(self, context: ProviderContext, settings: SimSettings) -> None:
        self._name, self._hub, self._path = context.name, context.hub_id, context.data_dir / WORLD_FILE
        self._settings = settings
        self._faults = Faults(context.data_dir, settings)
        self._world: World | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"sim-{context.name}")
        self._closed = False
        self._listener: Listener | None = None
        self._url: str | None = None
        self._opening = asyncio.Lock()
        self.seen: dict[LeaseId, float] = {}

    async def close(self) -> None:
        """Stop listening and end the thread. Safe to repeat."""
        if self._closed:
            return
        self._closed = True
        if self._listener is not None:
            await self._listener.close()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close_world)
        self._thread.shutdown(wait=False)

    def _close_world(self) -> None:
        if self._world is not None:
            self._world.close()

    async def run(self, step: Callable[[World], T]) -> T:
        """Run `step` in the worker thread; steps run one after another, in the order of the calls."""
        if self._closed:
            raise self.silent("closed")

        def job() -> T:
            if self._world is None:
                self._world = World(self._path, self._settings.hosts)
            return step(self._world)

        return await asyncio.get_running_loop().run_in_executor(self._thread, job)

    def knobs(self, own: Mapping[str, Json] | None = None, *, listing: bool = False, anyway: bool = False) -> Knobs:
        """The knobs now, with a launch's own. Raises ProviderUnavailable when they say so, unless `anyway`.

        listing: asked for a listing, which has a knob of its own. Reads a file: for the worker thread.
        """
        knobs = self._faults.knobs(own)
        if not anyway and (knobs.unavailable or (listing and knobs.listing_fails)):
            raise self.silent("listing" if listing else "host")
        return knobs

    def silent(self, what: str) -> ProviderUnavailable:
        """The error that says the simulated hosts do not answer."""
        return ProviderUnavailable(
            Sentence("The simulated machines do not answer. Try again in a few minutes."),
            detail=f"provider={self._name} does not answer: {what}",
        )

    async def listen(self) -> str:
        """The URL where servers of this hub answer, from now on."""
        async with self._opening:
            if self._url is None:
                listener = Listener(self._find, self._settings.version or metadata.version("jupyterhub"))
                kept = await self.run(lambda world: world.port(self._hub))
                try:
                    port = listener.open(kept or 0)
                except OSError as error:
                    log.warning(
                        "port taken, servers there are lost provider=%s port=%s error=%s", self._name, kept, error
                    )
                    await self.run(lambda world: world.kill_all(self._hub, time.time()))
                    port = listener.open()
                self._listener = listener
                await self.run(lambda world: world.keep_port(self._hub, port))
                self._url = f"http://127.0.0.1:{port}"
            return self._url

    async def _find(self, base_urls: Sequence[str]) -> Row | None:
        """The running server with the longest of `base_urls`."""
        now = time.time()
        try:
            rows = await self.run(partial(World.at, hub_id=self._hub, base_urls=base_urls))
        except ProviderUnavailable:
            return None
        serving = [row for row in rows if row.serves(now)]
        found = max(serving, key=lambda row: len(row.base_url), default=None)
        if found is not None and base_urls[0] != found.base_url + "api/":  # the hub's question, no sign of life
            self.seen[found.lease_id] = now
        return found
