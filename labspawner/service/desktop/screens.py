"""Finding the screen of a server: its lease in the store, its provider, and who is staff of its course."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from labspawner.courses import Catalog
from labspawner.courses.models import STAFF_GROUP
from labspawner.errors import LabError
from labspawner.model import Lease, Phase
from labspawner.providers.contract import Consoling, Provider
from labspawner.providers.screens import offers_screen
from labspawner.sentences import Sentence
from labspawner.service.desktop.rights import Viewer, staff_groups
from labspawner.store import Store

log = logging.getLogger(__name__)

_COURSES_S = 5.0


class State(str, Enum):
    """What there is to look at. STARTING: a screen may be there already. NONE: this kind of server has no screen."""

    ON = "on"
    STARTING = "starting"
    STOPPING = "stopping"
    PARKED = "parked"
    OFF = "off"
    NONE = "none"


WORDS: Mapping[State, Sentence] = {
    State.ON: Sentence("The machine is on."),
    State.STARTING: Sentence("The machine is starting."),
    State.STOPPING: Sentence("The machine is being stopped."),
    State.PARKED: Sentence("The machine sleeps. Start your server to wake it."),
    State.OFF: Sentence("The machine is off: start it."),
    State.NONE: Sentence("This server has no desktop."),
}
_STATES = {
    Phase.QUEUED: State.STARTING,
    Phase.LAUNCHING: State.STARTING,
    Phase.READY: State.ON,
    Phase.STOPPING: State.STOPPING,
    Phase.PARKED: State.PARKED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """The screen of one server now. title: text by language. ssh: what stands after `ssh `."""

    owner: str
    server_name: str
    state: State
    lease: Lease | None = None
    console: Consoling | None = None
    title: Mapping[str, str] = field(default_factory=dict)
    ssh: str | None = None

    @property
    def can_open(self) -> bool:
        """Whether it is worth asking for a picture."""
        there = self.state in {State.ON, State.STARTING} and self.console is not None
        return there and self.lease is not None and self.lease.handle is not None


class Screens:
    """All screens of a hub. Reads the store and the course files; changes nothing."""

    def __init__(self, *, store: Store, hub_id: str, providers: Mapping[str, Provider], catalog: Catalog) -> None:
        self._store = store
        self._hub_id = hub_id
        self._providers = providers
        self._catalog = catalog
        self._prepared = False
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    async def find(self, owner: str, server_name: str) -> Screen:
        """The screen of a server; one that is off where no such server holds anything. Raises StoreUnavailable, or
        BadConfig for a database that cannot be used."""
        if not self._prepared:
            await self._store.migrate()
            self._prepared = True
        leases = await self._store.live(self._hub_id, user=owner, server_name=server_name)
        active = [lease for lease in leases if lease.phase is not Phase.PARKED] or leases
        return self._screen(owner, server_name, active[-1] if active else None)

    def _screen(self, owner: str, server_name: str, lease: Lease | None) -> Screen:
        if lease is None:
            return Screen(owner=owner, server_name=server_name, state=State.OFF)
        provider = self._providers.get(lease.provider)
        console: Consoling | None = None
        if isinstance(provider, Consoling) and offers_screen(provider, lease):
            console = provider
        pinned = lease.pinned.get("title")
        return Screen(
            owner=owner,
            server_name=server_name,
            state=_STATES.get(lease.phase, State.OFF) if console else State.NONE,
            lease=lease,
            console=console,
            title={str(key): str(text) for key, text in pinned.items()} if isinstance(pinned, dict) else {},
            ssh=_ssh(console, lease),
        )

    async def is_staff(self, viewer: Viewer, screen: Screen) -> bool:
        """Whether `viewer` is staff of the course that the server is of, as its file says now."""
        if viewer.admin:
            return True
        if screen.lease is None:
            return False
        await self._refresh()
        staff = {course.course: tuple(course.access.staff) for course in self._catalog.courses()}
        return not viewer.groups.isdisjoint(staff_groups(staff, screen.lease.profile, STAFF_GROUP))

    async def server_of(self, owner: str, path: str) -> str:
        """Which server of `owner` an address below `/user/<owner>/` means: its first part, if a server is called so."""
        first = path.partition("/")[0]
        if not first:
            return ""
        found = await self.find(owner, first)
        return first if found.lease is not None else ""

    async def _refresh(self) -> None:
        async with self._reading:
            if time.monotonic() - self._read_at >= _COURSES_S:
                await asyncio.to_thread(self._catalog.refresh)
                self._read_at = time.monotonic()

    async def close(self) -> None:
        """Give back connections and threads. Servers keep running."""
        for name, provider in self._providers.items():
            try:
                await provider.close()
            except LabError as exc:
                log.warning("provider=%s did not close: %s", name, exc)
        await self._store.close()


def _ssh(console: Consoling | None, lease: Lease) -> str | None:
    if console is None or lease.handle is None or lease.phase not in {Phase.READY, Phase.LAUNCHING}:
        return None
    return console.ssh(lease.handle)
