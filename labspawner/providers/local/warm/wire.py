"""How hub, zygote and keeper talk. Standard library only; both sides use this file.

hub -> zygote: one byte with one descriptor, the keeper's end of a connection. zygote -> hub: JSON lines.
hub -> keeper: a request (length, JSON), with the descriptor of the log. keeper -> hub: JSON lines.
hub -> keeper: `GO` when the hub has noted the start; without it the keeper takes everything back.
"""

from __future__ import annotations

import array
import json
import os
import socket
import struct
from typing import Any

GO = b"g"
_LENGTH = struct.Struct("!I")
_MOST_BYTES = 16 * 2**20


class Broken(Exception):
    """The other side went away, or does not speak as it should."""


def frame(request: dict[str, Any]) -> bytes:
    """A request as bytes."""
    body = json.dumps(request).encode("ascii")
    return _LENGTH.pack(len(body)) + body


def line(**answer: Any) -> bytes:
    """An answer as bytes."""
    return json.dumps(answer).encode("ascii") + b"\n"


def receive_request(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The request and its descriptors. Raises Broken."""
    data, descriptors = receive_descriptors(connection, _LENGTH.size)
    try:
        while len(data) < _LENGTH.size:
            data += _some(connection, _LENGTH.size - len(data))
        left = _LENGTH.unpack(data)[0]
        if left > _MOST_BYTES:
            raise Broken("the request is too long")
        body = bytearray()
        while len(body) < left:
            body += _some(connection, left - len(body))
        return json.loads(body.decode("ascii")), descriptors
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise


def receive_descriptors(connection: socket.socket, most_bytes: int) -> tuple[bytes, list[int]]:
    """Up to `most_bytes` and the descriptors that came with them; no bytes at the end of the connection."""
    numbers = array.array("i")
    data, ancillary, _flags, _from = connection.recvmsg(most_bytes, socket.CMSG_SPACE(4 * numbers.itemsize))
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
    for number in numbers:
        os.set_inheritable(number, False)
    return data, list(numbers)


def say(connection: socket.socket | None, **answer: Any) -> bool:
    """Send an answer line; False when nobody listens any more."""
    try:
        if connection is not None:
            connection.sendall(line(**answer))
    except OSError:
        return False
    return connection is not None


def _some(connection: socket.socket, most_bytes: int) -> bytes:
    data = connection.recv(min(most_bytes, 65536))
    if not data:
        raise Broken("the connection ended")
    return data
