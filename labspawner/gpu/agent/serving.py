"""An agent as a whole process: its metrics, and its end by a signal."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from logging import getLogger

from prometheus_client import CollectorRegistry, start_http_server

from labspawner.gpu.agent.agent import Agent
from labspawner.gpu.agent.node import NodeDoor
from labspawner.gpu.agent.settings import AgentSettings, BadSettings
from labspawner.gpu.libvgpu import find_library

log = getLogger(__name__)


def serve(settings: AgentSettings, pool: str, door: NodeDoor | None) -> None:
    """Work until SIGTERM or SIGINT. Raises BadSettings and SetupError for what an administrator has to change."""
    made = Agent(settings, pool, libvgpu=find_library().path, door=door)
    with _metrics(settings.metrics, made.metrics.registry):
        asyncio.run(_until_told(made))


async def _until_told(made: Agent) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await made.run(stop)


@contextlib.contextmanager
def _metrics(address: str, registry: CollectorRegistry) -> Iterator[None]:
    """Serve the metrics meanwhile; an empty address: none. Raises BadSettings where the address is taken."""
    if not address:
        yield
        return
    host, _, port = address.rpartition(":")
    try:
        server, thread = start_http_server(int(port), host.strip("[]"), registry)
    except OSError as exc:
        raise BadSettings(f"metrics cannot be served at {address}: {exc.strerror or exc}") from exc
    log.info("metrics are served at %s:%d", host, server.server_port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
