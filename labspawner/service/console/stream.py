"""The lines of an answer that does not end, as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest

_LONGEST_BYTES = 64 * 1024
_MOST_WAITING = 256


async def lines(url: str, *, headers: Mapping[str, str], ssl_options: Any = None) -> AsyncIterator[str]:
    """Each line of the answer at `url`, without its end. Ends when the answer ends, or when its reader falls far behind.
    Raises HTTPClientError and OSError."""
    found: asyncio.Queue[bytes | None] = asyncio.Queue(_MOST_WAITING)
    client = AsyncHTTPClient(force_instance=True, max_clients=1)
    loop = asyncio.get_running_loop()

    def take(chunk: bytes) -> None:
        try:
            found.put_nowait(chunk)
        except asyncio.QueueFull:
            client.close()

    request = HTTPRequest(
        url,
        headers=dict(headers),
        streaming_callback=take,
        request_timeout=0,
        connect_timeout=10.0,
        follow_redirects=False,
        ssl_options=ssl_options,
    )

    async def fetch() -> None:
        try:
            response = await client.fetch(request, raise_error=False)
            if response.code >= 300:
                raise HTTPClientError(response.code)
        finally:
            await found.put(None)

    fetching = loop.create_task(fetch())
    rest = b""
    try:
        while (chunk := await found.get()) is not None:
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                yield line.rstrip(b"\r").decode("utf-8", "replace")
            if len(rest) > _LONGEST_BYTES:
                return
        await fetching
    finally:
        client.close()
        fetching.cancel()
        await asyncio.gather(fetching, return_exceptions=True)
