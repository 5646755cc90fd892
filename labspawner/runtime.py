"""Everything a hub process has one of: the engine, the courses, the settings. Kept in the hub's tornado settings."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from datetime import datetime, timezone
from typing import Any

from jupyterhub import orm
from traitlets.config import Config

from labspawner.availability import Availability, Viewer
from labspawner.availability.streams import People, Streams
from labspawner.availability.wording import start_on
from labspawner.config import Labspawner, Settings, course_of_profile_list, open_providers
from labspawner.coursefeed import CourseFeed
from labspawner.courses import Catalog, Snapshot, parse_choice
from labspawner.errors import LabError
from labspawner.evidence import EvidenceBook, Sampler
from labspawner.evidence.hubfacts import HubFactsTable
from labspawner.evidence.messages import Messages
from labspawner.lifecycle import Engine, EngineSettings, Notice
from labspawner.lifecycle.holds import Hold
from labspawner.lifecycle.usages import Usages, Use
from labspawner.model import Evidence, Feature, Lease, LeaseId
from labspawner.ordering import order_for
from labspawner.pages.home.facts import Extension, Said
from labspawner.pages.home.visits import Visits
from labspawner.pages.views import Offered
from labspawner.reconciler import Rules
from labspawner.rounds import Rounds
from labspawner.store import AuditEntry, Store

log = logging.getLogger(__name__)

KEY = "labspawner"
"""Where the runtime stands in the hub's tornado settings; the templates look there too."""


