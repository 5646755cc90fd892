"""What a door needs of the store that it belongs to: to run a piece of work as one transaction."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from sqlalchemy.engine import Connection

T = TypeVar("T")


class Transact(Protocol):
    """Runs `work` in a thread, as one transaction: all of it is written or nothing. Raises StoreUnavailable."""

    def __call__(self, work: Callable[[Connection], T], /) -> Coroutine[Any, Any, T]: ...
