"""Does a server answer HTTP? One short request, no client library's pool in between."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from urllib.parse import unquote, urlsplit

from labspawner.deadlines import within


async def answers(url: str, *, timeout_s: float = 2.0) -> bool:
    """Whether a GET of `url` is answered with any HTTP status below 500 within `timeout_s`.

    Schemes: http, https (the certificate is not checked: JupyterHub makes its own), http+unix (the socket's path is
    the percent-encoded host). Never raises for the server's sake.
    """
    try:
        status = await within(timeout_s, _status(url))
    except (OSError, EOFError, ValueError, asyncio.TimeoutError):
        return False
    return 100 <= status < 500


async def _status(url: str) -> int:
    parts = urlsplit(url)
    if parts.scheme == "http+unix":
        reader, writer = await asyncio.open_unix_connection(unquote(parts.netloc.removesuffix(":80")))
        host = "localhost"
    else:
        tls = _unchecked_tls() if parts.scheme == "https" else None
        port = parts.port or (443 if tls else 80)
        reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=tls)
        host = parts.netloc
    try:
        request = (
            f"GET {parts.path or '/'} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: labspawner\r\nConnection: close\r\n\r\n"
        )
        writer.write(request.encode("ascii"))
        await writer.drain()
        line = await reader.readline()
        version, status = line.split(maxsplit=2)[:2]
        if not version.startswith(b"HTTP/"):
            raise ValueError("not HTTP")
        return int(status)
    finally:
        writer.close()
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            await writer.wait_closed()


def _unchecked_tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