class Runtime:
    """Built from the configuration, once per hub. It is the `Desk` of the pages: they ask nothing but this."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        catalog: Catalog,
        evidence: EvidenceBook,
        usages: Usages,
        store: Store,
        people: Callable[[Collection[str]], People] = lambda _names: {},
        db: Callable[[], Any] = lambda: None,
    ) -> None:
        self.settings = settings
        self.store = store
        self.engine = engine
        self.catalog = catalog
        self.evidence = evidence
        self.usages = usages
        self.sampler = Sampler(
            evidence,
            leases=engine.book.all,
            uses=usages.of,
            reporting=[name for name, provider in engine.providers.items() if Feature.REPORTS in provider.features],
            interval_s=settings.usage_interval_s,
        )
        self.availability = Availability(engine, self.courses, _utcnow, ends=evidence.ends)
        self.streams = Streams(
            self.availability, engine.book, room_changed=engine.room_changed, people=people, clock=_utcnow
        )
        self.visits = Visits(db, live=engine.book.get, note=self._note_visit)
        self._visiting: asyncio.Task[None] | None = None
        self.rounds = Rounds(engine.look, lambda server: engine.sees_running(server.user.name, server.name))
        self._sampling: asyncio.Task[None] | None = None
        self._feed = CourseFeed(store, catalog)
        self._refresh_began = float("-inf")
        self._refreshing: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, hub_settings: MutableMapping[str, Any], config: Config) -> Runtime:
        """The runtime of the hub whose tornado settings these are; made on the first call. Raises BadConfig."""
        found = hub_settings.get(KEY)
        if isinstance(found, cls):
            return found
        settings = Labspawner(config=config).settings()
        store = Store.open(settings.database_url, hub_id=settings.hub_id)
        engine = Engine(
            store=store,
            providers=open_providers(settings),
            settings=_engine_settings(settings),
            servers=lambda: _active_servers(hub_settings),
        )
        usages = Usages(engine.providers, engine.book)
        evidence = EvidenceBook(
            store,
            settings.hub_id,
            ready=engine.start,
            live=engine.book.get,
            facts=HubFactsTable(lambda: hub_settings.get("db")).of,
            gpu=usages.gpu_of,
            report_every_s=settings.report_every_s,
        )
        listed = course_of_profile_list(settings)
        given = [listed] if listed is not None else []
        catalog = Catalog(settings.courses_dir, given=given, bounds=settings.bounds)
        people = functools.partial(_people, hub_settings)
        db = functools.partial(hub_settings.get, "db")
        runtime = cls(settings, engine, catalog, evidence, usages, store, people, db)
        hub_settings[KEY] = runtime
        return runtime

    async def start(self) -> None:
        """Start all that runs beside requests: the engine, the book of evidence, and the looks at what servers use.

        Safe to repeat; what failed is tried again by the next call.
        """
        await self.engine.start()
        await self.evidence.open()
        if self._sampling is None:
            self._sampling = asyncio.get_running_loop().create_task(self.sampler.run())
            self._visiting = asyncio.get_running_loop().create_task(self.visits.run())

    async def _note_visit(self, lease: Lease, verb: str, visitor: str) -> None:
        """What the owner of a server said to a visit, for the audit log."""
        course = lease.profile.partition("/")[0]
        entry = AuditEntry(
            at=_utcnow(), actor=lease.user, verb=verb, course=course, subject=visitor, object=lease.server_name
        )
        try:
            await self.store.audit.add(entry)
        except LabError as exc:
            log.warning("a visit is not in the audit log user=%s visitor=%s: %s", lease.user, visitor, exc)

    async def courses(self) -> Catalog:
        """The catalog, looked at again when the last look began longer ago than the configured interval."""
        if asyncio.get_running_loop().time() - self._refresh_began < self.settings.courses_refresh_s:
            if self._refreshing is not None:
                await asyncio.shield(self._refreshing)
            return self.catalog
        return await self.courses_changed()

    async def courses_changed(self) -> Catalog:
        """The catalog after a look that began now: somebody says that a course was written."""
        if self._refreshing is not None:
            await asyncio.wait({self._refreshing})
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.get_running_loop().create_task(self._refresh())
        await asyncio.shield(self._refreshing)
        return self.catalog

    async def _refresh(self) -> None:
        self._refresh_began = asyncio.get_running_loop().time()
        before = self.catalog.problems
        await asyncio.gather(asyncio.to_thread(self.catalog.refresh), self._feed.refresh())
        if self.catalog.problems != before:
            for problem in self.catalog.problems:
                log.error("course file not used: %s", problem)

    @property
    def messages(self) -> Messages:
        """What course staff say to those who use servers."""
        return self.evidence.messages

    async def hold(self, viewer: Viewer, options: object) -> Hold:
        """Keep a place for a moment for what `options` would start, checked as a start checks them. Raises LabError."""
        now = _utcnow()
        catalog = await self.courses()
        choice = parse_choice(options, catalog.snapshot, viewer.groups, viewer.admin, now)
        order = order_for(choice, user=viewer.user, server_name=viewer.server, base_url="/", command=(), environment={})
        return await self.engine.hold(order)

    async def instead(self, user_name: str, server_name: str) -> Sequence[Offered]:
        """What a start that stands in line could be at once, where its profile lets students pick."""
        found = await self.availability.instead(await self.availability.look(), user_name, server_name)
        return [Offered(variant=one.variant, text=start_on(one)) for one in found]

    async def elsewhere(self, user: Any, server_name: str, options: Mapping[str, Any]) -> Sequence[Offered]:
        """What could be started at once instead of what `options` name, and what cannot be started now."""
        groups = frozenset(group.name for group in user.groups)
        viewer = Viewer(user=user.name, groups=groups, admin=bool(user.admin), last=options, server=server_name)
        answer = (await self.availability.of(viewer)).get(str(options.get("profile")))
        found = answer.elsewhere if answer is not None else ()
        return [Offered(variant=one.variant, text=start_on(one)) for one in found]

    def typical_start_s(self, profile: str, provider: str) -> float | None:
        """How long a start of this profile there usually takes once it has a place, in seconds."""
        return self.engine.typical_start_s(profile, provider)

    def messages_of(self, lease: Lease, now: datetime) -> Sequence[Said]:
        """What course staff said to whoever uses this server, the oldest first."""
        return [Said(message.text, message.by, message.at) for message in self.messages.of(lease.id, now)]

    def notice(self, user_name: str, server_name: str) -> Notice | None:
        """Why the last server of this name ended, unless the student ended it."""
        return self.engine.notice(user_name, server_name)

    def profile_title(self, key: str) -> Mapping[str, str]:
        """The title of a profile by language; empty when there is none of that name."""
        found = self.catalog.profile(key)
        return dict(found[1].title) if found else {}

    def snapshot(self) -> Snapshot:
        """The courses as they were last read."""
        return self.catalog.snapshot

    def leases(self, user: str, server_name: str) -> Sequence[Lease]:
        """All live leases of a server, as this process knows them: the active one, and those that are parked."""
        return self.engine.book.of(user, server_name)

    def all_leases(self) -> Sequence[Lease]:
        """All live leases of this hub."""
        return self.engine.book.all()

    @property
    def providers(self) -> Mapping[str, object]:
        """The providers that this hub has, by name."""
        return self.engine.providers

    async def uses(self, leases: Sequence[Lease]) -> Mapping[LeaseId, Use]:
        """What servers use now; see `Usages.of`."""
        return await self.usages.of(leases)

    async def known(self, leases: Sequence[Lease]) -> Mapping[LeaseId, Evidence]:
        """What is known of the use of servers beside the hub's own `last_activity`."""
        return {lease.id: await self.evidence.known(lease.id) for lease in leases}

    async def extension(self, lease: Lease, now: datetime) -> Extension | None:
        """What one click would add to the time of this server; None where its profile offers none."""
        found = await self.evidence.extension(lease, now)
        return Extension(step_s=found[0], left_today=found[1], refused=found[2]) if found else None

    async def extend(self, lease: Lease, now: datetime) -> None:
        """Put off the stop of a server by one step. Raises LabError."""
        await self.evidence.extend(lease, now)

    async def discard(self, lease_id: LeaseId) -> None:
        """Delete what is parked under a lease. Raises LabError."""
        await self.engine.discard(lease_id)


