"""Kubernetes quantities: read, compared, and written in their canonical form. Pure.

"0.5" is written "500m" and "1024Mi" is written "1Gi", as the API server does with whatever a client sends; KubeSpawner
sends CPU and memory as JSON numbers.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache

_TEXT = re.compile(r"^([+-]?(?:\d+\.?\d*|\.\d+))(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE]|[eE][+-]?\d+)?$")
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL_OF = {power: suffix for suffix, power in _DECIMAL.items()}
_BINARY_OF = {0: ""} | {power: suffix for suffix, power in _BINARY.items()}
PATTERN_REFUSED = (
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"  # Kubernetes' words
)


class BadQuantity(ValueError):
    """The text is no quantity."""


@lru_cache(maxsize=4096)
def value(text: str) -> Fraction:
    """The number that `text` means. Raises BadQuantity."""
    match = _TEXT.match(text)
    if not match:
        raise BadQuantity(PATTERN_REFUSED)
    number, suffix = Fraction(match[1]), match[2] or ""
    if suffix in _BINARY:
        factor = Fraction(1024 ** _BINARY[suffix])
    else:
        power = _DECIMAL[suffix] if suffix in _DECIMAL else int(suffix[1:])
        factor = Fraction(10**power) if power >= 0 else Fraction(1, 10**-power)
    return number * factor


@lru_cache(maxsize=4096)
def milli(text: str) -> int:
    """`text` in thousandths, rounded up: whole numbers add faster than fractions. Raises BadQuantity."""
    return math.ceil(value(text) * 1000)


@lru_cache(maxsize=4096)
def canonical(text: str) -> str:
    """`text` as the API server writes it back. Raises BadQuantity."""
    return written(value(text), binary=text.endswith("i"))


def written(number: Fraction, *, binary: bool) -> str:
    """`number` in the largest unit that leaves it whole: powers of 1024, or of 1000."""
    if binary and abs(number) >= 1024 and number.denominator == 1:
        return _binary(number.numerator)
    nanos = math.ceil(number * 10**9)
    if nanos == 0:
        return "0"
    power = -9
    while nanos % 1000 == 0 and power < 18:
        nanos, power = nanos // 1000, power + 3
    return f"{nanos}{_DECIMAL_OF[power]}"


def total(texts: list[str]) -> str:
    """The sum, written as its first part is."""
    return written(sum(map(value, texts), Fraction(0)), binary=bool(texts) and texts[0].endswith("i"))


def _binary(number: int) -> str:
    power = 0
    while number % 1024 == 0 and power < 6:
        number, power = number // 1024, power + 1
    return f"{number}{_BINARY_OF[power]}"


def as_text(given: object) -> str:
    """What a JSON quantity says, number or string. Raises BadQuantity for anything else."""
    if isinstance(given, bool) or not isinstance(given, (str, int, float)):
        raise BadQuantity(PATTERN_REFUSED)
    return given if isinstance(given, str) else format(Decimal(repr(given)), "f")
