"""A clock for tests, and the kinds of database that several processes can open."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from builders import NOW

SHARED = ["sqlite-file", pytest.param("postgresql", marks=pytest.mark.postgresql)]


class Clock:
    """Stands still until it is told."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **span: float) -> datetime:
        self.now += timedelta(**span)
        return self.now
