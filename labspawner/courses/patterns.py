"""Patterns from course files that are run on what students type: matched whole, and refused if they could hang."""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from typing import Any

from labspawner.courses.regular import machine, without_warnings
from labspawner.sentences import Sentence

if sys.version_info >= (3, 11):
    from re import _constants as constants  # type: ignore[attr-defined]
    from re import _parser as parser  # type: ignore[attr-defined]
else:
    import sre_constants as constants
    import sre_parse as parser

MAX_VALUE = 120
_FEW = 8


@lru_cache(maxsize=256)
def compiled(pattern: str) -> re.Pattern[str]:
    """The pattern, ready to match. Raises ValueError if it is no pattern, or repeats a repetition without a bound.

    Python's matcher cannot be interrupted, and `(a+)+b` takes longer than the universe for 60 letters: one student
    would stop the hub. A heuristic: it refuses some harmless patterns, and alternatives that overlap still get through;
    `matches` runs those that it can in another way, which has no such patterns.
    """
    try:
        result = without_warnings(re.compile, pattern)
        if _hangs(without_warnings(parser.parse, pattern), inside=False):
            raise ValueError(
                Sentence(
                    "the pattern {pattern} repeats a repetition, which can take for ever: bound the outer "
                    "one, for example (...){{0,{few}}} in place of (...)*",
                    pattern=repr(pattern),
                    few=_FEW,
                )
            )
    except (re.error, OverflowError, RecursionError) as exc:
        raise ValueError(
            Sentence("{pattern} is not a regular expression: {exc}", pattern=repr(pattern), exc=str(exc))
        ) from exc
    return result


def matches(pattern: str, value: str) -> bool:
    """Whether `pattern` matches the WHOLE of `value`; a value above 120 characters never does.

    In bounded time where the pattern `is_regular`; only course files may have others.
    """
    if len(value) > MAX_VALUE:
        return False
    pythons, regular = compiled(pattern), machine(pattern)
    return regular.matches(value) if regular is not None else pythons.fullmatch(value) is not None


def is_regular(pattern: str) -> bool:
    """Whether `pattern` can never take long, whatever is typed."""
    return machine(pattern) is not None


def _hangs(node: Any, *, inside: bool) -> bool:
    """Whether an unbounded repetition stands inside another (`inside`: we are already in one)."""
    if isinstance(node, parser.SubPattern):
        return any(_hangs(item, inside=inside) for item in node.data)
    if not isinstance(node, (list, tuple)):
        return False
    if len(node) == 2 and node[0] in (constants.MAX_REPEAT, constants.MIN_REPEAT):
        _, most, body = node[1]
        many = most > _FEW
        return (many and inside) or _hangs(body, inside=inside or many)
    return any(_hangs(item, inside=inside) for item in node)
