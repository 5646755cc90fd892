"""The lines of an answer that does not end, as they come. Tornado's client leaves a stream that is given up unattended."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from urllib.parse import urlsplit

from labspawner.deadlines import within

_LONGEST_BYTES = 64 * 1024
_CONNECT_S = 10.0


class NotStreamed(OSError):
    """There is no stream at this address: what was answered is no 200."""


async def lines(
    url: str, *, headers: Mapping[str, str], tls: ssl.SSLContext | None = None, quiet_s: float = 60.0
) -> AsyncIterator[str]:
    """Each line of the answer at `url`, without its end, until the answer ends. Raises OSError, also where nothing comes for
    `quiet_s`: who streams sends a heartbeat."""
    parts = urlsplit(url)
    secure: ssl.SSLContext | bool | None = (tls or True) if parts.scheme == "https" else None
    port = parts.port or (443 if secure else 80)
    opened: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def opening() -> None:
        opened.append(await asyncio.open_connection(parts.hostname, port, ssl=secure, limit=_LONGEST_BYTES))

    try:
        try:
            await within(_CONNECT_S, opening())
        except asyncio.TimeoutError as exc:
            raise NotStreamed(f"no connection within {_CONNECT_S:g} s") from exc
        ((reader, writer),) = opened
        # HTTP/1.0, so that the answer comes as it is, and not in chunks.
        asked = [
            f"GET {parts.path or '/'} HTTP/1.0",
            f"Host: {parts.netloc}",
            *(f"{k}: {v}" for k, v in headers.items()),
        ]
        writer.write("\r\n".join([*asked, "", ""]).encode("ascii"))
        status = await _line(reader, quiet_s)
        if status is None or status.split(" ")[1:2] != ["200"]:
            raise NotStreamed(f"not 200 but {status!r}")
        while await _line(reader, quiet_s):
            pass  # headers
        while (line := await _line(reader, quiet_s)) is not None:
            yield line
    finally:
        for _, writer in opened:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _line(reader: asyncio.StreamReader, quiet_s: float) -> str | None:
    """The next line; None at the end."""
    try:
        line = await within(quiet_s, reader.readline())
    except asyncio.TimeoutError as exc:
        raise NotStreamed(f"nothing came for {quiet_s:g} s") from exc
    except ValueError as exc:
        raise NotStreamed("a line is too long") from exc
    return line.decode("utf-8", "replace").rstrip("\r\n") if line.endswith(b"\n") else None
