"""RFB 3.8 as a server speaks it: version, VNC authentication, raw updates, and what clients send. Pure but for the stream."""

from __future__ import annotations

import hmac
import struct

from labspawner.testing.pve.console.canvas import HEIGHT, WIDTH, Area, PixelFormat
from labspawner.testing.pve.seams import Stream

VERSION = b"RFB 003.008\n"
VNC_AUTHENTICATION = 2
RAW = 0
_MOST_TEXT = 1 << 20


class ClientGone(Exception):
    """The client has gone, or speaks something else."""


class WrongPassword(ClientGone):
    """The client does not know the password."""


class Line:
    """Reads a stream by counts of bytes."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._rest = b""

    async def read(self, count: int) -> bytes:
        """Exactly that many bytes. Raises ClientGone."""
        while len(self._rest) < count:
            more = await self._stream.read()
            if more is None:
                raise ClientGone
            self._rest += more
        found, self._rest = self._rest[:count], self._rest[count:]
        return found

    async def unpack(self, layout: str) -> tuple[int, ...]:
        return struct.unpack(layout, await self.read(struct.calcsize(layout)))


def answer_to(challenge: bytes, password: str) -> bytes:
    """The response of VNC authentication: DES with the password as key, each byte of it mirrored."""
    from cryptography.hazmat.primitives.ciphers import Cipher, modes  # noqa: PLC0415 - only where somebody looks at a screen

    try:
        from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES  # noqa: PLC0415
    except ImportError:  # an older one
        from cryptography.hazmat.primitives.ciphers.algorithms import TripleDES  # noqa: PLC0415

    key = bytes(int(f"{byte:08b}"[::-1], 2) for byte in password.encode("latin-1")[:8].ljust(8, b"\0"))
    cipher = Cipher(TripleDES(key * 3), modes.ECB())  # noqa: S305 - what the protocol says; three equal keys are plain DES
    encryptor = cipher.encryptor()
    return encryptor.update(challenge) + encryptor.finalize()


async def admit(line: Line, stream: Stream, password: str, challenge: bytes, name: str) -> None:
    """Take a client in: version, password, its wish to share, and our name. Raises WrongPassword and ClientGone."""
    await stream.write(VERSION)
    if not (await line.read(12)).startswith(b"RFB 003."):
        raise ClientGone
    await stream.write(bytes([1, VNC_AUTHENTICATION]))
    if await line.read(1) != bytes([VNC_AUTHENTICATION]):
        raise ClientGone
    await stream.write(challenge)
    if not hmac.compare_digest(await line.read(16), answer_to(challenge, password)):
        why = b"Authentication failed"
        await stream.write(struct.pack(">II", 1, len(why)) + why)
        raise WrongPassword
    await stream.write(struct.pack(">I", 0))
    await line.read(1)
    title = name.encode()
    await stream.write(
        struct.pack(">HH", WIDTH, HEIGHT) + PixelFormat().packed() + struct.pack(">I", len(title)) + title
    )


def update(area: Area, pixels: bytes) -> bytes:
    """A FramebufferUpdate of one rectangle."""
    return struct.pack(">BxHHHHHi", 0, 1, area.x, area.y, area.width, area.height, RAW) + pixels


async def text_of(line: Line) -> str:
    """The rest of a ClientCutText."""
    (length,) = await line.unpack(">3xi")
    if length < 0 or length > _MOST_TEXT:  # the extended clipboard is for servers that offer it
        raise ClientGone
    return (await line.read(length)).decode("latin-1")


def letter_of(keysym: int) -> str:
    """The character of a key, "" for one that has none."""
    if 0x20 <= keysym <= 0x7E:
        return chr(keysym)
    return {0xFF0D: "\n", 0xFF8D: "\n"}.get(keysym, "")
