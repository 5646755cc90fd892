"""One request, from its asker to the thread that sends it, and what comes of it. No I/O."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


class HangsUp(Protocol):
    """A line that another thread can cut."""

    def hang_up(self) -> None: ...


class NotSent(Exception):
    """Nothing of the request left this machine."""


class Untrusted(NotSent):
    """The endpoint's certificate is not one that we trust."""

    def __init__(self, why: str, *, expected: str = "", shown: str = "") -> None:
        super().__init__(why)
        self.expected = expected
        self.shown = shown


class Lost(Exception):
    """The request was sent, and there is no answer that can be read."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. text: of an error. skew_s: the other side's clock minus ours, to about a second."""

    status: int
    data: Any = None
    text: str = ""
    errors: Mapping[str, str] = field(default_factory=dict)
    skew_s: float | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. path: parts percent-encoded. cookies, headers: the credentials."""

    method: str
    path: str
    params: Mapping[str, Any] = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    cookies: Mapping[str, str] = field(repr=False)
    read_s: float = 30.0


class Call:
    """One request on its way through a thread, which its asker may give up at any moment."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self._lock = threading.Lock()
        self._line: HangsUp | None = None
        self._given_up = False
        self._sent = False

    def begin(self, line: HangsUp) -> None:
        """A thread takes it up. Raises NotSent when nobody waits any more."""
        with self._lock:
            if self._given_up:
                raise NotSent("nobody waits for it any more")
            self._line = line

    def end(self) -> None:
        """The thread is done with it."""
        with self._lock:
            self._line = None

    def sending(self) -> None:
        """Told before something is written. Raises ConnectionAbortedError when it was given up before anything was."""
        with self._lock:
            if self._given_up and not self._sent:
                raise ConnectionAbortedError("given up before it was sent")
            self._sent = True

    @property
    def sent(self) -> bool:
        """Whether anything was written."""
        with self._lock:
            return self._sent

    def give_up(self, *, hang_up: bool) -> bool:
        """Nobody waits any more: what is not sent by now never is. Answers whether it was sent. hang_up: free the thread."""
        with self._lock:
            self._given_up = True
            if self._line is not None and (hang_up or not self._sent):
                self._line.hang_up()
            return self._sent
