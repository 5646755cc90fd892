"""What the hub's own database says of servers: one look for many questions."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from builders import a_lease
from jupyterhub import orm

from labspawner.evidence import HubFacts
from labspawner.evidence.hubfacts import KEPT_S, HubFactsTable

NINE, TEN = (datetime(2026, 11, 2, hour, tzinfo=timezone.utc) for hour in (9, 10))
STARTED, SEEN = NINE.replace(tzinfo=None), TEN.replace(tzinfo=None)


@pytest.fixture
def db() -> Iterator[Any]:
    """A hub's database with two users; one of them has a server that runs, and one that does not."""
    session = orm.new_session_factory("sqlite://")()
    one, two = orm.User(name="student1"), orm.User(name="student2")
    session.add_all([one, two])
    session.flush()
    session.add(orm.Spawner(name="", user=one, started=STARTED, last_activity=SEEN))
    session.add(orm.Spawner(name="second", user=one, started=None, last_activity=SEEN))
    session.add(orm.Spawner(name="", user=two, started=STARTED, last_activity=None))
    session.commit()
    yield session
    session.close()
    session.get_bind().dispose()


def queries_of(session: Any) -> list[str]:
    asked: list[str] = []
    sa.event.listen(session.get_bind(), "before_cursor_execute", lambda *args: asked.append(args[2]))
    return asked


def about_servers(asked: list[str]) -> int:
    return sum("spawners" in one for one in asked)


def test_a_server_that_runs_has_its_start_and_last_activity_with_a_time_zone(db):
    facts = HubFactsTable(lambda: db).of(a_lease(user="student1"))

    assert facts == HubFacts(NINE, TEN)


@pytest.mark.parametrize(("user", "server"), [("student1", "second"), ("nobody", ""), ("student2", "other")])
def test_of_a_server_that_does_not_run_nothing_is_said(db, user, server):
    assert HubFactsTable(lambda: db).of(a_lease(user=user, server_name=server)) == HubFacts()


def test_many_questions_are_one_look(db):
    table = HubFactsTable(lambda: db, clock=lambda: 100.0)
    asked = queries_of(db)

    for number in range(300):
        table.of(a_lease(user=f"student{number}"))

    assert about_servers(asked) == 1


def test_after_a_moment_it_is_looked_at_again(db):
    now = SimpleNamespace(s=100.0)
    table = HubFactsTable(lambda: db, clock=lambda: now.s)
    asked = queries_of(db)

    table.of(a_lease())
    now.s += KEPT_S
    table.of(a_lease())

    assert about_servers(asked) == 2


def test_before_the_hub_has_a_database_nothing_is_said():
    assert HubFactsTable(lambda: None).of(a_lease()) == HubFacts()
