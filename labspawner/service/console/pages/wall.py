"""The class wall as values: who is shown in which order, and what a class action would do to whom. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from labspawner.sentences import Sentence
from labspawner.service.console.views import Activity, Can, Tone, WallRow

ORDERS = ("name", "state", "activity", "end")
_NUMBER = re.compile(r"(\d{1,15})", re.ASCII)
_LONG_AGO = datetime.min.replace(tzinfo=timezone.utc)
_FAR_OFF = datetime.max.replace(tzinfo=timezone.utc)
_PLACE = {activity: place for place, activity in enumerate(Activity)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """Which rows are wanted. q: part of a name; state: an `Activity`, empty for all; sort: one of `ORDERS`."""

    q: str = ""
    state: str = ""
    sort: str = "name"

    @classmethod
    def of(cls, q: str, state: str, sort: str) -> Shown:
        """From a query, in which anything may stand."""
        known = {activity.value for activity in Activity}
        return cls(q=q.strip()[:100], state=state if state in known else "", sort=sort if sort in ORDERS else ORDERS[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class VerbView:
    """A class action as a button. loses: whether work that is not saved may be lost by it."""

    key: str
    words: Sentence
    do: Sentence
    loses: bool = False


VERBS = (
    VerbView(key="start", words=Sentence("Start..."), do=Sentence("Start")),
    VerbView(key="extend", words=Sentence("Extend..."), do=Sentence("Extend")),
    VerbView(key="message", words=Sentence("Message..."), do=Sentence("Send")),
    VerbView(key="stop", words=Sentence("Stop..."), do=Sentence("Stop them"), loses=True),
    VerbView(key="reset", words=Sentence("Reset..."), do=Sentence("Reset them"), loses=True),
)


def verbs(can: Can) -> list[VerbView]:
    """The class actions that the reader has."""
    return [one for one in VERBS if getattr(can, one.key)]


def verb(key: str) -> VerbView | None:
    """The class action of this name."""
    return next((one for one in VERBS if one.key == key), None)


def arranged(rows: Iterable[WallRow], shown: Shown) -> list[WallRow]:
    """The rows that are wanted, in the order that is wanted; by name where that leaves a choice."""
    wish = shown.q.casefold()
    found = [
        row for row in rows if wish in row.user.casefold() and (not shown.state or row.activity.value == shown.state)
    ]
    found.sort(key=lambda row: (natural(row.user), row.server))
    if shown.sort == "state":
        found.sort(key=lambda row: _PLACE[row.activity])
    elif shown.sort == "activity":
        found.sort(key=lambda row: row.last_activity or _LONG_AGO, reverse=True)
    elif shown.sort == "end":
        found.sort(key=lambda row: row.ends_at or _FAR_OFF)
    return found


def natural(name: str) -> tuple[tuple[int, str], ...]:
    """Sorts names as people do: student2 before student10."""
    parts = _NUMBER.split(name.casefold())
    return (*((int(part), "") if part.isdecimal() else (-1, part) for part in parts), (-2, name))


def counts(rows: Iterable[WallRow]) -> list[tuple[Activity, int]]:
    """How many rows there are of each kind that there is."""
    found = Counter(row.activity for row in rows)
    return [(activity, found[activity]) for activity in Activity if found[activity]]


def concerned(one: VerbView, rows: Iterable[WallRow]) -> list[WallRow]:
    """Of the chosen rows those that an action can do something to."""
    alive = {Activity.RUNNING, Activity.STARTING, Activity.WAITING}
    fits = {
        "start": {Activity.OFF, Activity.PARKED},
        "stop": alive,
        "extend": {Activity.RUNNING},
        "reset": set(Activity) - {Activity.STOPPING},
        "message": alive,
    }[one.key]
    return [row for row in rows if row.activity in fits]


def confirmation(one: VerbView, chosen: Sequence[WallRow]) -> Mapping[str, Any]:
    """What is said before an action is done: to how many, and what is lost; values of `confirm.html`."""
    rows = concerned(one, chosen)
    names = list(dict.fromkeys(row.user for row in rows))
    count, left_out = len(rows), len(chosen) - len(rows)
    lines: list[Sentence] = []
    if rows:
        lines += _LOSSES.get(one.key, ())
        busy = sum(row.activity is Activity.RUNNING and row.verdict_tone is Tone.OK for row in rows)
        if one.loses and busy:
            several = Sentence("{count} of them are at work just now.", count=busy)
            lines.append(several if busy > 1 else Sentence("One of them is at work just now."))
    if left_out:
        lines.append(_left_out(one, left_out))
    heading = _heading(one, count) if rows else Sentence("There is nobody to do this for")
    if not chosen:
        lines = [Sentence("Tick some students first, then press the button again.")]
    return {"verb": one, "heading": heading, "lines": lines, "names": names, "who": [row.key for row in rows]}


def _heading(one: VerbView, count: int) -> Sentence:
    alone, several = _HEADINGS[one.key]
    return alone if count == 1 else Sentence(several.template, count=count)


_HEADINGS: Mapping[str, tuple[Sentence, Sentence]] = {
    "start": (Sentence("Start a server for one student?"), Sentence("Start a server for {count} students?")),
    "stop": (Sentence("Stop one server?"), Sentence("Stop {count} servers?")),
    "extend": (Sentence("Extend one server?"), Sentence("Extend {count} servers?")),
    "message": (Sentence("Send a message to one student"), Sentence("Send a message to {count} students")),
    "reset": (Sentence("Reset one server?"), Sentence("Reset {count} servers?")),
}
_LOSSES: Mapping[str, tuple[Sentence, ...]] = {
    "stop": (
        Sentence("What is not saved is lost, and programs that run end. Files in the home folder are kept."),
        Sentence("The students read that you stopped their server."),
    ),
    "reset": (
        Sentence(
            "They start again from a clean environment: what is not saved, installed packages, and the disks of virtual "
            "machines are lost for good. Files in the home folder are kept."
        ),
    ),
    "start": (Sentence("One after another, each with the student's own rights. You may close the page meanwhile."),),
    "extend": (Sentence("They are not stopped for being idle before then. Other limits stay."),),
}


def _left_out(one: VerbView, count: int) -> Sentence:
    if one.key == "start":
        several = Sentence("{count} of those you chose run already, so they are left out.", count=count)
        return several if count > 1 else Sentence("One of those you chose runs already, and is left out.")
    several = Sentence("{count} of those you chose have nothing running, so they are left out.", count=count)
    return several if count > 1 else Sentence("One of those you chose has nothing running, and is left out.")
