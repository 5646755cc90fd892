"""A client of RFB for tests: asks, and paints what it gets."""

from __future__ import annotations

import asyncio
import struct

from labspawner.testing.pve.console.rfb import answer_to


class Wire:
    """Two streams in memory: what one end writes the other reads. `seams.Stream`."""

    def __init__(self):
        self._inbox, self.other = asyncio.Queue(), None
        self.closed = False

    @classmethod
    def pair(cls):
        first, second = cls(), cls()
        first.other, second.other = second, first
        return first, second

    async def read(self):
        return await self._inbox.get()

    async def write(self, data):
        if self.closed or self.other.closed:
            raise ConnectionResetError
        self.other._inbox.put_nowait(bytes(data))

    async def close(self):
        self.closed = True
        self.other._inbox.put_nowait(None)


class Refused(Exception):
    """The server did not let us in; its words."""


class RfbClient:
    """One console. wire: has `read` and `write` of bytes."""

    def __init__(self, wire):
        self.wire, self._rest = wire, b""
        self.name, self.width, self.height = "", 0, 0
        self.picture = {}
        self.version = b""

    async def read(self, count):
        while len(self._rest) < count:
            more = await self.wire.read()
            if more is None:
                raise EOFError
            self._rest += more
        found, self._rest = self._rest[:count], self._rest[count:]
        return found

    async def login(self, password):
        self.version = await self.read(12)
        await self.wire.write(b"RFB 003.008\n")
        kinds = await self.read((await self.read(1))[0])
        assert 2 in kinds
        await self.wire.write(b"\x02")
        await self.wire.write(answer_to(await self.read(16), password))
        if struct.unpack(">I", await self.read(4)) != (0,):
            (length,) = struct.unpack(">I", await self.read(4))
            raise Refused((await self.read(length)).decode())
        await self.wire.write(b"\x01")
        self.width, self.height = struct.unpack(">HH", await self.read(4))
        await self.read(16)
        (length,) = struct.unpack(">I", await self.read(4))
        self.name = (await self.read(length)).decode()
        return self

    async def ask(self, *, incremental=False):
        await self.wire.write(struct.pack(">BBHHHH", 3, incremental, 0, 0, self.width, self.height))

    async def paint(self):
        """Wait for one update and keep its pixels; the rectangle."""
        kind, count = struct.unpack(">BxH", await self.read(4))
        assert (kind, count) == (0, 1)
        x, y, width, height, encoding = struct.unpack(">HHHHi", await self.read(12))
        assert encoding == 0
        raw = await self.read(width * height * 4)
        for row in range(height):
            for column in range(width):
                at = (row * width + column) * 4
                self.picture[x + column, y + row] = (raw[at + 2], raw[at + 1], raw[at])
        return x, y, width, height

    async def key(self, down, keysym):
        await self.wire.write(struct.pack(">BBxxI", 4, down, keysym))

    async def pointer(self, buttons, x, y):
        await self.wire.write(struct.pack(">BBHH", 5, buttons, x, y))

    async def cut(self, text):
        await self.wire.write(struct.pack(">B3xI", 6, len(text)) + text.encode("latin-1"))
