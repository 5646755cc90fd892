"""A place that is kept for a moment for somebody who has just clicked, so that the page they saw does not lie."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from labspawner.model import Resources

HOLD_FOR = timedelta(seconds=75)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A place of `resources` at `provider`, until `until`, for one start of `profile` by `user`."""

    id: str
    user: str
    profile: str
    provider: str
    resources: Resources
    until: datetime
