"""The administrators' pages: what every provider holds, leases, lines, decisions, the audit log, and doctor's findings."""

from __future__ import annotations

import asyncio
import json
import logging
from asyncio import Future
from collections.abc import AsyncIterator, Mapping
from typing import Any, TypeVar
from urllib.parse import urlencode

from markupsafe import Markup
from pydantic import ValidationError
from tornado.iostream import StreamClosedError
from tornado.web import RequestHandler

from labspawner.courses import Loaded
from labspawner.deadlines import within
from labspawner.doctor import Examination
from labspawner.model import CourseState, LeaseId, Slice
from labspawner.providers.findings import Level
from labspawner.sentences import Sentence
from labspawner.service.console.administration import auditing, leases
from labspawner.service.console.administration import map as capacity_map
from labspawner.service.console.administration.answers import (
    Answer,
    CapacityAnswer,
    ReconcilerAnswer,
    ServerAnswer,
    StateAnswer,
)
from labspawner.service.console.doing import acts, recording
from labspawner.service.console.pages.base import PageHandler
from labspawner.service.console.pages.render import render
from labspawner.service.console.problems import Away, Exists, Missing
from labspawner.service.console.rights import Verb
from labspawner.service.console.sharing import Look
from labspawner.store import AuditRecord
from labspawner.units import human_bytes

log = logging.getLogger(__name__)
A = TypeVar("A", bound=Answer)

OTHER_VERSION = Sentence(
    "The hub answers in a way that this console does not know. Restart the hub, so that both are of one version."
)
NO_LEASE = Sentence("There is no lease {lease} on record.")
OVER = Sentence("This server has ended already. Load the list again.")
NO_REASON = Sentence("Say why: its student reads it.")
ENDED = Sentence("The server of {user} is being ended. Its student reads your reason.")
KINDS: Mapping[str, Sentence] = {
    "interrupted": Sentence("roll back a start that a restart cut off"),
    "release-retry": Sentence("free it once more"),
    "retention": Sentence("delete what was parked for too long"),
    "gone": Sentence("free what is gone"),
    "forgotten": Sentence("stop what the hub does not know"),
    "orphan": Sentence("remove what belongs to nobody"),
}
"""What each kind of action of the reconciler does."""
_MOST_REASON = 300
_DECISIONS = 100
_UNREAD_S = 60.0
_SHARED = frozenset({"state", "capacity"})
"""What many look at: asked once for all of them."""


class AdminPage(PageHandler):
    """A page that only administrators of the hub may open; others do not learn what is on it."""

    tab = ""

    async def prepare(self) -> None:
        await super().prepare()
        if not self._finished and hasattr(self, "caller"):
            self.require(Verb.ADMIN)

    def given(self) -> dict[str, str]:
        """The values of the query, the last of each name."""
        return {name: self.get_query_argument(name, "") for name in self.request.query_arguments}

    async def ask(self, what: str, kind: type[A], part: str = "") -> A:
        """What the hub answers. Raises Away where it does not, or in words that we do not know."""
        shared = self.request.method == "GET" and what in _SHARED
        look = await self.house.facts(what) if shared else Look(await self.house.hub.ask(what))
        try:
            return look.memo.make(kind, lambda: kind.model_validate(look.value[part] if part else look.value))
        except (ValidationError, KeyError, TypeError) as exc:
            log.warning("the hub's answer to %s cannot be read: %s", what, exc)
            raise Away(OTHER_VERSION) from exc

    async def page(self, name: str, **values: Any) -> None:
        """Answer with `admin/<name>.html`; a script that asks for the live part of it gets that alone."""
        shown = {"tab": self.tab, "size": human_bytes, **values}
        if self.get_query_argument("part", "") == "live":
            self.set_header("Content-Type", "application/json")
            self.finish(json.dumps({"html": render(self.frame(), f"admin/{name}_live.html", **shown)}))
        else:
            await self.show(f"admin/{name}.html", **shown, fresh_url=self._fresh())

    async def note(self, verb: str, about: str = "") -> None:
        """Put on record what was just done."""
        await self.house.store.audit.add(recording.entry(self.house, self.caller, verb, about=about))

    def _fresh(self) -> str:
        given = [(name, value) for name, value in self.given().items() if name not in {"part", "lang", "done"}]
        return f"{self.request.path}?{urlencode([*given, ('part', 'live')])}"


