"""Times and ids as the API server writes them."""

from __future__ import annotations

import uuid
from datetime import datetime, timezone


def now() -> datetime:
    return datetime.now(timezone.utc)


def stamp(at: datetime | None = None) -> str:
    """A time as metadata carries it, to the second."""
    return (at or now()).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro(at: datetime | None = None) -> str:
    """A time as `eventTime` carries it, to the microsecond."""
    return (at or now()).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def new_uid() -> str:
    return str(uuid.uuid4())
