"""One page for an administrator: how servers are kept apart here, and what each of them uses now."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

from jupyterhub.handlers import BaseHandler
from jupyterhub.scopes import needs_scope
from tornado import web

from labspawner.errors import LabError
from labspawner.model import HeldSlice, Lease, LeaseId, Phase
from labspawner.pages.home.gather import Use, texts, used_of
from labspawner.pages.home.gpu import Badge, badge_of
from labspawner.pages.home.words import Meter, meters_of
from labspawner.sentences import Sentence

log = logging.getLogger(__name__)

_PHASES: Mapping[Phase, Sentence] = {
    Phase.QUEUED: Sentence("Waiting"),
    Phase.LAUNCHING: Sentence("Starting"),
    Phase.READY: Sentence("Running"),
    Phase.STOPPING: Sentence("Stopping"),
    Phase.PARKED: Sentence("Parked"),
}


@runtime_checkable
class Sandboxing(Protocol):
    """A provider that keeps servers apart by itself, and can say how well."""

    async def describe_sandbox(self) -> Sequence[Sentence]: ...


class Office(Protocol):
    """What this page asks of the engine; it stands in the hub's settings as `labspawner`."""

    @property
    def providers(self) -> Mapping[str, object]: ...
    def all_leases(self) -> Sequence[Lease]: ...
    async def uses(self, leases: Sequence[Lease]) -> Mapping[LeaseId, Use]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderNote:
    """What a provider says of its sandbox; nothing where it has none of its own to speak of."""

    name: str
    lines: tuple[Sentence, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRow:
    """One server of anybody. title: text by language. badge: of its GPU slice."""

    user: str
    server_name: str
    title: Mapping[str, str]
    provider: str
    state: Sentence
    since: datetime
    meters: tuple[Meter, ...] = ()
    badge: Badge | None = None


async def provider_notes(office: Office) -> list[ProviderNote]:
    """How each provider keeps servers apart, in its own words. One that cannot tell says why."""
    notes = []
    for name, provider in sorted(office.providers.items()):
        lines: Sequence[Sentence] = ()
        if isinstance(provider, Sandboxing):
            try:
                lines = await provider.describe_sandbox()
            except LabError as exc:
                log.warning("provider=%s cannot describe its sandbox: %s", name, exc)
                lines = (exc.message,)
        notes.append(ProviderNote(name=name, lines=tuple(lines)))
    return notes


async def server_rows(office: Office) -> list[ServerRow]:
    """All servers that hold something, by user and name; what each uses where its provider can tell."""
    leases = sorted(office.all_leases(), key=lambda lease: (lease.user, lease.server_name, lease.created_at))
    uses = await office.uses([lease for lease in leases if lease.phase is Phase.READY])
    return [
        ServerRow(
            user=lease.user,
            server_name=lease.server_name,
            title=texts(lease.pinned.get("title")) or {"en": lease.profile},
            provider=lease.provider,
            state=_PHASES.get(lease.phase, Sentence("Not running")),
            since=lease.phase_at,
            meters=meters_of(used_of(uses[lease.id])) if lease.id in uses else (),
            badge=badge_of(held) if (held := HeldSlice.of(lease.handle)) is not None else None,
        )
        for lease in leases
    ]


class AdminHandler(BaseHandler):  # type: ignore[misc]
    """Sandbox and usage, for administrators; 404 where the hub's servers are another spawner's."""

    @web.authenticated
    @needs_scope("admin-ui")  # type: ignore[untyped-decorator]
    async def get(self) -> None:
        office: Any = self.users.settings.get("labspawner")  # not the handler's own, which are a copy
        if office is None:
            raise web.HTTPError(404)
        notes, rows = await provider_notes(office), await server_rows(office)
        self.finish(await self.render_template("labspawner/admin.html", notes=notes, rows=rows))
