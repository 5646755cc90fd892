"""What is written down of each change: who did what to whom, in which course, from where."""

from __future__ import annotations

from collections.abc import Mapping

from labspawner.model import Json
from labspawner.service.console.house import House
from labspawner.service.console.rights import Caller
from labspawner.store import AuditEntry


def entry(
    house: House,
    caller: Caller,
    verb: str,
    *,
    course: str = "",
    subject: str = "",
    about: str = "",
    detail: Mapping[str, Json] | None = None,
    result: str = "ok",
) -> AuditEntry:
    """An entry for the audit log. verb: `course.save`, `roster.add`, `act.stop`. subject: the user that it was done to;
    about: what else it was done to. result: `ok`, or the kind of the refusal."""
    return AuditEntry(
        at=house.now(),
        actor=f"service:{caller.name}" if caller.service else caller.name,
        actor_ip=caller.ip,
        verb=verb,
        course=course,
        subject=subject,
        object=about,
        detail=dict(detail or {}),
        result=result,
    )
