"""A server that answers over TLS what a test says, and keeps what it was asked."""

from __future__ import annotations

import datetime
import ipaddress
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

TOKEN = "labs@pve!hub=the-secret"


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, list[str]]
    form: dict[str, list[str]]
    headers: dict[str, str]


@dataclass
class Reply:
    """What is answered. hold: not before this is set. drop: nothing at all, the connection ends."""

    data: Any = None
    status: int = 200
    reason: str = "OK"
    message: str | None = None
    errors: dict[str, str] | None = None
    raw: bytes | None = None
    hold: threading.Event | None = None
    drop: bool = False
    location: str = ""


Answer = Callable[[Asked], Reply]


@dataclass
class Scripted:
    """url, fingerprint, ca_file: as a client needs them. asked: what came, in order."""

    url: str
    fingerprint: str
    ca_file: Path
    asked: list[Asked] = field(default_factory=list)
    routes: dict[tuple[str, str], Answer] = field(default_factory=dict)
    connections: int = 0

    def on(self, method: str, path: str, *replies: Reply | Any) -> None:
        """Answer so: the first reply first, the last one for ever after. What is no Reply is data."""
        queue = [each if isinstance(each, Reply) else Reply(each) for each in replies]
        self.routes[method, path] = lambda _asked: queue.pop(0) if len(queue) > 1 else queue[0]

    def count(self, path: str) -> int:
        """How often a path was asked for."""
        return sum(each.path == path for each in self.asked)


def refusal(status: int, message: str, **errors: str) -> Reply:
    """An error as Proxmox VE words it: in the reason and in the body."""
    return Reply(None, status, message, message + "\n", dict(errors) or None)


@contextmanager
def scripted(folder: Path, *, certificate: tuple[Path, Path] | None = None) -> Iterator[Scripted]:
    """A server on a port of the kernel's choice."""
    chain, key = certificate or a_certificate(folder)
    server = _Server(("127.0.0.1", 0), _Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    server.context = context
    lab = Scripted(f"https://127.0.0.1:{server.server_address[1]}", fingerprint_of(chain), chain)
    server.lab = lab
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield lab
    finally:
        server.over.set()
        server.shutdown()
        server.hang_up()
        server.server_close()
        thread.join()


def a_certificate(folder: Path, name: str = "server") -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key, as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=False)
        .sign(key, hashes.SHA256())
    )
    chain, secret = folder / f"{name}.pem", folder / f"{name}.key"
    chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    secret.write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
    return chain, secret


def fingerprint_of(chain: Path) -> str:
    return sha256(ssl.PEM_cert_to_DER_cert(chain.read_text())).hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True
    lab: Scripted
    context: ssl.SSLContext

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.over = threading.Event()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def hang_up(self) -> None:
        with self._lock:
            for each in self._open:
                with suppress(OSError):
                    socket.socket.shutdown(each, socket.SHUT_RDWR)

    def finish_request(self, request: Any, client_address: Any) -> None:
        try:
            wrapped = self.context.wrap_socket(request, server_side=True)
        except (ssl.SSLError, OSError):
            return
        with self._lock:
            self.lab.connections += 1
            self._open.add(wrapped)
        try:
            if not self.over.is_set():
                super().finish_request(wrapped, client_address)
        except OSError:
            pass
        finally:
            with self._lock:
                self._open.discard(wrapped)
            with suppress(OSError):
                wrapped.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_args: object) -> None:
        """Nothing."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        parts = urlsplit(self.path)
        path = parts.path.removeprefix("/api2/json")
        headers = {key.lower(): value for key, value in self.headers.items()}
        asked = Asked(self.command, path, parse_qs(parts.query), parse_qs(body, keep_blank_values=True), headers)
        self.server.lab.asked.append(asked)
        answer = self.server.lab.routes.get((self.command, path))
        reply = answer(asked) if answer else refusal(501, f"Method '{self.command} {path}' not implemented")
        if reply.hold is not None:
            while not reply.hold.wait(0.02) and not self.server.over.is_set():
                pass
        if reply.drop:
            self.close_connection = True
            return
        content = reply.raw
        if content is None:
            out: dict[str, Any] = {"data": reply.data}
            out |= {"message": reply.message} if reply.message is not None else {}
            out |= {"errors": reply.errors} if reply.errors else {}
            content = json.dumps(out).encode()
        self.send_response(reply.status, reply.reason)
        self.send_header("Content-Type", "application/json;charset=UTF-8")
        if reply.location:
            self.send_header("Location", reply.location)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = _serve
