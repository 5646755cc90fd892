"""The websocket to the host: trusted before a secret is sent, with deadlines, and no larger than one frame in memory."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import ssl
from typing import Any

from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import WebSocketClientConnection, WebSocketError, websocket_connect

from labspawner.deadlines import within
from labspawner.errors import ProviderUnavailable
from labspawner.providers.contract import ConsoleTicket
from labspawner.sentences import Sentence

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
PING_S = 30.0
CONNECT_S = 8.0
"""Below the 10 s for which Proxmox VE waits for somebody to come."""

NO_ANSWER = Sentence("The host of this machine does not answer. It is tried again.")
NOT_TRUSTED = Sentence(
    "The host of this machine shows another certificate than the one that is configured. Tell your administrator."
)


async def connect(ticket: ConsoleTicket, *, within_s: float = CONNECT_S) -> WebSocketClientConnection:
    """Open the console. Raises ProviderUnavailable, and then nothing is left open."""
    try:
        request = HTTPRequest(
            ticket.url,
            headers=dict(ticket.headers),
            connect_timeout=within_s,
            request_timeout=within_s,
            follow_redirects=False,
            ssl_options=trust(ticket) if ticket.url.startswith("wss:") else None,
        )
        return await within(within_s, _open(request, ticket))
    except ssl.SSLError as exc:
        raise _untrusted(exc) from exc
    except (OSError, HTTPClientError, WebSocketError, asyncio.TimeoutError) as exc:
        cause = getattr(exc, "real_error", None)
        if isinstance(cause, ssl.SSLError):
            raise _untrusted(cause) from exc
        # Never the request: its address and headers are secrets.
        raise ProviderUnavailable(NO_ANSWER, detail=f"console not opened: {type(exc).__name__}: {exc}") from exc


def _untrusted(cause: ssl.SSLError) -> ProviderUnavailable:
    return ProviderUnavailable(NOT_TRUSTED, detail=f"console not opened: {cause}")


async def _open(request: HTTPRequest, ticket: ConsoleTicket) -> WebSocketClientConnection:
    opening = asyncio.ensure_future(
        websocket_connect(
            request,
            subprotocols=[ticket.subprotocol] if ticket.subprotocol else None,
            max_message_size=MAX_MESSAGE_BYTES,
            ping_interval=PING_S,
        )
    )
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close_late)
        raise


def _close_late(opening: asyncio.Future[WebSocketClientConnection]) -> None:
    """A connection that opens after nobody waits for it any more."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def trust(ticket: ConsoleTicket) -> ssl.SSLContext:
    """What the host's certificate must be. With a fingerprint, that one and no other, checked before anything is sent."""
    if not ticket.fingerprint:
        return ssl.create_default_context(cafile=str(ticket.ca_file) if ticket.ca_file else None)
    wanted = ticket.fingerprint.replace(":", "").lower()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    class Pinned(ssl.SSLSocket):
        def do_handshake(self, *args: Any, **options: Any) -> None:
            super().do_handshake(*args, **options)
            shown = hashlib.sha256(self.getpeercert(binary_form=True) or b"").hexdigest()
            if not hmac.compare_digest(shown, wanted):
                # tornado looks at the number: any other one would be a bug to it, and no refusal.
                raise ssl.SSLCertVerificationError(
                    ssl.SSL_ERROR_SSL, f"certificate {shown} instead of the pinned {wanted}"
                )

    context.sslsocket_class = Pinned
    return context
