"""Sizes, times and shares as people write them: always with a unit."""

from __future__ import annotations

import math
import re
from datetime import timedelta

from labspawner.sentences import Sentence

_BYTES = {
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_NUMBER_UNIT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z%]*)\s*", re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])", re.ASCII)

MAX_BYTES = 2**50
MAX_DURATION = timedelta(days=3660)


class UnitError(ValueError):
    """A size, time or share that cannot be read; the text says what to write instead."""


def parse_bytes(value: object) -> int:
    """Read `6GiB`, `512 MiB` or Kubernetes' `6Gi` as bytes, 1 to 1 PiB. A number without a unit is refused."""
    example = Sentence("write a size with its unit, for example 6GiB or 512MiB")
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise UnitError(Sentence("{value} is not a size: {example}", value=repr(value), example=example))
    match = _NUMBER_UNIT.fullmatch(str(value))
    if match is None:
        raise UnitError(Sentence("{value} is not a size: {example}", value=repr(value), example=example))
    number, unit = match.groups()
    if unit == "":
        raise UnitError(
            Sentence("{value} has no unit: write {number}GiB or {number}MiB", value=repr(value), number=number)
        )
    if unit not in _BYTES:
        binary = {"k": "KiB", "m": "MiB", "g": "GiB", "t": "TiB"}.get(unit[0].lower())
        hint = Sentence("write {size} (1 GiB = 1024 MiB)", size=f"{number}{binary}") if binary else example
        raise UnitError(
            Sentence("{value} has an unknown unit {unit}: {hint}", value=repr(value), unit=repr(unit), hint=hint)
        )
    size = float(number) * _BYTES[unit]  # infinite for some hundred digits
    if not 1 <= size <= MAX_BYTES:
        raise UnitError(
            Sentence("{value} is out of range: a size is more than 0 and at most 1024TiB", value=repr(value))
        )
    return math.floor(size)


def parse_duration(value: object) -> timedelta:
    """Read `20m`, `1h30m` or `14d` as a time span, 0 to ten years. A number without a unit is refused."""
    example = Sentence("write a time with its unit, for example 20m, 1h30m or 14d")
    if isinstance(value, timedelta):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise UnitError(Sentence("{value} is not a time: {example}", value=repr(value), example=example))
    text = str(value).strip()
    if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
        raise UnitError(
            Sentence(
                "{value} has no unit: write {text}m for minutes or {text}h for hours", value=repr(value), text=text
            )
        )
    if not re.fullmatch(r"(\d+(\.\d+)?\s*[smhdw]\s*)+", text, re.ASCII):
        raise UnitError(Sentence("{value} is not a time: {example}", value=repr(value), example=example))
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text))
    if seconds > MAX_DURATION.total_seconds():
        raise UnitError(Sentence("{value} is out of range: a time is at most ten years", value=repr(value)))
    return timedelta(seconds=seconds)


def parse_percent(value: object) -> int:
    """Read `25%` or the plain number 25 as whole percent, 1 to 100."""
    example = Sentence("write a share from 1% to 100%, for example 25%")
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise UnitError(Sentence("{value} is not a share: {example}", value=repr(value), example=example))
    match = re.fullmatch(r"\s*(\d{1,3})\s*%?\s*", str(value), re.ASCII)
    if match is None or not 1 <= int(match[1]) <= 100:
        raise UnitError(Sentence("{value} is not a share: {example}", value=repr(value), example=example))
    return int(match[1])


def human_bytes(size: int) -> str:
    """`6442450944` as `6 GiB`; one decimal where it matters."""
    for unit, factor in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(size) >= factor:
            return f"{size / factor:.1f}".removesuffix(".0") + f" {unit}"
    return f"{size} B"


def human_duration(span: timedelta) -> str:
    """`5400` seconds as `1 h 30 min`; the two largest units only."""
    seconds = max(0, round(span.total_seconds()))
    parts = []
    for unit, factor in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, seconds = divmod(seconds, factor)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"
