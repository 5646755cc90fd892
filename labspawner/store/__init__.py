"""What labspawner remembers: leases, and what was decided about them. `Store` is the door."""

from __future__ import annotations

from labspawner.store.evidence import Allowance, Grant, Standing
from labspawner.store.reports import Usage
from labspawner.store.reservations import Reservations
from labspawner.store.sqlite import tune_all_sqlite
from labspawner.store.store import Store

__all__ = ["Allowance", "Grant", "Reservations", "Standing", "Store", "Usage", "tune_all_sqlite"]
