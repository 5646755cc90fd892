"""Brings together what the hub, the leases and the providers know of one student's servers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any, Protocol

from labspawner.courses import Snapshot, field_name, parse_choice
from labspawner.culling import ServerView
from labspawner.errors import LabError, NotAllowed, UnknownLease
from labspawner.model import Evidence, HeldSlice, Json, Lease, LeaseId, Phase, Usage
from labspawner.pages.handlers import progress_so_far
from labspawner.pages.home.facts import Again, Extension, LastEnd, Said, ServerFacts, ServerStatus, Used
from labspawner.pages.home.outlook import inside_of, outlook_of
from labspawner.pages.home.words import ServerCard, card
from labspawner.pages.views import Notice, Offered
from labspawner.providers.departures import departure_of
from labspawner.providers.screens import offers_screen
from labspawner.sentences import Sentence


class Use(Protocol):
    """What a server uses, and how many cores it keeps busy; None: not known yet."""

    @property
    def usage(self) -> Usage: ...
    @property
    def cores(self) -> float | None: ...


class Desk(Protocol):
    """What the home page asks of the engine; it stands in the hub's settings as `labspawner`."""

    @property
    def providers(self) -> Mapping[str, object]: ...
    def leases(self, user: str, server_name: str) -> Sequence[Lease]: ...
    async def uses(self, leases: Sequence[Lease]) -> Mapping[LeaseId, Use]: ...
    async def known(self, leases: Sequence[Lease]) -> Mapping[LeaseId, Evidence]: ...
    async def extension(self, lease: Lease, now: datetime) -> Extension | None: ...
    async def extend(self, lease: Lease, now: datetime) -> None: ...
    async def discard(self, lease_id: LeaseId) -> None: ...
    def snapshot(self) -> Snapshot: ...
    def notice(self, user_name: str, server_name: str) -> Notice | None: ...
    def profile_title(self, key: str) -> Mapping[str, str]: ...
    async def instead(self, user_name: str, server_name: str) -> Sequence[Offered]: ...
    async def elsewhere(self, user: Any, server_name: str, options: Mapping[str, Any]) -> Sequence[Offered]: ...
    def typical_start_s(self, profile: str, provider: str) -> float | None: ...
    def messages_of(self, lease: Lease, now: datetime) -> Sequence[Said]: ...


class NoDesk:
    """Knows nothing: for a hub whose servers are another spawner's."""

    @property
    def providers(self) -> Mapping[str, object]:
        return {}

    def leases(self, user: str, server_name: str) -> Sequence[Lease]:
        return ()

    async def uses(self, leases: Sequence[Lease]) -> Mapping[LeaseId, Use]:
        return {}

    async def known(self, leases: Sequence[Lease]) -> Mapping[LeaseId, Evidence]:
        return {}

    async def extension(self, lease: Lease, now: datetime) -> Extension | None:
        return None

    async def extend(self, lease: Lease, now: datetime) -> None:
        raise NotAllowed(Sentence("The profile of this server offers no extension."))

    async def discard(self, lease_id: LeaseId) -> None:
        raise UnknownLease(Sentence("This server is not parked any more. Load the page again."))

    def snapshot(self) -> Snapshot:
        return Snapshot(())

    def notice(self, user_name: str, server_name: str) -> Notice | None:
        return None

    def profile_title(self, key: str) -> Mapping[str, str]:
        return {}

    async def instead(self, user_name: str, server_name: str) -> Sequence[Offered]:
        return ()

    async def elsewhere(self, user: Any, server_name: str, options: Mapping[str, Any]) -> Sequence[Offered]:
        return ()

    def typical_start_s(self, profile: str, provider: str) -> float | None:
        return None

    def messages_of(self, lease: Lease, now: datetime) -> Sequence[Said]:
        return ()


def desk_of(user: Any) -> Desk:
    """The engine's desk, which stands in the hub's settings."""
    found: Desk | None = (getattr(user, "settings", None) or {}).get("labspawner")
    return NoDesk() if found is None else found


async def cards_of(user: Any, desk: Desk, *, language: str, now: datetime) -> list[ServerCard]:
    """What the home page says of each server of a JupyterHub user."""
    return [card(facts, now) for facts in await servers_of(user, desk, language=language, now=now)]


