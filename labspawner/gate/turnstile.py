"""One piece of heavy work per turn of the event loop, so that between two of them everybody else is served."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Told = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Pace:
    """How one kind of work is let through.

    weight: its share of the turns while several kinds wait. together: how many share a turn, where one alone costs
    nearly as much. pause: turns of the loop without this kind behind each of its own: an answer to somebody else takes
    five or six of them, from the connection to the last byte, and must not meet a heavy piece in every one. Until its
    share is due, behind each turn of another kind as well: who was just answered often asks again.
    """

    weight: float
    together: int = 1
    pause: int = 0


@dataclass(eq=False, slots=True)
class _Waiting:
    """number: counts those who ever came to this line. told: hears the place, when there is news."""

    number: int
    told: Told | None
    through: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class _Line:
    """Those who wait for one kind of work. pass_: where this line stands in the order of turns; the lowest is next.
    pausing: turns for which it is not asked."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self.pass_ = 0.0
        self.pausing = 0
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
        """Tell the place, and again when it is a quarter of that: few words, however long the line."""
        if one.told is None or one.through.done():
            return
        place = self.place(one)
        one.told(place)
        if place > 1:
            self.news.setdefault(one.number - max(1, place // 4), []).append(one)


class Turnstile:
    """Lets one through per turn of the event loop.

    What is let through runs in that turn, up to where it next waits; the turn after it, the loop has looked at every
    connection. So the loop answers others after one such piece and not after hundreds, and no time is lost, because
    the next one is let through as soon as the loop is done. Nothing has to be given back.

    paces: of each kind of work; each is a line, first come first served.
    """

    def __init__(self, paces: Mapping[str, Pace]) -> None:
        self._lines = {kind: _Line(pace) for kind, pace in paces.items()}
        self._after: list[Callable[[], None]] = []
        self._turning = False
        self._now = 0.0

    def waiting(self, kind: str) -> int:
        """How many of this kind wait, those included that have left since."""
        return len(self._lines[kind].waiting)

    async def turn(self, kind: str, told: Told | None = None) -> None:
        """Return when it is this caller's turn; a cancelled wait leaves the line.

        told: is called with the place in line (1 is next) at once, and again whenever it is a quarter of that.
        """
        line = self._lines[kind]
        if not line.waiting:
            line.pass_ = max(line.pass_, self._now)  # who was away has saved up no turns
        one = line.join(told)
        self._go_on()
        await one.through

    def after(self, call: Callable[[], None]) -> None:
        """Call back when all who share this turn have run, and before anything else runs. For who was let through, up
        to where it next waits."""
        self._after.append(call)
        self._go_on()

    def _go_on(self) -> None:
        if not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        after, self._after = self._after, []
        for call in after:
            call()
        pausing = [line for line in self._lines.values() if line.pausing]
        for line in pausing:
            line.pausing -= 1
        ready = sorted((line for line in self._lines.values() if line not in pausing), key=lambda line: line.pass_)
        self._turning = any(map(self._let_through, ready)) or any(line.waiting for line in pausing)
        if self._turning:
            asyncio.get_running_loop().call_soon(self._turn)  # the next thing to run behind those who were let through

    def _let_through(self, line: _Line) -> bool:
        """Let those through who share this turn of the line; says whether there was anybody."""
        through = [one for _ in range(line.pace.together) if (one := line.next()) is not None]
        if through:
            self._now = line.pass_
            line.pass_ += 1 / line.pace.weight
            line.pausing = line.pace.pause
            for other in self._lines.values():
                if other.pass_ > self._now:
                    other.pausing = max(other.pausing, other.pace.pause)
        for one in through:
            one.through.set_result(None)
        return bool(through)
