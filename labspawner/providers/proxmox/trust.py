"""Which certificate an endpoint may show. It is looked at in the handshake of the very connection that is then used, before
a byte of a request is sent on it."""

from __future__ import annotations

import hashlib
import hmac
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any


class WrongPin(ssl.SSLCertVerificationError):
    """The certificate is not the one that was pinned. Both are SHA-256 fingerprints."""

    def __init__(self, expected: str, shown: str) -> None:
        super().__init__(f"pinned {spelled(expected)}, shown {spelled(shown)}")
        self.expected = expected
        self.shown = shown


class Socket(ssl.SSLSocket):
    """Looks at the pin when the handshake is done, and tells its context's owner of what is sent."""

    def do_handshake(self, block: bool = False) -> None:
        """Raises WrongPin, an ssl.SSLError, before anything can be sent."""
        context = self.context
        assert isinstance(context, Context)
        context.opened(self)
        super().do_handshake(block)
        if context.pin:
            shown = hashlib.sha256(self.getpeercert(binary_form=True) or b"").hexdigest()
            if not hmac.compare_digest(shown, context.pin):
                raise WrongPin(context.pin, shown)

    def send(self, data: Any, flags: int = 0) -> int:
        """Tells of it first: who was told not to send may raise."""
        context = self.context
        assert isinstance(context, Context)
        context.sending()
        return super().send(data, flags)


class Context(ssl.SSLContext):
    """pin: SHA-256 of the leaf certificate; empty: the chain decides. opened: told of each connection; sending: told before
    each write, and may raise."""

    pin: str = ""
    opened: Callable[[socket.socket], None] = staticmethod(lambda _socket: None)
    sending: Callable[[], None] = staticmethod(lambda: None)
    sslsocket_class = Socket


def context_for(*, fingerprint: str = "", ca_file: Path | None = None) -> Context:
    """A context that trusts one certificate, the authorities of a file, or else those of this system."""
    context = Context(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if fingerprint:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # nothing but the pin decides, and it always does: see Socket
        context.pin = fingerprint
    elif ca_file is not None:
        # Python 3.13 refuses authorities without all that RFC 5280 asks for; those of Proxmox VE's own are such. The
        # flag is not set here, since it is create_default_context that sets it.
        context.load_verify_locations(cafile=ca_file)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context


def normal(fingerprint: str) -> str:
    """64 hexadecimal digits, from any usual spelling. Raises ValueError for anything else."""
    text = fingerprint.strip().lower()
    text = text.removeprefix("sha256").lstrip(" :=-") if text.startswith("sha256") else text
    text = text.replace(":", "").replace(" ", "")
    if len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise ValueError(f"no SHA-256 fingerprint: {fingerprint!r}")
    return text


def spelled(fingerprint: str) -> str:
    """As Proxmox VE's console and openssl write it, so that an administrator can compare."""
    return ":".join(fingerprint[at : at + 2] for at in range(0, len(fingerprint), 2)).upper()