async def servers_of(user: Any, desk: Desk, *, language: str, now: datetime) -> list[ServerFacts]:
    """Every server of a JupyterHub user that there is something to say of; the default one first, and always.

    language: of the stages of a start, which JupyterHub carries as text.
    """
    spawners = list(_spawners(user))
    leases = {spawner.name: desk.leases(user.name, spawner.name) for spawner in spawners}
    ready = [lease for found in leases.values() for lease in found if lease.phase is Phase.READY]
    uses, known = await desk.uses(ready), await desk.known(ready)
    facts: list[ServerFacts] = []
    for spawner in spawners:
        parked = [lease for lease in leases[spawner.name] if lease.phase is Phase.PARKED]
        active = next((lease for lease in leases[spawner.name] if lease.phase is not Phase.PARKED), None)
        here = await _facts(user, spawner, active, desk, language=language, now=now)
        if active is not None and here.status is ServerStatus.RUNNING:
            here = replace(
                here, **await _running(spawner, active, desk, uses.get(active.id), known.get(active.id), now)
            )
        if here.status is not ServerStatus.OFF or not parked:
            facts.append(here)
        facts.extend(_parked(user, spawner, lease, here, desk, now) for lease in parked)
    return [one for one in facts if one.name == "" or one.status is not ServerStatus.OFF or one.last_end]


def _spawners(user: Any) -> Iterator[Any]:
    """All servers that JupyterHub knows; one that runs even where named servers are not allowed any more."""
    yield user.spawner
    listed = {spawner.name: spawner for spawner in user.all_spawners(include_default=False)}
    running = {name: spawner for name, spawner in user.spawners.items() if name and spawner.active}
    for _, spawner in sorted({**listed, **running}.items()):
        yield spawner


async def _facts(
    user: Any, spawner: Any, lease: Lease | None, desk: Desk, *, language: str, now: datetime
) -> ServerFacts:
    """What there is to say of a server whether it runs or not."""
    status = _status(spawner, lease)
    options = last_options(spawner)
    off = status is ServerStatus.OFF
    stages = await progress_so_far(spawner, language) if status is ServerStatus.STARTING else []
    return ServerFacts(
        name=spawner.name,
        label=getattr(spawner, "display_name", "") or spawner.name,
        status=status,
        title={} if off else _title(desk, lease, options),
        course={} if off or lease is None else texts(lease.pinned.get("course_title")),
        since=_since(spawner, lease, status),
        held=None if off or lease is None else HeldSlice.of(lease.handle),
        stage=stages[-1]["message"] if stages else None,
        percent=stages[-1]["progress"] if stages else 0,
        last_end=_last_end(desk.notice(user.name, spawner.name)),
        again=again_of(user, desk, options, now) if off else None,
        desktop=lease is not None and offers_screen(desk.providers.get(lease.provider), lease),
    )


async def _running(
    spawner: Any, lease: Lease, desk: Desk, use: Use | None, known: Evidence | None, now: datetime
) -> dict[str, Any]:
    """What there is to say of a running server beside that: how long it goes on, what it uses and does."""
    view = ServerView(
        user=lease.user,
        server_name=lease.server_name,
        started=_aware(spawner.orm_spawner.started) or lease.ready_at,
        last_activity=_aware(spawner.orm_spawner.last_activity),
        lease_id=lease.id,
        known=known or Evidence(),
    )
    departure = await departure_of(desk.providers.get(lease.provider), lease)
    return {
        "leaves_at": departure.at if departure is not None else None,
        "outlook": replace(outlook_of(view, lease.pinned, now), extension=await desk.extension(lease, now)),
        "used": used_of(use) if use else None,
        "inside": inside_of(view.known),
        "said": tuple(desk.messages_of(lease, now)),
    }


def _status(spawner: Any, lease: Lease | None) -> ServerStatus:
    """The hub's word; but a server that is gone, and that the hub has not noticed yet, is being cleaned up."""
    if spawner.pending == "stop" or (spawner.active and lease and lease.phase is Phase.STOPPING):
        return ServerStatus.STOPPING
    if spawner.pending == "spawn":
        return ServerStatus.STARTING
    return ServerStatus.RUNNING if spawner.active else ServerStatus.OFF


