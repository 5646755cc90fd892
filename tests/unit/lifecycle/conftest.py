"""Engines on one store and one simulated world, as hub processes that follow each other; and providers that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from builders import NOW

from labspawner.lifecycle import Engine, EngineSettings, Order, Variant, admission
from labspawner.lifecycle import engine as lifecycle_engine
from labspawner.model import (
    Capacity,
    Checkpoint,
    Event,
    Feature,
    Handle,
    HostCapacity,
    LaunchRequest,
    Lease,
    LeaseId,
    OwnedResource,
    Phase,
    Progress,
    Ready,
    ReleaseMode,
    Resources,
    ServerState,
    Slice,
)
from labspawner.providers.contract import Provider, ProviderContext
from labspawner.providers.sim import SimProvider
from labspawner.store import Store
from labspawner.testing.waiting import eventually

GIB = 2**30
HUB = "hub"
OpenSim = Callable[..., SimProvider]
OpenEngine = Callable[..., Engine]


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **span: float) -> None:
        self.now += timedelta(**span)


def an_order(**changes: Any) -> Order:
    """An order of student1 for the profile py101/base on the provider `sim`."""
    values: dict[str, Any] = {
        "user": "student1",
        "server_name": "",
        "profile": "py101/base",
        "variants": (a_variant(),),
        "base_url": f"/user/{changes.get('user', 'student1')}/{changes.get('server_name', '')}",
        "command": ("jupyterhub-singleuser",),
        "environment": {"JUPYTERHUB_API_TOKEN": "not-a-secret"},
    }
    return Order(**{**values, **changes})


def a_variant(provider: str = "sim", *, gpu: int = 0, memory: int = 0, **changes: Any) -> Variant:
    resources = Resources(memory_bytes=memory or None, gpu=Slice(memory_bytes=gpu) if gpu else None)
    return Variant(provider=provider, **{"resources": resources, "ready_timeout_s": 120.0, **changes})


def quiet(_progress: Progress) -> None:
    """Nobody watches."""


class Scripted:
    """A provider that does what a test says: each method can be replaced by a function of the same arguments.

    things: the leases that have something on its host, and in which state.
    """

    def __init__(self, name: str = "sim", *, places: int | None = None, features: Sequence[Feature] = ()) -> None:
        self.name = name
        self.features = frozenset(features)
        self.places = places
        self.things: dict[LeaseId, str] = {}
        self.released: list[tuple[LeaseId, ReleaseMode]] = []
        self.observed = 0
        self.on_launch: Callable[[LaunchRequest], AsyncIterator[Event]] = self.plain_launch
        self.on_release: Callable[[Handle, ReleaseMode], Awaitable[None]] | None = None
        self.on_observe: Callable[[], Awaitable[Mapping[LeaseId, ServerState]]] | None = None
        self.on_owned: Callable[[], Awaitable[Sequence[OwnedResource]]] | None = None
        self.on_capacity: Callable[[], Awaitable[Capacity]] | None = None

    def handle(self, lease_id: LeaseId) -> Handle:
        return Handle(lease_id=lease_id, provider=self.name)

    async def plain_launch(self, request: LaunchRequest) -> AsyncIterator[Event]:
        yield Checkpoint(self.handle(request.lease_id))
        self.things[request.lease_id] = "runs"
        yield Ready("http://127.0.0.1:1")

    async def capacity(self) -> Capacity:
        if self.on_capacity is not None:
            return await self.on_capacity()
        running = {lease_id for lease_id, state in self.things.items() if state != "parked"}
        free = None if self.places is None else max(0, self.places - len(running))
        host = HostCapacity(name="h", servers_total=self.places, servers_free=free)
        return Capacity(hosts=(host,), taken_at=NOW, counted=frozenset(running))

    def launch(self, request: LaunchRequest) -> AsyncIterator[Event]:
        return self.on_launch(request)

    async def observe(self, handles: Sequence[Handle]) -> Mapping[LeaseId, ServerState]:
        self.observed += 1
        if self.on_observe is not None:
            return await self.on_observe()
        return {
            handle.lease_id: ServerState.RUNNING if self.things.get(handle.lease_id) == "runs" else ServerState.GONE
            for handle in handles
        }

    async def release(self, handle: Handle, mode: ReleaseMode, *, grace_s: float) -> None:
        if self.on_release is not None:
            await self.on_release(handle, mode)
        self.released.append((handle.lease_id, mode))
        keeps = (mode is ReleaseMode.STOP and Feature.PARK in self.features) or (
            mode is ReleaseMode.HIBERNATE and Feature.HIBERNATE in self.features
        )
        if keeps and handle.lease_id in self.things:
            self.things[handle.lease_id] = "parked"
        else:
            self.things.pop(handle.lease_id, None)

    async def owned(self) -> Sequence[OwnedResource]:
        if self.on_owned is not None:
            return await self.on_owned()
        return [OwnedResource(lease_id=lease_id, handle=self.handle(lease_id)) for lease_id in self.things]

    async def activity(self, handle: Handle) -> None:
        return None

    async def usage(self, handles: Any) -> dict[Any, Any]:
        return {}

    async def logs(self, handle: Handle, lines: int) -> str:
        return ""

    async def close(self) -> None:
        return None


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database to copy: migrations are tested elsewhere, and take their time."""
    path = tmp_path_factory.mktemp("store") / "empty.sqlite"

    async def migrate() -> None:
        store = Store.open(f"sqlite:///{path}")
        await store.migrate()
        await store.close()

    asyncio.run(migrate())
    return path


