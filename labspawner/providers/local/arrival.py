"""The wait for a server that was started: until it answers, or is known never to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from labspawner.model import LeaseId
from labspawner.providers import probe
from labspawner.providers.local import explain
from labspawner.providers.local.starting import Job, Place
from labspawner.providers.local.warm import Started
from labspawner.providers.processes import HostProcesses, listens_on

_FIRST_LOOK_S, _LOOK_EVERY_S = 0.01, 0.1  # its death is noticed within two looks


class Arrival:
    """Looks at starting servers. tail: the last lines of a lease's log, without secrets."""

    def __init__(self, host: HostProcesses, hub_id: str, tail: Callable[[LeaseId], Awaitable[str]]) -> None:
        self._host, self._hub_id, self._tail = host, hub_id, tail

    async def until_ready(self, job: Job, started: Started, place: Place) -> None:
        """Return when it answers. Raises StartFailed where it died, or did not in time. A `started` one need only live."""
        lease_id, pause_s = job.request.lease_id, _FIRST_LOOK_S
        while True:
            exit_code = started.exit_status()
            if exit_code is None and job.variant.ready == "started":
                return
            if exit_code is not None:
                raise explain.died(exit_code, await self._tail(lease_id))
            if job.left_s() <= 0:
                raise explain.silent(job.request.ready_timeout_s, await self._tail(lease_id))
            if await self._answers(job, place):
                return
            await asyncio.sleep(pause_s)
            pause_s = min(_LOOK_EVERY_S, pause_s * 1.3)

    async def _answers(self, job: Job, place: Place) -> bool:
        """Whether the server answers, and not a stranger in its place."""
        lease_id, address = job.request.lease_id, place.address
        if not await probe.answers(address.url + job.request.base_url + "api", timeout_s=min(2.0, job.left_s())):
            return False
        if place.found.sandboxed or address.port is None:  # its keeper is who answers
            return True
        ours = (await self._host.listing()).of_lease(lease_id, self._hub_id)
        return await self._host.in_thread(listens_on, ours, address.port) is not False
