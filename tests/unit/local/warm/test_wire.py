"""How hub, zygote and keeper talk."""

from __future__ import annotations

import gc
import os
import socket
import struct
from collections.abc import Iterator

import pytest

from labspawner.providers.local.warm import wire

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_request_arrives_whole_with_its_descriptors_in_whatever_pieces(pair: Pair) -> None:
    ours, theirs = pair
    request = {"environment": {"NAME": "学生" * 5000}}
    data = wire.frame(request)
    reading, writing = os.pipe()
    socket.send_fds(ours, [data[:2]], [writing])
    ours.sendall(data[2:])

    found, (descriptor,) = wire.receive_request(theirs)

    assert found == request
    assert not os.get_inheritable(descriptor)
    os.write(descriptor, b"x")
    assert os.read(reading, 1) == b"x"
    for number in (reading, writing, descriptor):
        os.close(number)


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0\0\5{}", struct.pack("!I", 2**31), b"\0\0\0\2{]", b"\0\0\0\1\xff"])
def test_what_is_no_request_is_refused_and_its_descriptors_are_closed(pair: Pair, data: bytes) -> None:
    ours, theirs = pair
    gc.collect()  # what earlier tests left behind must not go while this one is under way
    before = descriptors()
    if data:
        socket.send_fds(ours, [data], [0, 1])
    ours.shutdown(socket.SHUT_WR)

    with pytest.raises((wire.Broken, ValueError)):
        wire.receive_request(theirs)
    assert descriptors() == before


def test_saying_something_to_nobody_is_no_error(pair: Pair) -> None:
    ours, theirs = pair
    assert wire.say(ours, keeper=1)
    assert theirs.recv(100) == b'{"keeper": 1}\n'
    theirs.close()

    assert not wire.say(ours, keeper=1)
    assert not wire.say(None, keeper=1)
