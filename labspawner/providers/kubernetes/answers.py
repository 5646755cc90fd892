"""What an API server answers, where that is not what was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Obj = Mapping[str, Any]
"""An API object, as JSON has it."""


class ApiRefused(Exception):
    """The API server answered, and not with success. body: its Status object, or what there was of it."""

    def __init__(self, status: int, body: Obj, what: str) -> None:
        self.status = status
        self.body = body
        self.what = what
        super().__init__(f"{what}: {status} {self.reason}: {self.message}")

    @property
    def reason(self) -> str:
        return str(self.body.get("reason") or "")

    @property
    def message(self) -> str:
        return str(self.body.get("message") or "")[:2000]


class ApiSilent(Exception):
    """The API server did not answer. What was asked for may have been done."""
