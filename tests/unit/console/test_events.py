"""That something changed reaches the pages: from one stream of the hub, over its restarts, to whoever still reads."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager

import pytest
from jupyterhub.services.auth import HubOAuth

from labspawner.service.console.events import Events
from labspawner.service.console.hub import Hub
from labspawner.service.console.stream import NotStreamed, lines
from labspawner.testing.waiting import eventually


class Stream:
    """An address that streams what a test says. status: of its answers. streams: connections that are open."""

    def __init__(self) -> None:
        self.status = "200 OK"
        self.asked: list[str] = []
        self.streams: list[asyncio.StreamWriter] = []
        self.port = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head.decode())
        writer.write(f"HTTP/1.0 {self.status}\r\nContent-Type: text/event-stream\r\n\r\n".encode())
        self.streams.append(writer)
        try:
            await reader.read()  # until they hang up
        finally:
            self.streams.remove(writer)
            writer.close()

    def say(self, text: str) -> None:
        for writer in self.streams:
            writer.write(text.encode())

    def hang_up(self) -> None:
        for writer in self.streams:
            writer.close()


@asynccontextmanager
async def a_stream():
    stream = Stream()
    server = await asyncio.start_server(stream.answer, "127.0.0.1", 0)
    stream.port = server.sockets[0].getsockname()[1]
    try:
        yield stream
    finally:
        stream.hang_up()
        server.close()
        await eventually(lambda: not stream.streams, 10)


@asynccontextmanager
async def listening(stream: Stream):
    auth = HubOAuth(
        api_url=f"http://127.0.0.1:{stream.port}/hub/api",
        api_token="token-of-the-console",
        oauth_client_id="service-labspawner",
        base_url="/services/labspawner/",
        hub_prefix="/hub/",
        access_scopes={"x"},
    )
    hub = Hub(auth)
    events = Events(hub, wait_s=lambda: 0.0)
    events.open()
    try:
        yield events
    finally:
        await events.close()
        await hub.close()


def changed(state: int) -> str:
    return f'id: 1\nevent: changed\ndata: {{"state": {state}, "availability": 1, "courses": 1}}\n\n'


async def test_what_the_hub_says_reaches_a_page_that_watches():
    async with a_stream() as stream, listening(stream) as events:
        watching = events.watch("dl", heartbeat_s=60)
        assert await anext(watching) == {"state": 0, "availability": 0, "courses": 0, "jobs": 0}
        await eventually(lambda: stream.streams, 10)

        stream.say(": heartbeat\n\n" + changed(7))
        assert (await asyncio.wait_for(anext(watching), 60))["state"] == 1
        stream.say(changed(7) + changed(8))
        assert (await asyncio.wait_for(anext(watching), 60))["state"] == 2

        assert "Authorization: token token-of-the-console" in stream.asked[0]
        await watching.aclose()


async def test_a_hub_that_starts_again_is_listened_to_again_and_pages_are_told():
    async with a_stream() as stream, listening(stream) as events:
        await eventually(lambda: stream.streams, 10)
        stream.say(changed(7))
        await eventually(lambda: events.versions("dl")["state"] == 1, 10)

        stream.hang_up()
        await eventually(lambda: len(stream.asked) >= 2 and stream.streams, 30)
        stream.say(changed(1))  # its versions begin anew

        await eventually(lambda: events.versions("dl")["state"] == 2, 10)


async def test_a_hub_that_refuses_is_asked_again_later():
    async with a_stream() as stream:
        stream.status = "403 Forbidden"
        async with listening(stream) as events:
            await eventually(lambda: len(stream.asked) >= 2, 30)
            assert events.versions("dl")["state"] == 0


async def test_a_page_hears_of_its_own_courses_jobs_alone():
    async with a_stream() as stream, listening(stream) as events:
        events.job_changed("dl")
        events.job_changed("other")
        events.job_changed("other")

        assert (events.versions("dl")["jobs"], events.versions("other")["jobs"]) == (1, 2)


async def test_where_nothing_happens_a_page_hears_that_somebody_is_still_there():
    async with a_stream() as stream, listening(stream) as events:
        watching = events.watch("dl", heartbeat_s=0.02)
        await anext(watching)

        assert await asyncio.wait_for(anext(watching), 60) is None
        await watching.aclose()


async def test_when_the_console_ends_so_do_the_pages_streams():
    async with a_stream() as stream, listening(stream) as events:
        watching = events.watch("dl", heartbeat_s=60)
        await anext(watching)
        following = asyncio.ensure_future(anext(watching, "over"))
        await asyncio.sleep(0)

        await events.close()

        assert await asyncio.wait_for(following, 60) == "over"


async def test_a_stream_that_goes_silent_or_never_ends_a_line_is_given_up():
    async with a_stream() as stream:
        url = f"http://127.0.0.1:{stream.port}/x"
        with pytest.raises(NotStreamed, match="nothing came"):
            async for _ in lines(url, headers={}, quiet_s=0.05):
                pass

        await eventually(lambda: not stream.streams, 10)

        async def reads() -> None:
            async for _ in lines(url, headers={}, quiet_s=60):
                pass

        reading = asyncio.ensure_future(reads())
        await eventually(lambda: stream.streams, 10)
        stream.say("x" * 200_000)
        with pytest.raises(NotStreamed, match="too long"):
            await asyncio.wait_for(reading, 60)


async def test_who_is_told_to_stop_just_as_a_line_comes_stops():
    async with a_stream() as stream:
        heard = []

        async def reads() -> None:
            async for line in lines(f"http://127.0.0.1:{stream.port}/x", headers={}):
                heard.append(line)

        for turns in range(16):  # of the loop between the line and the word: in one of them the line is just read
            reading = asyncio.ensure_future(reads())
            await eventually(lambda: stream.streams, 10)
            stream.say(f"before {turns}\n")
            await eventually(lambda said=f"before {turns}": said in heard, 10)

            stream.say("now\n")
            for _ in range(turns):
                await asyncio.sleep(0)
            reading.cancel()

            await asyncio.wait({reading}, timeout=60)
            assert reading.cancelled()
            await eventually(lambda: not stream.streams, 10)


async def test_nobody_at_the_address_is_an_error_that_is_waited_out():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens there
        unheard = lines(f"http://127.0.0.1:{taken.getsockname()[1]}/x", headers={})

        with pytest.raises(OSError, match=r"[Cc]onnect"):
            await anext(unheard)