@pytest.fixture
def store_url(tmp_path: Path, empty_store: Path) -> str:
    path = tmp_path / "leases.sqlite"
    shutil.copy(empty_store, path)
    return f"sqlite:///{path}"


@pytest.fixture
async def store(store_url: str, clock: Clock) -> AsyncIterator[Store]:
    """The database as another process sees it."""
    found = Store.open(store_url, clock=clock)
    yield found
    await found.close()


@pytest.fixture
async def open_sim(tmp_path: Path) -> AsyncIterator[OpenSim]:
    """Makes sim providers; those of one name share a world."""
    made: list[SimProvider] = []

    def open_one(name: str = "sim", **settings: Any) -> SimProvider:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        context = ProviderContext(name=name, hub_id=HUB, data_dir=folder)
        made.append(SimProvider(context, {"start_s": 0.0, **settings}))
        return made[-1]

    yield open_one
    for provider in made:
        await provider.close()


@pytest.fixture
async def open_engine(store_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OpenEngine]:
    """Makes engines on the same store, each with its own providers; nothing is remembered between listings."""
    made: list[Engine] = []
    for room in (admission, lifecycle_engine):  # a busy machine is no provider that does not answer
        monkeypatch.setattr(room, "PATIENCE_S", 60.0)

    def open_one(*providers: Provider, servers: Any = None, **settings: Any) -> Engine:
        times = {
            "observe_interval_s": 0.0,
            "release_grace_s": 0.5,
            "reconcile_interval_s": 3600.0,
            "recheck_s": 0.02,
            "let_go_s": 10.0,
        }
        engine = Engine(
            store=Store.open(store_url, clock=clock),
            providers={provider.name: provider for provider in providers},
            settings=EngineSettings(hub_id=HUB, **{**times, **settings}),
            servers=servers or (lambda: None),
            clock=clock,
        )
        made.append(engine)
        return engine

    yield open_one
    for engine in made:
        await engine.close()


@pytest.fixture
def sim(open_sim: OpenSim) -> SimProvider:
    return open_sim()


@pytest.fixture
def engine(open_engine: OpenEngine, sim: SimProvider) -> Engine:
    return open_engine(sim)


@contextlib.contextmanager
def launching(
    engine: Engine, order: Order, report: Callable[[Progress], None] = quiet
) -> Iterator[asyncio.Task[Lease]]:
    """A start under way; cancelled where the test leaves it so."""
    task = asyncio.get_running_loop().create_task(engine.launch(order, report))
    yield task
    task.cancel()


async def reaches(engine: Engine, phase: Phase, user: str = "student1", server_name: str = "") -> Lease:
    """The lease of a server, as soon as it is in that phase."""
    await eventually(lambda: any(lease.phase is phase for lease in engine.book.of(user, server_name)), what=str(phase))
    return next(lease for lease in engine.book.of(user, server_name) if lease.phase is phase)


async def nothing_is_left(engine: Engine, *providers: Provider) -> None:
    """No lease, no promise, no resource, as soon as what is under way is over."""
    await eventually(lambda: engine._launcher.starts.busy() == engine._releaser.busy() == set(), deadline_s=5)
    assert engine.book.all() == []
    assert engine._admission._promised == {}
    for provider in providers:
        assert list(await provider.owned()) == []
