"""One piece of heavy work per turn of the event loop, so that between two of them everybody else is served."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Told = Callable[[int], None]


@dataclass(eq=False, slots=True)
class _Waiting:
    """number: counts those who ever came to this line. told: hears the place, when there is news."""

    number: int
    told: Told | None
    through: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class _Line:
    """Those who wait for one kind of work. pass_: where this line stands in the order of turns; the lowest is next."""

    def __init__(self, weight: float) -> None:
        self.stride = 1 / weight
        self.pass_ = 0.0
        self.waiting: deque[_Waiting] = deque()
        self.news: dict[int, list[_Waiting]] = {}
        self._came = 0

    def join(self, told: Told | None) -> _Waiting:
        self._came += 1
        one = _Waiting(self._came, told)
        self.waiting.append(one)
        self._tell(one)
        return one

    def next(self) -> _Waiting | None:
        """Take out who is next; who left is passed over. The places of some behind are told."""
        while self.waiting:
            one = self.waiting.popleft()
            for other in self.news.pop(one.number, ()):
                self._tell(other)
            if not one.through.done():
                return one
        return None

    def place(self, one: _Waiting) -> int:
        """1 for who is next. Who left from the middle is still counted, until the line has come so far."""
        return one.number - self.waiting[0].number + 1 if self.waiting else 1

    def _tell(self, one: _Waiting) -> None:
        """Tell the place, and again when it is half of that: few words, however long the line."""
        if one.told is None or one.through.done():
            return
        place = self.place(one)
        one.told(place)
        if place > 1:
            self.news.setdefault(one.number - place // 2, []).append(one)


class Turnstile:
    """Lets one through per turn of the event loop.

    What is let through runs in that turn, up to where it next waits; the turn after it, the loop has looked at every
    connection. So the loop answers others after one such piece and not after hundreds, and no time is lost, because
    the next one is let through as soon as the loop is done. Nothing has to be given back.

    weights: kind -> its share of the turns while several kinds wait; each is a line, first come first served.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._lines = {kind: _Line(weight) for kind, weight in weights.items()}
        self._turning = False
        self._now = 0.0

    def waiting(self, kind: str) -> int:
        """How many of this kind wait, those included that have left since."""
        return len(self._lines[kind].waiting)

    async def turn(self, kind: str, told: Told | None = None) -> None:
        """Return when it is this caller's turn; a cancelled wait leaves the line.

        told: is called with the place in line (1 is next) at once, and again whenever it has halved.
        """
        line = self._lines[kind]
        if not line.waiting:
            line.pass_ = max(line.pass_, self._now)  # who was away has saved up no turns
        one = line.join(told)
        if not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turn)
        await one.through

    def _turn(self) -> None:
        for line in sorted(self._lines.values(), key=lambda line: line.pass_):
            one = line.next()
            if one is not None:
                self._now = line.pass_
                line.pass_ += line.stride
                one.through.set_result(None)
                asyncio.get_running_loop().call_soon(self._turn)
                return
        self._turning = False
