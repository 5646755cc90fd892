"""What a start says reaches its reader, and a reader that was told to stop reads no more."""

from __future__ import annotations

import asyncio

import pytest

from labspawner.model import Event, Progress
from labspawner.providers.proxmox.line import Line
from labspawner.sentences import Sentence

STAGE = Sentence("The VM starts")


@pytest.mark.parametrize("turns", range(8))  # of the loop between the two: in one of them the event is just there
async def test_a_reader_that_is_told_to_stop_just_as_something_is_said_stops(turns: int) -> None:
    line, heard = Line(), list[Event]()
    loop = asyncio.get_running_loop()
    worker: asyncio.Future[None] = loop.create_future()

    async def read() -> None:
        async for event in line.until(worker, loop.time() + 600):
            heard.append(event)

    reading = asyncio.ensure_future(read())
    for _ in range(5):
        await asyncio.sleep(0)

    line.mention(10, STAGE)
    for _ in range(turns):
        await asyncio.sleep(0)
    reading.cancel()

    await asyncio.wait({reading}, timeout=60)
    assert reading.cancelled()
    assert heard in ([], [Progress(10, STAGE)])


async def test_a_start_that_is_not_done_in_time_is_told_from_one_that_is() -> None:
    loop = asyncio.get_running_loop()
    worker: asyncio.Future[None] = loop.create_future()

    with pytest.raises(asyncio.TimeoutError):
        assert [event async for event in Line().until(worker, loop.time())] == []
    worker.set_result(None)

    assert [event async for event in Line().until(worker, loop.time())] == []
