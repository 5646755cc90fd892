"""The switches by which a test breaks the API server, and the log of what it was asked.

`FaultBoard` is what the API looks at; a test turns it by `KubeDouble.faults`, which carries each call into the double's
own thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class Refusal:
    """Requests of this kind are refused `left` more times, or until healed when it is None. "*" means any."""

    verb: str
    resource: str
    status: int
    left: int | None
    message: str = ""

    def takes(self, verb: str, resource: str) -> bool:
        return self.left != 0 and self.verb in ("*", verb) and self.resource in ("*", resource)


@dataclass(slots=True)
class FaultBoard:
    """What is broken now. All off at first; `heal` turns all of it off again."""

    refusals: list[Refusal] = field(default_factory=list)
    forbidden: set[tuple[str, str]] = field(default_factory=set)  # (verb, resource)
    slow_s: float = 0.0
    slow_verbs: frozenset[str] = frozenset()  # empty: all
    duplicate_events: bool = False
    silent_watches: bool = False  # those that are opened from now on
    claims_bind: bool = True

    def refusal(self, verb: str, resource: str) -> Refusal | None:
        """The refusal that this request meets; it is used up by one."""
        for refusal in self.refusals:
            if refusal.takes(verb, resource):
                refusal.left = None if refusal.left is None else refusal.left - 1
                return refusal
        return None

    def forbids(self, verb: str, resource: str) -> bool:
        pairs = ((verb, resource), ("*", resource), (verb, "*"))
        return any(pair in self.forbidden for pair in pairs)

    def delay_s(self, verb: str) -> float:
        return self.slow_s if not self.slow_verbs or verb in self.slow_verbs else 0.0

    def heal(self) -> None:
        self.refusals.clear()
        self.forbidden.clear()
        self.slow_s, self.slow_verbs = 0.0, frozenset()
        self.duplicate_events = self.silent_watches = False
        self.claims_bind = True


@dataclass(frozen=True, slots=True)
class Request:
    """One request that came in. `verb` is RBAC's word: get, list, watch, create, update, patch, delete, deletecollection.
    `status` is what was answered; a watch counts when it opens."""

    verb: str
    resource: str  # "pods", "pods/log"; "" for a path that is no resource
    namespace: str
    name: str
    path: str
    user: str
    status: int


WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


class RequestLog:
    """All requests since the start or the last `clear`. Iterate it, or count."""

    def __init__(self) -> None:
        self._all: list[Request] = []

    def add(self, request: Request) -> None:
        self._all.append(request)

    def clear(self) -> None:
        self._all.clear()

    def __iter__(self) -> Iterator[Request]:
        return iter(list(self._all))

    def __len__(self) -> int:
        return len(self._all)

    def count(self, verb: str = "*", resource: str = "*", *, status: int | None = None) -> int:
        """How many requests of this verb and resource came, whatever was answered unless `status` says so."""
        return sum(
            verb in ("*", request.verb)
            and resource in ("*", request.resource)
            and (status is None or status == request.status)
            for request in self
        )

    def writes(self, resource: str = "*", verbs: Iterable[str] = WRITES) -> int:
        """How many requests wanted to change something: "API writes per start"."""
        return sum(request.verb in verbs and resource in ("*", request.resource) for request in self)