class CapacityHandler(AdminPage):
    """Provider by provider: cards and their slices, machines and their servers."""

    tab = "capacity"

    async def get(self) -> None:
        capacity = await self.ask("capacity", CapacityAnswer)
        state = await self.ask("state", StateAnswer)
        providers = capacity_map.view(capacity, state.servers, await self._asked())
        await self.page("capacity", providers=providers, taken_at=capacity.taken_at, width=capacity_map.WIDTH)

    async def _asked(self) -> dict[str, set[Slice]]:
        """The slices that profiles in force ask of each provider."""
        await self.house.read_files()
        courses = [*self.house.catalog.courses()]
        for written in await self.house.store.coursebook.all([CourseState.PUBLISHED]):
            found = await self.house.parsed(written)
            courses += [found.course] if isinstance(found, Loaded) else []
        asked: dict[str, set[Slice]] = {}
        for variant in (one for course in courses for profile in course.profiles for one in profile.variants):
            if variant.gpu is not None:
                wanted = Slice(memory_bytes=variant.gpu.memory, compute_pct=variant.gpu.cores)
                asked.setdefault(variant.provider, set()).add(wanted)
        return asked


class LeasesHandler(AdminPage):
    """All live leases, or those that somebody looks for."""

    tab = "leases"

    async def get(self) -> None:
        given = self.given()
        wish = leases.Wish.of(given)
        state = await self.ask("state", StateAnswer)
        found = leases.shown(state.servers, wish)
        await self.page(
            "leases",
            rows=[(server, leases.age(server, self.house.now()), self._stuck(server)) for server in found],
            total=len(state.servers),
            wish=wish,
            phases=leases.PHASES,
            marks=leases.MARKS,
            holds=leases.holds,
            providers=sorted({server.provider for server in state.servers}),
            courses=sorted({server.course for server in state.servers if server.course}),
            done=Sentence(ENDED.template, user=given["done"]) if given.get("done") else None,
        )

    def _stuck(self, server: ServerAnswer) -> bool:
        return leases.stuck(server, self.house.now())


class LeaseHandler(AdminPage):
    """One lease: what it holds, where, what was decided about it; and the form that ends it."""

    tab = "leases"

    async def get(self, lease_id: str) -> None:
        await self.lease(lease_id)

    async def lease(self, lease_id: str, *, wrong: Sentence | None = None, reason: str = "") -> None:
        state = await self.ask("state", StateAnswer)
        server = next((one for one in state.servers if one.lease == lease_id), None)
        on_record = await self.house.store.get(LeaseId(lease_id))
        if on_record is None or on_record.hub_id != self.house.settings.hub_id:
            raise Missing(Sentence(NO_LEASE.template, lease=lease_id[:40]))
        decisions = await self.house.store.decisions(hub_id=on_record.hub_id, lease_id=on_record.id, limit=_DECISIONS)
        await self.page(
            "lease",
            server=server,
            lease=on_record,
            handle=leases.summary(on_record.handle.data if on_record.handle else None),
            decisions=decisions,
            phases=leases.PHASES,
            marks=leases.MARKS,
            holds=leases.holds,
            wrong=wrong,
            reason=reason,
            most=_MOST_REASON,
        )


class EndHandler(LeaseHandler):
    """Ends a server for a reason that its student reads. The hub decides, by its own knowledge of who asks."""

    async def get(self, lease_id: str) -> None:
        self.go(f"admin/leases/{lease_id}")

    async def post(self, lease_id: str) -> None:
        reason = " ".join(self.get_body_argument("reason", "").split())[:_MOST_REASON]
        if not reason:
            self.set_status(422)
            await self.lease(lease_id, wrong=NO_REASON)
            return
        state = await self.ask("state", StateAnswer)
        server = next((one for one in state.servers if one.lease == lease_id), None)
        if server is None:
            raise Exists(OVER)
        await acts.act(
            self.house,
            self.caller,
            Verb.STOP,
            user=server.user,
            server=server.server,
            lease=server.lease,
            course=server.course,
            args={"reason": reason},
        )
        self.go(f"admin/leases?{urlencode({'done': server.user})}")


class LinesHandler(AdminPage):
    """Who waits for what, and which places are held for somebody who clicked a moment ago."""

    tab = "lines"

    async def get(self) -> None:
        state = await self.ask("state", StateAnswer)
        await self.page("lines", lines=[line for line in state.lines if line.waiting], holds=state.holds)


