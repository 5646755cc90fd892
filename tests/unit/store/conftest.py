"""The same store on a SQLite file, in memory, and on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pgserver
import pytest
from unit.store.clock import Clock

from labspawner.store import Store

DATABASES = ["sqlite-file", "sqlite-memory", pytest.param("postgresql", marks=pytest.mark.postgresql)]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=DATABASES)
def db_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database, given back after the test. A test that names the kinds itself gets those."""
    kind = request.param
    if kind == "sqlite-memory":
        yield "sqlite://"
    elif kind == "sqlite-file":
        yield f"sqlite:///{tmp_path}/labspawner.sqlite"
    else:
        with pgserver.schema_of_its_own(request.getfixturevalue("postgresql")) as url:
            yield url


@pytest.fixture
async def store(make_store: Callable[[], Store]) -> Store:
    """A migrated store in each kind of database."""
    store = make_store()
    await store.migrate()
    return store


@pytest.fixture
async def make_store(db_url: str, clock: Clock) -> AsyncIterator[Callable[..., Store]]:
    """Stores at one database, closed at the end."""
    made: list[Store] = []

    def make(hub_id: str = "hub") -> Store:
        made.append(Store.open(db_url, clock=clock, hub_id=hub_id))
        return made[-1]

    yield make
    for store in made:
        await store.close()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL server that lasts as long as the run."""
    with pgserver.serving() as url:
        yield url
