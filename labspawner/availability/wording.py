"""What a card says of an answer, and what its button does. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum

from labspawner.availability.answer import Answer, Elsewhere
from labspawner.availability.words import Blocked
from labspawner.model import Json
from labspawner.pages import i18n
from labspawner.pages.views import Availability, AvailabilityKind, Offered, Texts, chips_for
from labspawner.sentences import Sentence, plain
from labspawner.units import human_bytes


class Go(str, Enum):
    """What the button of a card does: start at once, join the line, or nothing yet."""

    START = "start"
    JOIN = "join"
    WAIT = "wait"

    @property
    def label(self) -> Sentence:
        return LABELS[self]


LABELS: Mapping[Go, Sentence] = {
    Go.START: Sentence("Start"),
    Go.JOIN: Sentence("Join the line"),
    Go.WAIT: Sentence("Not yet"),
}

_KINDS = {
    Blocked.CLOSED_HOURS: AvailabilityKind.CLOSED,
    Blocked.DRAFT: AvailabilityKind.CLOSED,
    Blocked.NOT_YOURS: AvailabilityKind.CLOSED,
    Blocked.PROVIDER_MISSING: AvailabilityKind.CLOSED,
    Blocked.NO_GPU_HERE: AvailabilityKind.CLOSED,
    Blocked.PER_USER_LIMIT: AvailabilityKind.CLOSED,
    Blocked.NEVER_FITS: AvailabilityKind.CLOSED,
    Blocked.PROVIDER_SILENT: AvailabilityKind.UNKNOWN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CardState:
    """The part of a card that changes while it is looked at."""

    availability: Availability
    go: Go
    elsewhere: tuple[Offered, ...] = field(default=())

    def to_json(self, language: str) -> dict[str, Json]:
        """For the script of the page. `html` is escaped, with instants that follow the reader's clock."""
        return {
            "kind": self.availability.kind.value,
            "text": i18n.translate(self.availability.text, language),
            "html": str(i18n.markup(self.availability.text, language)),
            "go": self.go.value,
            "label": i18n.translate(self.go.label, language),
            "elsewhere": [
                {"variant": one.variant, "text": i18n.translate(one.text, language)} for one in self.elsewhere
            ],
        }


def card_state(answer: Answer, now: datetime) -> CardState:
    """What the card says of this answer at `now`."""
    return CardState(
        availability=availability(answer, now),
        go=Go.START if answer.startable else (Go.JOIN if answer.joinable else Go.WAIT),
        elsewhere=tuple(Offered(variant=one.variant, text=start_on(one)) for one in answer.elsewhere),
    )


def availability(answer: Answer, now: datetime) -> Availability:
    """How much is free, or why nothing is, in words."""
    if answer.hold_until is not None and answer.startable:
        return Availability(AvailabilityKind.FREE, Sentence("a place is held for you until {at}", at=answer.hold_until))
    if answer.startable:
        return Availability.of(answer.free_now) if answer.free_now is not None else Availability.unlimited()
    reason = answer.blocked_by[0]
    if reason is Blocked.CLOSED_HOURS:
        return Availability(AvailabilityKind.CLOSED, closed(answer.opens_at, now))
    if not reason.joinable or reason is Blocked.PROVIDER_SILENT or not answer.queues or answer.place is None:
        return Availability(_KINDS.get(reason, AvailabilityKind.FULL), reason.sentence)
    return Availability(AvailabilityKind.FULL, full(answer, reason))


def closed(opens: datetime | None, now: datetime) -> Sentence:
    """When a closed profile opens, by its course's clock; with the zone where that is not this machine's."""
    if opens is None:
        return Blocked.CLOSED_HOURS.sentence
    return Sentence("closed, opens {when}", when=opening(opens, now))


def opening(opens: datetime, now: datetime) -> str:
    """`09:45` today, `2026-11-02 09:45` on other days: as the course wrote it."""
    today = opens.date() == now.astimezone(opens.tzinfo).date()
    when = f"{opens:%H:%M}" if today else f"{opens:%Y-%m-%d %H:%M}"
    here = opens.utcoffset() == opens.astimezone().utcoffset()
    return when if here else f"{when} ({opens.tzinfo})"


def full(answer: Answer, reason: Blocked) -> Sentence:
    """Why there is no place, and what waiting would mean."""
    assert answer.place is not None
    place = ordinal(answer.place)
    if answer.wait_low is not None and answer.wait_high is not None:
        said = Sentence(
            "you would be {place} in line, about {low} to {high} min",
            place=place,
            low=_minutes(answer.wait_low),
            high=_minutes(answer.wait_high),
        )
    elif answer.next_free_at is not None:
        said = Sentence(
            "you would be {place} in line; the next place is free about {at}", place=place, at=answer.next_free_at
        )
    else:
        said = Sentence("you would be {place} in line", place=place)
    if reason is Blocked.IN_LINE:
        return Sentence("others wait: {said}", said=said)
    if reason is Blocked.HELD_BY_OTHERS:
        return Sentence("full, the last place was just taken: {said}", said=said)
    return Sentence("full: {said}", said=said)


def ordinal(number: int) -> Sentence:
    """`1st`, `2nd`, `3rd`, `11th`."""
    if number % 100 not in {11, 12, 13}:
        if number % 10 == 1:
            return Sentence("{number}st", number=number)
        if number % 10 == 2:
            return Sentence("{number}nd", number=number)
        if number % 10 == 3:
            return Sentence("{number}rd", number=number)
    return Sentence("{number}th", number=number)


def start_on(one: Elsewhere) -> Sentence:
    """The button that starts another variant."""
    return Sentence("Start on {what} now", what=name_of(one))


def name_of(one: Elsewhere) -> Sentence | str:
    """What a variant is called: as its course titles it, else by what it has."""
    if one.title:
        return Sentence("{title}", title=Texts(one.title))
    gpu = one.resources.gpu
    if gpu is not None:
        return Sentence("a GPU slice of {memory}", memory=human_bytes(gpu.memory_bytes))
    chips = chips_for(one.resources)[:-1]
    return Sentence("{chip} without a GPU", chip=chips[0]) if chips else plain(one.provider)


def _minutes(span: timedelta) -> int:
    return round(span.total_seconds() / 60)
