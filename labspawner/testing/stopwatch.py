"""How long something takes on a machine that may stand still for seconds, because others have it."""

from __future__ import annotations

import threading
from types import TracebackType

_BEAT_S = 0.01


class Stopwatch:
    """Counts seconds as this process was let have them; while it is open, a thread of its own does the counting.

    Wall time is no measure of a program where the machine is shared: a virtual machine that is put aside for five
    seconds makes every program on it five seconds slower. What is counted is how often a thread gets a pause of ten
    milliseconds: that is wall time where nobody else wants the machine, and less as others do. Work that keeps a
    processor busy and calls that wait do count, in whichever thread.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._count, name="stopwatch", daemon=True)

    def __enter__(self) -> Stopwatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _count(self) -> None:
        while not self._over.wait(_BEAT_S):
            self.seconds += _BEAT_S
