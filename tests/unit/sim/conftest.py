"""A simulated provider for each test, closed after it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from labspawner.model import Checkpoint, Event, LaunchRequest
from labspawner.providers.contract import ProviderContext
from labspawner.providers.sim import SimProvider

OpenSim = Callable[..., SimProvider]


@pytest.fixture
async def open_sim(tmp_path: Path) -> AsyncIterator[OpenSim]:
    """Makes providers on one world: `open_sim(hub_id="hub", **settings)`; fast unless told otherwise."""
    made: list[SimProvider] = []

    def open_one(hub_id: str = "hub", **settings: Any) -> SimProvider:
        context = ProviderContext(name="sim", hub_id=hub_id, data_dir=tmp_path)
        made.append(SimProvider(context, {"start_s": 0.0, **settings}))
        return made[-1]

    yield open_one
    for provider in made:
        await provider.close()


@pytest.fixture
def sim(open_sim: OpenSim) -> SimProvider:
    return open_sim()


async def launched(provider: SimProvider, request: LaunchRequest) -> list[Event]:
    """All events of a launch."""
    return [event async for event in provider.launch(request)]


def handle_in(events: list[Event]) -> Any:
    return [event.handle for event in events if isinstance(event, Checkpoint)][-1]