def _since(spawner: Any, lease: Lease | None, status: ServerStatus) -> datetime | None:
    started = _aware(getattr(getattr(spawner, "orm_spawner", None), "started", None))
    if status is ServerStatus.STOPPING:
        return lease.phase_at if lease and lease.phase is Phase.STOPPING else None
    if lease is None:
        return started
    return (lease.ready_at if status is ServerStatus.RUNNING else lease.created_at) or started


def _parked(user: Any, spawner: Any, lease: Lease, here: ServerFacts, desk: Desk, now: datetime) -> ServerFacts:
    """What is kept of a server that was stopped; the same profile resumes it."""
    cull = lease.pinned.get("cull")
    retain_s = cull.get("retain_s") if isinstance(cull, dict) else None
    options = lease.pinned.get("options")
    free = here.status is ServerStatus.OFF
    return ServerFacts(
        name=spawner.name,
        label=here.label,
        status=ServerStatus.PARKED,
        title=_title(desk, lease, {}),
        course=texts(lease.pinned.get("course_title")),
        since=lease.phase_at,
        last_end=here.last_end if free else None,
        again=again_of(user, desk, {"profile": lease.profile, "options": options}, now) if free else None,
        parked=lease.id,
        free=free,
        kept_until=lease.phase_at + timedelta(seconds=retain_s) if isinstance(retain_s, int | float) else None,
    )


def again_of(user: Any, desk: Desk, options: Mapping[str, Any], now: datetime) -> Again | None:
    """The last choice as a form would post it; None where nothing was started yet, or it is not the user's any more."""
    key = options.get("profile")
    if not isinstance(key, str) or not key:
        return None
    groups = frozenset(group.name for group in user.groups)
    title = desk.profile_title(key) or {"en": key}
    try:
        choice = parse_choice(options, desk.snapshot(), groups=groups, admin=bool(user.admin), now=now)
    except LabError as exc:
        return Again(title=title, refused=exc.message) if desk.profile_title(key) else None
    fields = [("profile", choice.profile_key)]
    fields += [(field_name(choice.course.course, choice.profile.slug, name), v) for name, v in choice.options.items()]
    return Again(title=dict(choice.profile.title), fields=tuple(fields))


def last_options(spawner: Any) -> Mapping[str, Any]:
    """What was asked for last: a Spawner object is dropped after each stop, its row in the database stays."""
    for holder in (spawner, getattr(spawner, "orm_spawner", None)):
        options = getattr(holder, "user_options", None)
        if isinstance(options, Mapping) and options:
            return options
    return {}


def _title(desk: Desk, lease: Lease | None, options: Mapping[str, Any]) -> Mapping[str, str]:
    """What the server runs, as its course called it at the start; its key where there is no more."""
    pinned = texts(lease.pinned.get("title")) if lease else {}
    key = lease.profile if lease else options.get("profile")
    return pinned or (desk.profile_title(key) or {"en": key} if isinstance(key, str) and key else {})


def used_of(use: Use) -> Used:
    """What a provider said of a server's usage, as the pages show it."""
    usage = use.usage
    return Used(
        memory_bytes=usage.memory_bytes,
        memory_limit_bytes=usage.memory_limit_bytes,
        cores=use.cores,
        cores_limit=usage.cpu_limit,
        measuring=use.cores is None and usage.cpu_s is not None,
        disk_bytes=usage.disk_bytes,
        disk_limit_bytes=usage.disk_limit_bytes,
        gpu=usage.gpu,
    )


def _last_end(notice: Notice | None) -> LastEnd | None:
    return LastEnd(title=notice.profile_title, ending=notice.ending, at=notice.at) if notice else None


def texts(value: Json) -> dict[str, str]:
    """Text by language, as a lease pins it; empty where there is none."""
    return {str(key): str(text) for key, text in value.items()} if isinstance(value, dict) else {}


def _aware(moment: datetime | None) -> datetime | None:
    """JupyterHub's database holds UTC without saying so."""
    return moment.replace(tzinfo=timezone.utc) if moment is not None and moment.tzinfo is None else moment
