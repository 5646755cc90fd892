"""The answers of the hub's inner API that administrators' pages are made of, checked as they come in."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from labspawner.sentences import Sentence

Texts = dict[str, str]
"""A text by language."""


class Answer(BaseModel):
    """Keys that a newer hub adds are passed over; without a key that a page needs comes a ValidationError."""

    model_config = ConfigDict(frozen=True, extra="ignore", arbitrary_types_allowed=True)


Said = Annotated[Sentence, BeforeValidator(Sentence.from_json)]


class SliceAnswer(Answer):
    """A share of a card. pretended: there is no such card, and nothing is computed on it."""

    memory_bytes: int
    compute_pct: int
    pretended: bool = False
    courtesy: bool = False


class ReservesAnswer(Answer):
    """What a lease holds."""

    cpu: float | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    gpu: SliceAnswer | None = None


class EndingAnswer(Answer):
    """Why a server is being ended."""

    by: str
    reason: Texts = {}


class ServerAnswer(Answer):
    """A live lease in `GET state`. slice_: what it was given; its reserves are what it asked for."""

    lease: str
    user: str
    server: str = ""
    course: str = ""
    profile: str = ""
    profile_title: Texts = {}
    phase: str
    phase_at: datetime
    provider: str
    host: str | None = None
    card: str | None = None
    reserves: ReservesAnswer = ReservesAnswer()
    slice: SliceAnswer | None = None
    created_at: datetime
    ready_at: datetime | None = None
    last_activity: datetime | None = None
    verdict: str | None = None
    reason: Texts | None = None
    ends_at: datetime | None = None
    ending: EndingAnswer | None = None
    handle: Mapping[str, Any] | None = None


class WaitingAnswer(Answer):
    """One who waits in a line."""

    user: str
    server: str = ""
    profile: str = ""
    place: int = 0
    low_s: float | None = None
    high_s: float | None = None
    since: datetime | None = None


class LineAnswer(Answer):
    """The line before one provider. gpu: of those who want a slice."""

    provider: str
    gpu: bool = False
    waiting: tuple[WaitingAnswer, ...] = ()


class HoldAnswer(Answer):
    """A place that somebody clicked on a moment ago."""

    user: str
    profile: str = ""
    provider: str = ""
    until: datetime


class StateAnswer(Answer):
    """`GET state`."""

    taken_at: datetime
    servers: tuple[ServerAnswer, ...] = ()
    lines: tuple[LineAnswer, ...] = ()
    holds: tuple[HoldAnswer, ...] = ()


class CardAnswer(Answer):
    """One card, or one place of it, with the ids of the leases on it."""

    uuid: str
    memory_total_bytes: int
    memory_free_bytes: int
    compute_total_pct: int = 100
    compute_free_pct: int = 100
    slots_free: int | None = None
    mig: bool | None = None
    leases: tuple[str, ...] = ()


class HostAnswer(Answer):
    """One machine. leases: ids of all that run on it."""

    name: str
    servers_total: int | None = None
    servers_free: int | None = None
    cpu_total: float | None = None
    cpu_free: float | None = None
    memory_total_bytes: int | None = None
    memory_free_bytes: int | None = None
    cards: tuple[CardAnswer, ...] = ()
    leases: tuple[str, ...] = ()


class ProviderAnswer(Answer):
    """One provider. error: why it does not answer. unplaced: ids of leases of which it is not known where they are."""

    name: str
    error: Texts | None = None
    taken_at: datetime | None = None
    pretended: bool = False
    hosts: tuple[HostAnswer, ...] = ()
    unplaced: tuple[str, ...] = ()


class CapacityAnswer(Answer):
    """`GET capacity`."""

    taken_at: datetime
    providers: tuple[ProviderAnswer, ...] = ()


class ActionAnswer(Answer):
    """What a pass of the reconciler would do."""

    kind: str
    provider: str
    lease: str = ""
    user: str = ""
    server: str = ""
    mode: str = ""
    reason: Said


class SuspectAnswer(Answer):
    """What looks wrong, and has to be seen again before anything is done."""

    kind: str
    key: str
    since: datetime
    count: int


class ReconcilerAnswer(Answer):
    """`GET reconciler`. braked: what it would not do because it is too much at once."""

    at: datetime
    actions: tuple[ActionAnswer, ...] = ()
    braked: tuple[ActionAnswer, ...] = ()
    suspects: tuple[SuspectAnswer, ...] = ()
    interval_s: float = 60.0
