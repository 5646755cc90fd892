"""A picture of few colours, with a tiny font of our own, and how it looks in any true-colour pixel format of RFB."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 480, 300
Colour = tuple[int, int, int]
BACKGROUND: Colour = (32, 64, 128)
INK: Colour = (255, 255, 255)
MARK: Colour = (255, 216, 0)
_SQUARES: tuple[Colour, ...] = (
    (200, 40, 40),
    (40, 160, 60),
    (40, 120, 220),
    (220, 140, 30),
    (150, 60, 190),
    (20, 170, 170),
)
COLOURS: tuple[Colour, ...] = (BACKGROUND, INK, MARK, *_SQUARES)
_FONT = {  # five rows of three pixels: each digit is a row in octal
    "A": "25755", "B": "65656", "C": "34443", "D": "65556", "E": "74647", "F": "74644", "G": "34553", "H": "55755",
    "I": "72227", "J": "11152", "K": "55655", "L": "44447", "M": "57755", "N": "65555", "O": "25552", "P": "65644",
    "Q": "25573", "R": "65655", "S": "34216", "T": "72222", "U": "55557", "V": "55552", "W": "55775", "X": "55255",
    "Y": "55222", "Z": "71247", "0": "75557", "1": "26227", "2": "71747", "3": "71717", "4": "55711", "5": "74717",
    "6": "74757", "7": "71122", "8": "75757", "9": "75717", "-": "00700", ".": "00002", "_": "00007", ":": "02020",
    "/": "11244", " ": "00000", "?": "71202", "!": "22202", "=": "07070", "+": "02720", "(": "24442", ")": "21112",
    ",": "00024",
}  # fmt: skip
_UNKNOWN = "77777"


@dataclass(frozen=True, slots=True)
class Area:
    x: int
    y: int
    width: int
    height: int


WHOLE = Area(0, 0, WIDTH, HEIGHT)


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """As a client asks for it; ours is 32 bits, little-endian, blue first."""

    bits: int = 32
    depth: int = 24
    big_endian: bool = False
    maxima: tuple[int, int, int] = (255, 255, 255)
    shifts: tuple[int, int, int] = (16, 8, 0)

    def packed(self) -> bytes:
        """The 16 bytes of it in RFB."""
        return struct.pack(">BBBBHHHBBB3x", self.bits, self.depth, self.big_endian, 1, *self.maxima, *self.shifts)

    @classmethod
    def read(cls, raw: bytes) -> PixelFormat:
        """Raises ValueError for a format with a colour map."""
        bits, depth, big, true_colour, *rest = struct.unpack(">BBBBHHHBBB3x", raw)
        if not true_colour or bits not in (8, 16, 32):
            raise ValueError(f"pixel format with {bits} bits")
        maxima, shifts = (rest[0], rest[1], rest[2]), (rest[3], rest[4], rest[5])
        return cls(bits, depth, bool(big), maxima, shifts)

    def pixel(self, colour: Colour) -> bytes:
        value = 0
        for part, most, shift in zip(colour, self.maxima, self.shifts, strict=True):
            value |= (part * most // 255) << shift
        return value.to_bytes(self.bits // 8, "big" if self.big_endian else "little")


class Canvas:
    """The picture: one byte for each pixel, an index into COLOURS."""

    def __init__(self) -> None:
        self._rows = [bytearray(WIDTH) for _ in range(HEIGHT)]

    def pixel(self, x: int, y: int) -> Colour:
        return COLOURS[self._rows[y][x]]

    def fill(self, area: Area, colour: Colour) -> Area:
        """Paint a rectangle, cut at the edges; what was painted."""
        left, top = max(0, area.x), max(0, area.y)
        right, bottom = min(WIDTH, area.x + area.width), min(HEIGHT, area.y + area.height)
        if right <= left or bottom <= top:
            return Area(0, 0, 0, 0)
        line = bytes([COLOURS.index(colour)]) * (right - left)
        for row in self._rows[top:bottom]:
            row[left:right] = line
        return Area(left, top, right - left, bottom - top)

    def text(self, x: int, y: int, words: str, size: int, colour: Colour = INK) -> None:
        """Write capitals, each dot `size` pixels wide; what does not fit is cut."""
        for number, letter in enumerate(words.upper()):
            for line, octal in enumerate(_FONT.get(letter, _UNKNOWN)):
                for dot in range(3):
                    if int(octal) & (4 >> dot):
                        self.fill(Area(x + (number * 4 + dot) * size, y + line * size, size, size), colour)

    def raw(self, area: Area, pixels: Sequence[bytes]) -> bytes:
        """The rectangle in RFB's raw encoding; pixels: how each of COLOURS looks."""
        rows = self._rows[area.y : area.y + area.height]
        return b"".join(b"".join([pixels[i] for i in row[area.x : area.x + area.width]]) for row in rows)


def squares(vmid: int) -> list[Colour]:
    """The colours that stand for a VM's id."""
    return [_SQUARES[int(digit) % len(_SQUARES)] for digit in f"{vmid:06d}"]
