"""A matcher that cannot hang: regular expressions without back references and look-around, in time linear in the text.

Python's own matcher tries one way after the other, and for some patterns (`(a|a)*b`, `a*a*a*a*b`) there are more ways than
time. This one follows all of them at once, as a set of states, so that a match costs at most states times letters.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, TypeVar

if sys.version_info >= (3, 11):
    from re import _constants as constants  # type: ignore[attr-defined]
    from re import _parser as parser  # type: ignore[attr-defined]
else:
    import sre_constants as constants
    import sre_parse as parser

MAX_STATES = 1000

T = TypeVar("T")
_Test = Callable[[str], bool]
_Where = Callable[[str, int], bool]


def without_warnings(read: Callable[[str], T], pattern: str) -> T:
    """`read(pattern)`; Python warns of what a pattern may mean in a later version, and nobody here can act on it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read(pattern)


class NotRegular(ValueError):
    """The pattern looks ahead or back, changes flags, refers to what was matched before, or would need too many states."""


class Regular:
    """A pattern as a machine of states. Raises NotRegular for one that it cannot be."""

    def __init__(self, pattern: str) -> None:
        try:
            if without_warnings(re.compile, pattern).flags != re.UNICODE:
                raise NotRegular("flags")
            parsed = without_warnings(parser.parse, pattern)
        except (re.error, OverflowError, RecursionError) as exc:
            raise NotRegular(str(exc)) from exc
        self._letters: list[tuple[_Test, int] | None] = []
        self._free: list[list[tuple[_Where | None, int]]] = []
        self._begin = self._state()
        self._end = self._sequence(self._begin, parsed)

    def matches(self, text: str) -> bool:
        """Whether the WHOLE of `text` fits."""
        now = self._spread([self._begin], text, 0)
        for place, letter in enumerate(text):
            moves = (self._letters[state] for state in now)
            now = self._spread([move[1] for move in moves if move and move[0](letter)], text, place + 1)
            if not now:
                return False
        return self._end in now

    def _spread(self, states: Iterable[int], text: str, place: int) -> set[int]:
        """All states that are reached from `states` without a letter."""
        reached, ahead = set(states), list(states)
        while ahead:
            for where, state in self._free[ahead.pop()]:
                if state not in reached and (where is None or where(text, place)):
                    reached.add(state)
                    ahead.append(state)
        return reached

    def _state(self) -> int:
        if len(self._letters) >= MAX_STATES:
            raise NotRegular("too many states")
        self._letters.append(None)
        self._free.append([])
        return len(self._letters) - 1

    def _sequence(self, begin: int, nodes: Any) -> int:
        for kind, argument in nodes:
            begin = self._node(begin, kind, argument)
        return begin

    def _node(self, begin: int, kind: Any, argument: Any) -> int:
        """Add what one node matches after `begin`; the state behind it."""
        if kind in (constants.MAX_REPEAT, constants.MIN_REPEAT):
            return self._repeat(begin, *argument)
        if kind is constants.SUBPATTERN:
            _group, added, removed, inner = argument
            if added or removed:
                raise NotRegular("flags")
            return self._sequence(begin, inner)
        end = self._state()
        if kind is constants.BRANCH:
            for branch in argument[1]:
                self._free[self._sequence(self._fork(begin), branch)].append((None, end))
        elif kind is constants.AT:
            self._free[begin].append((_place(argument), end))
        else:
            self._letters[start := self._fork(begin)] = (_letter(kind, argument), end)
            assert start != begin
        return end

    def _fork(self, begin: int) -> int:
        state = self._state()
        self._free[begin].append((None, state))
        return state

    def _repeat(self, begin: int, least: int, most: int, inner: Any) -> int:
        for _ in range(least):
            begin = self._sequence(self._fork(begin), inner)
        end = self._state()
        self._free[begin].append((None, end))
        if most is constants.MAXREPEAT:
            loop = self._fork(begin)
            self._free[self._sequence(loop, inner)].extend([(None, loop), (None, end)])
            return end
        for _ in range(most - least):
            begin = self._sequence(self._fork(begin), inner)
            self._free[begin].append((None, end))
        return end


def _letter(kind: Any, argument: Any) -> _Test:
    if kind is constants.LITERAL:
        return lambda letter: ord(letter) == argument
    if kind is constants.NOT_LITERAL:
        return lambda letter: ord(letter) != argument
    if kind is constants.ANY:
        return lambda letter: letter != "\n"
    if kind is constants.IN:
        tests = [_member(*item) for item in argument if item[0] is not constants.NEGATE]
        negated = any(item[0] is constants.NEGATE for item in argument)
        return lambda letter: any(test(letter) for test in tests) != negated
    raise NotRegular(str(kind))


def _member(kind: Any, argument: Any) -> _Test:
    if kind is constants.LITERAL:
        return lambda letter: ord(letter) == argument
    if kind is constants.RANGE:
        low, high = argument
        return lambda letter: low <= ord(letter) <= high
    if kind is constants.CATEGORY and argument in _CATEGORIES:
        return _CATEGORIES[argument]
    raise NotRegular(str(kind))


def _word(letter: str) -> bool:
    return letter.isalnum() or letter == "_"


_CATEGORIES: dict[Any, _Test] = {
    constants.CATEGORY_DIGIT: str.isdecimal,
    constants.CATEGORY_NOT_DIGIT: lambda letter: not letter.isdecimal(),
    constants.CATEGORY_SPACE: str.isspace,
    constants.CATEGORY_NOT_SPACE: lambda letter: not letter.isspace(),
    constants.CATEGORY_WORD: _word,
    constants.CATEGORY_NOT_WORD: lambda letter: not _word(letter),
}


def _place(kind: Any) -> _Where:
    if kind in (constants.AT_BEGINNING, constants.AT_BEGINNING_STRING):
        return lambda _text, place: place == 0
    if kind is constants.AT_END:
        return lambda text, place: place == len(text) or text[place:] == "\n"
    if kind is constants.AT_END_STRING:
        return lambda text, place: place == len(text)
    raise NotRegular(str(kind))


@lru_cache(maxsize=256)
def machine(pattern: str) -> Regular | None:
    """The pattern as a machine; None if it cannot be one."""
    try:
        return Regular(pattern)
    except NotRegular:
        return None
