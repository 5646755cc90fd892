"""What administrators ask: the audit log, and what the hub knows of its hosts and servers."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import ClassVar

from labspawner.sentences import Sentence
from labspawner.service.console.api import models
from labspawner.service.console.api.base import ApiHandler
from labspawner.service.console.api.route import Operation, Query, Route
from labspawner.service.console.problems import Problem
from labspawner.service.console.rights import ADMIN, Verb

_TEXTS = ("actor", "subject", "course", "verb")
MOST_ROWS = 1000


class AuditHandler(ApiHandler):
    """The audit log."""

    async def get(self) -> None:
        self.require(Verb.ADMIN)
        texts = {name: value for name in _TEXTS if (value := self.get_query_argument(name, "")[:255])}
        found = await self.house.store.audit.search(
            **texts,
            since=self._instant("since"),
            until=self._instant("until"),
            before=self.number("before", 0, most=2**53) or None,
            limit=self.number("limit", 200, most=MOST_ROWS),
        )
        rows = [
            models.AuditRow(
                id=record.id,
                at=record.entry.at,
                actor=record.entry.actor,
                actor_ip=record.entry.actor_ip,
                verb=record.entry.verb,
                course=record.entry.course,
                subject=record.entry.subject,
                object=record.entry.object,
                detail=dict(record.entry.detail),
                result=record.entry.result,
            )
            for record in found
        ]
        self.give(models.Audit(entries=rows))

    def _instant(self, name: str) -> datetime | None:
        given = self.get_query_argument(name, "")
        if not given:
            return None
        try:
            found = datetime.fromisoformat(given.replace("Z", "+00:00"))
            return (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).astimezone(timezone.utc)
        except (ValueError, OverflowError) as exc:
            raise Problem(Sentence("{name} is an instant such as 2026-11-22T10:00:00Z.", name=name)) from exc


class FactsHandler(ApiHandler):
    """What the hub's inner API says, for administrators. asked: its path there."""

    asked: ClassVar[str]

    async def get(self) -> None:
        self.require(Verb.ADMIN)
        self.give(models.HubFacts.model_validate(await self.house.hub.ask(self.asked)))


class CapacityHandler(FactsHandler):
    asked = "capacity"


class StateHandler(FactsHandler):
    asked = "state"


class DecisionsHandler(FactsHandler):
    asked = "decisions"


def _facts(path: str, handler: type[FactsHandler], name: str, about: str) -> Route:
    return Route(
        path=path,
        handler=handler,
        operations={"get": Operation(name=name, about=about, scope=ADMIN, gives=models.HubFacts)},
    )


_WHEN = {"type": "string", "format": "date-time"}

ROUTES = (
    Route(
        path="audit",
        handler=AuditHandler,
        operations={
            "get": Operation(
                name="searchAudit",
                about="Who did what to whom, when, from where; newest first.",
                scope=ADMIN,
                gives=models.Audit,
                query=(
                    *(Query(name=name, about=f"Only this {name}.") for name in _TEXTS),
                    Query(name="since", about="From this instant on.", schema=_WHEN),
                    Query(name="until", about="Before this instant.", schema=_WHEN),
                    Query(
                        name="before",
                        about="Only entries with a smaller id, which is how to read on.",
                        schema={"type": "integer", "minimum": 1},
                    ),
                    Query(
                        name="limit",
                        about="How many at most.",
                        schema={"type": "integer", "minimum": 1, "maximum": MOST_ROWS, "default": 200},
                    ),
                ),
            )
        },
    ),
    _facts("capacity", CapacityHandler, "readCapacity", "What providers have, per host and per card."),
    _facts("state", StateHandler, "readState", "All servers, lines and holds."),
    _facts("decisions", DecisionsHandler, "readDecisions", "What was decided about servers, and why."),
)
