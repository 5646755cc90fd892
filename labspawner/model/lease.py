"""The records that are kept: leases, why they ended, reservations, decisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from labspawner.model.names import Handle, Json, LeaseId, Phase, ReleaseMode
from labspawner.model.resources import Resources
from labspawner.sentences import Sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """Why a server ended. by: `user`, `culler`, `hub`, `reconciler`, `failure` or an administrator's name."""

    by: str
    reason: Sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The record that a server holds resources. It outlives a hub restart and the hub's own `state`.

    profile_rev, pinned: the profile as it was when the server was started; later edits do not change a running server.
    attempts: how often release was tried since the phase became STOPPING.
    """

    id: LeaseId
    hub_id: str
    user: str
    server_name: str
    provider: str
    profile: str
    profile_rev: str = ""
    pinned: Mapping[str, Json] = field(default_factory=dict)
    phase: Phase = Phase.QUEUED
    handle: Handle | None = None
    url: str | None = None
    reserves: Resources = Resources()
    release_mode: ReleaseMode = ReleaseMode.DESTROY
    created_at: datetime
    phase_at: datetime
    ready_at: datetime | None = None
    ended_at: datetime | None = None
    ending: Ending | None = None
    attempts: int = 0

    def with_(self, **changes: object) -> Lease:
        return replace(self, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """One thing of a list, such as an id or an address, that nobody else may have.

    owner: a lease's id, or another name of whoever holds it; None: it is set aside until `until`, because it cools down or
    for the reason `why`.
    """

    pool: str
    value: str
    owner: str | None
    taken_at: datetime
    until: datetime | None = None
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What the culler decided about one server, and on what evidence; kept so that it can be explained later.

    verdict: `keep` or `cull`. applied: False for a dry run, or when the stop failed (the reason then says so).
    """

    lease_id: LeaseId
    user: str
    server_name: str
    verdict: str
    reason: Sentence
    evidence: Mapping[str, Json] = field(default_factory=dict)
    at: datetime
    applied: bool = True
