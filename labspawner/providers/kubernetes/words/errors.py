"""What a pod's state is as an error of labspawner: may it be tried again, and what is read."""

from __future__ import annotations

from labspawner.errors import LabError, NeverFits, NoRoom, StartFailed
from labspawner.providers.kubernetes.strategies.contract import Kind, Waiting


def error_of(waiting: Waiting, *, log_tail: str = "") -> LabError:
    """The error that ends a start in this state: at once, or because time ran out. Its message is never empty."""
    if waiting.kind is Kind.NEVER:
        never = NeverFits(0, 0, message=waiting.message)
        never.args = (waiting.detail or str(waiting.message),)
        return never
    if waiting.kind is Kind.FULL:
        return NoRoom(waiting.message, detail=waiting.detail, retry_after_s=60.0)
    stuck = waiting.stuck if waiting.kind is Kind.STARTING and waiting.stuck is not None else waiting.message
    return StartFailed(stuck, detail=waiting.detail, log_tail=log_tail)
