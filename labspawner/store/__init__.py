"""What labspawner remembers: leases, what was decided about them, and written courses. `Store` is the door."""

from __future__ import annotations

from labspawner.store.audit import AuditEntry, AuditRecord
from labspawner.store.coursebook import CourseRevision, Written
from labspawner.store.evidence import Allowance, Grant, Standing
from labspawner.store.jobs import Job, JobState, Step, StepState
from labspawner.store.messages import SaidMessage
from labspawner.store.reports import Usage
from labspawner.store.reservations import Reservations
from labspawner.store.rosters import Seat, Source
from labspawner.store.sqlite import tune_all_sqlite
from labspawner.store.store import Store

__all__ = [
    "Allowance",
    "AuditEntry",
    "AuditRecord",
    "CourseRevision",
    "Grant",
    "Job",
    "JobState",
    "Reservations",
    "SaidMessage",
    "Seat",
    "Source",
    "Standing",
    "Step",
    "StepState",
    "Store",
    "Usage",
    "Written",
    "tune_all_sqlite",
]
