"""Opening a student's server, with their consent: asked here, agreed to on the student's home page, and over by itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from labspawner.sentences import Sentence
from labspawner.service.console import words
from labspawner.service.console.doing.acts import tell
from labspawner.service.console.house import House
from labspawner.service.console.problems import Away
from labspawner.service.console.rights import Caller, Verb


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """Where it stands. state: `asked` or `open`. path: of the server on the hub's host; empty until they agree."""

    state: str
    sentence: Sentence
    until: datetime | None = None
    path: str = ""


async def ask(house: House, caller: Caller, slug: str, user: str, *, server: str = "") -> Visit:
    """Ask somebody of the course to let the caller in, or say until when they did; safe to repeat. Raises Refused, and
    Problem with the hub's sentence, for example where nothing runs."""
    answer = await tell(house, caller, Verb.VISIT, user=user, server=server, course=slug)
    visit = answer.get("visit")
    if not isinstance(visit, dict):
        raise Away(words.HUB_AWAY)
    return Visit(
        state=str(visit.get("state")),
        sentence=Sentence.from_json(answer["sentence"]),
        until=datetime.fromisoformat(visit["until"]) if visit.get("until") else None,
        path=str(visit.get("path") or ""),
    )