def _engine_settings(settings: Settings) -> EngineSettings:
    return EngineSettings(
        hub_id=settings.hub_id,
        observe_interval_s=settings.observe_interval_s,
        unknown_grace_s=settings.unknown_grace_s,
        release_grace_s=settings.release_grace_s,
        release_timeout_s=settings.release_timeout_s,
        reconcile_interval_s=settings.reconcile_interval_s,
        rules=Rules(
            orphan_grace=settings.orphan_grace,
            forgotten_grace=settings.forgotten_grace,
            brake_share=settings.brake_share,
        ),
    )


def _utcnow() -> datetime:
    return datetime.now(timezone.utc)


def _people(hub_settings: Mapping[str, Any], names: Collection[str]) -> People:
    """The groups of these users, and whether they are administrators, by the hub's own database: one query for all."""
    rows = (
        hub_settings["db"]
        .query(orm.User.name, orm.User.admin, orm.Group.name)
        .outerjoin(orm.User.groups)
        .filter(orm.User.name.in_(list(names)))
    )
    found: dict[str, tuple[set[str], bool]] = {}
    for name, admin, group in rows:
        found.setdefault(name, (set(), bool(admin)))[0].update({group} if group is not None else ())
    return {name: (frozenset(groups), admin) for name, (groups, admin) in found.items()}


def _active_servers(hub_settings: Mapping[str, Any]) -> Collection[tuple[str, str]] | None:
    """What the hub's own database calls active. One indexed query, as the hub itself makes them."""
    db = hub_settings.get("db")
    if db is None:
        return None
    rows = (
        db.query(orm.User.name, orm.Spawner.name)
        .join(orm.Spawner, orm.Spawner.user_id == orm.User.id)
        .filter(orm.Spawner.server_id.isnot(None))
    )
    return {(user, server) for user, server in rows}