class DecisionsHandler(AdminPage):
    """What the reconciler would do now, and what the culler decided, on what evidence."""

    tab = "decisions"

    async def get(self) -> None:
        user = self.given().get("user", "").strip()
        decisions = await self.house.store.decisions(
            hub_id=self.house.settings.hub_id, user=user or None, limit=_DECISIONS
        )
        await self.page(
            "decisions",
            reconciler=await self.ask("reconciler", ReconcilerAnswer, "reconciler"),
            decisions=decisions,
            kinds=KINDS,
            user=user,
        )


class AuditHandler(AdminPage):
    """Who did what to whom, when, and from where."""

    tab = "audit"

    async def get(self) -> None:
        given = self.given()
        query, wrong = auditing.query_of(given)
        found: list[AuditRecord] = []
        before = None
        if not wrong:
            found, before = await auditing.page(self.house.store.audit, query)
        asked = {name: value for name, value in given.items() if value and name not in {"before", "lang", "part"}}
        await self.show(
            "admin/audit.html",
            tab=self.tab,
            records=found,
            details=_details,
            form=given,
            wrong=wrong,
            asked=urlencode(asked),
            older=urlencode({**asked, "before": before}) if before else "",
        )


def _details(record: AuditRecord) -> str:
    """The detail of an entry on one line."""
    return json.dumps(record.entry.detail, ensure_ascii=False) if record.entry.detail else ""


class AuditExportHandler(AdminPage):
    """All entries that were asked for, as a file; it is on record that somebody took it."""

    async def get(self, kind: str) -> None:
        query, wrong = auditing.query_of(self.given())
        if wrong:
            raise Exists(next(iter(wrong.values())), status=400, kind="bad-request")
        await self.note("audit.export", kind)
        audit = self.house.store.audit
        pieces = auditing.as_csv(audit, query) if kind == "csv" else auditing.as_json(audit, query)
        self.set_header("Content-Type", "text/csv; charset=UTF-8" if kind == "csv" else "application/json")
        self.set_header("Content-Disposition", f'attachment; filename="labspawner-audit.{kind}"')
        await self._stream(pieces)

    async def _stream(self, pieces: AsyncIterator[str]) -> None:
        """Send piece by piece, no faster than they are taken; who hangs up, or takes nothing for a minute, gets no more."""
        try:
            async for piece in pieces:
                self.write(piece)
                await within(_UNREAD_S, _taken(self.flush()))
        except (StreamClosedError, asyncio.TimeoutError):
            if (stream := getattr(self.request.connection, "stream", None)) is not None:
                stream.close()
            return
        self.finish()


class DoctorHandler(AdminPage):
    """What `labspawner doctor` finds; a button begins a new examination, which the hub makes beside its work."""

    tab = "doctor"

    async def get(self) -> None:
        answer = await self.house.hub.ask("doctor")
        last = _examination(answer)
        levels: Mapping[Level, str] = {
            Level.OK: "ok",
            Level.NOTE: "off",
            Level.WARNING: "soon",
            Level.ERROR: "urgent",
        }
        await self.page("doctor", last=last, marks=levels, Level=Level, lang_of=lang_of)

    async def post(self) -> None:
        await self.house.hub.tell("doctor", {})
        await self.note("doctor.run")
        self.go("admin/doctor")


def lang_of(said: str) -> Markup:
    """The attribute that says that a host's own words are English, whatever the page is; nothing for words of ours."""
    return Markup("") if isinstance(said, Sentence) and said.template != "{text}" else Markup(' lang="en"')


async def _taken(sent: Future[None]) -> None:
    await sent


def _examination(answer: Any) -> Examination | None:
    try:
        found = answer["examination"]
        return Examination.from_json(found) if found is not None else None
    except (KeyError, TypeError, ValueError) as exc:
        raise Away(OTHER_VERSION) from exc


_LEASE = r"([A-Za-z0-9_-]{1,64})"
ROUTES: list[tuple[str, type[RequestHandler]]] = [
    (r"admin/?", CapacityHandler),
    (r"admin/leases", LeasesHandler),
    (rf"admin/leases/{_LEASE}", LeaseHandler),
    (rf"admin/leases/{_LEASE}/end", EndHandler),
    (r"admin/lines", LinesHandler),
    (r"admin/decisions", DecisionsHandler),
    (r"admin/audit", AuditHandler),
    (r"admin/audit\.(csv|json)", AuditExportHandler),
    (r"admin/doctor", DoctorHandler),
]
"""Routes of the administrators' pages: (pattern below the prefix, handler)."""
