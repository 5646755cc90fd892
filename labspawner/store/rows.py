"""Model values as rows and back. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy.engine import RowMapping

from labspawner.model import Decision, Ending, Handle, Json, Lease, LeaseId, Phase, ReleaseMode, Resources
from labspawner.sentences import Sentence, plain
from labspawner.store.schema import digest


def dump(value: object) -> str:
    """`value` as JSON in ASCII. Raises ValueError or TypeError for what JSON lacks: NaN, objects."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def dump_sentence(sentence: str) -> str:
    """A sentence as JSON. A plain string, or one with parameters that JSON lacks, is kept as its English text: a reason
    is never lost to its form."""
    made = sentence if isinstance(sentence, Sentence) else plain(sentence)
    try:
        return dump(made.to_json())
    except (TypeError, ValueError):
        return dump(plain(str(made)).to_json())


def dump_ending(ending: Ending) -> str:
    return f'{{"by":{dump(ending.by)},"reason":{dump_sentence(ending.reason)}}}'


def lease_to_row(lease: Lease) -> dict[str, Any]:
    """The columns of `lease`, all but `mode_before_intent`."""
    handle = lease.handle
    if handle is not None and handle.lease_id != lease.id:
        raise ValueError(f"the handle of lease {handle.lease_id} cannot be stored with lease {lease.id}")
    return {
        "id": lease.id,
        "hub_id": lease.hub_id,
        "username": lease.user,
        "server_name": lease.server_name,
        "owner_key": digest(lease.user, lease.server_name),
        "provider": lease.provider,
        "profile": lease.profile,
        "profile_rev": lease.profile_rev,
        "pinned": dump(dict(lease.pinned)),
        "phase": lease.phase.value,
        "handle": dump({"provider": handle.provider, "data": dict(handle.data)}) if handle else None,
        "url": lease.url,
        "reserves": dump(lease.reserves.to_json()),
        "release_mode": lease.release_mode.value,
        "created_at": lease.created_at,
        "phase_at": lease.phase_at,
        "ready_at": lease.ready_at,
        "ended_at": lease.ended_at,
        "ending": dump_ending(lease.ending) if lease.ending else None,
        "attempts": lease.attempts,
    }


def lease_from_row(row: RowMapping | Mapping[str, Any]) -> Lease:
    """The lease that `lease_to_row` was given."""
    id_ = LeaseId(row["id"])
    handle = json.loads(row["handle"]) if row["handle"] else None
    ending = json.loads(row["ending"]) if row["ending"] else None
    return Lease(
        id=id_,
        hub_id=row["hub_id"],
        user=row["username"],
        server_name=row["server_name"],
        provider=row["provider"],
        profile=row["profile"],
        profile_rev=row["profile_rev"],
        pinned=json.loads(row["pinned"]),
        phase=Phase(row["phase"]),
        handle=Handle(lease_id=id_, provider=handle["provider"], data=handle["data"]) if handle else None,
        url=row["url"],
        reserves=Resources.from_json(json.loads(row["reserves"])),
        release_mode=ReleaseMode(row["release_mode"]),
        created_at=row["created_at"],
        phase_at=row["phase_at"],
        ready_at=row["ready_at"],
        ended_at=row["ended_at"],
        ending=Ending(by=ending["by"], reason=Sentence.from_json(ending["reason"])) if ending else None,
        attempts=row["attempts"],
    )


def decision_to_row(decision: Decision, *, hub_id: str) -> dict[str, Any]:
    """The columns of `decision`, all but its number."""
    return {
        "lease_id": decision.lease_id,
        "hub_id": hub_id,
        "username": decision.user,
        "user_key": digest(decision.user),
        "server_name": decision.server_name,
        "verdict": decision.verdict,
        "reason": dump_sentence(decision.reason),
        "evidence": dump(dict(decision.evidence)),
        "at": decision.at,
        "applied": decision.applied,
    }


def decision_from_row(row: RowMapping | Mapping[str, Any]) -> Decision:
    """The decision that `decision_to_row` was given."""
    evidence: dict[str, Json] = json.loads(row["evidence"])
    return Decision(
        lease_id=LeaseId(row["lease_id"]),
        user=row["username"],
        server_name=row["server_name"],
        verdict=row["verdict"],
        reason=Sentence.from_json(json.loads(row["reason"])),
        evidence=evidence,
        at=row["at"],
        applied=row["applied"],
    )
