"""What the API was asked, by everybody; without secrets."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_SECRET = frozenset({"password", "cipassword", "input-data", "content", "vncticket", "sshkeys"})


@dataclass(frozen=True, slots=True)
class Request:
    """token: who asked, without the secret ("" for nobody). node: the one whose port was asked. at: by the double's clock."""

    method: str
    path: str
    token: str
    node: str
    status: int
    params: Mapping[str, Any]
    at: float


class RequestLog:
    """Requests in the order of their answers; may be read from any thread."""

    def __init__(self) -> None:
        self._all: list[Request] = []
        self._lock = threading.Lock()

    def add(self, request: Request) -> None:
        with self._lock:
            self._all.append(request)

    def clear(self) -> None:
        with self._lock:
            self._all.clear()

    def matching(self, method: str = "", path: str = "") -> list[Request]:
        """The requests with this method ("" for any) whose path has a match of the regular expression."""
        pattern = re.compile(path)
        with self._lock:
            found = list(self._all)
        return [one for one in found if method in ("", one.method) and pattern.search(one.path)]

    def count(self, method: str = "", path: str = "") -> int:
        return len(self.matching(method, path))

    def __len__(self) -> int:
        return self.count()


def without_secrets(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters as a log may show them."""
    return {key: "<masked>" if key in _SECRET else value for key, value in params.items()}
