"""Who was seen is known at once, and written soon, for all together."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from jupyterhub import orm
from jupyterhub.handlers import base
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from labspawner.gate import activity
from labspawner.testing.waiting import eventually

NOW = datetime(2026, 11, 22, 12)  # noqa: DTZ001 - as JupyterHub stores it


@pytest.fixture
def db(monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    monkeypatch.setattr(activity, "LATER_S", 0.01)
    assert activity.install()
    session = orm.new_session_factory("sqlite:///:memory:")()
    session.add_all([orm.User(name=f"user{number}") for number in range(120)])
    session.commit()
    yield session
    session.close()
    session.get_bind().dispose()
    activity.uninstall()


@pytest.fixture
def users(db: Session) -> list[orm.User]:
    return db.query(orm.User).all()


@pytest.fixture
def commits(db: Session) -> list[str]:
    found: list[str] = []
    event.listen(db, "after_commit", lambda _session: found.append("commit"))
    return found


class Handler:
    """What JupyterHub's own function asks of a handler."""

    log = SimpleNamespace(debug=lambda *_args: None)

    def __init__(self, db: Any) -> None:
        self.db = db
        self.settings: dict[str, Any] = {"activity_resolution": 30}

    def see(self, one: Any, at: datetime = NOW) -> bool:
        return bool(base.BaseHandler._record_activity(self, one, at))


def written(db: Session) -> list[datetime]:
    """What the database itself has."""
    with db.get_bind().connect() as connection:
        found = connection.execute(text("SELECT last_activity FROM users WHERE last_activity IS NOT NULL")).scalars()
        return [datetime.fromisoformat(each) for each in found]


async def test_who_was_seen_is_known_at_once_and_nothing_is_left_to_commit(db, users, commits):
    assert not Handler(db).see(users[0])

    assert users[0].last_activity == NOW
    assert not db.dirty
    assert commits == []


async def test_all_are_written_soon_in_a_few_transactions(db, users, commits):
    handler = Handler(db)
    for user in users:
        handler.see(user)

    await eventually(lambda: len(written(db)) == len(users), 30, "all are written")
    assert written(db) == [NOW] * len(users)
    assert len(commits) == 3


async def test_who_was_seen_a_moment_ago_is_not_noted_again(db, users):
    handler = Handler(db)
    handler.see(users[0])
    handler.see(users[0], NOW + timedelta(seconds=29))
    assert users[0].last_activity == NOW

    handler.see(users[0], NOW + timedelta(seconds=31))
    assert users[0].last_activity == NOW + timedelta(seconds=31)


async def test_the_wrapper_of_a_user_is_that_user(db, users):
    wrapped = SimpleNamespace(orm_user=users[0], last_activity=None)

    assert not Handler(db).see(wrapped)
    assert users[0].last_activity == NOW


async def test_who_was_deleted_meanwhile_is_no_trouble_and_the_others_are_written(db, users):
    handler = Handler(db)
    handler.see(users[0])
    handler.see(users[1])
    db.delete(users[0])
    db.commit()

    await eventually(lambda: written(db) == [NOW], 30, "the other one is written")


async def test_what_somebody_else_noted_meanwhile_stays(db, users):
    later = NOW + timedelta(minutes=1)
    handler = Handler(db)
    handler.see(users[0])
    handler.see(users[1])
    users[0].last_activity = later
    db.commit()

    await eventually(lambda: sorted(written(db)) == [NOW, later], 30, "both are written")


async def test_a_database_that_refuses_is_no_end_of_the_notes(db, users, caplog):
    handler = Handler(db)
    failing = True

    def fail(_session: Session) -> None:
        if failing:
            raise RuntimeError("the disk is full")

    event.listen(db, "before_commit", fail)
    handler.see(users[0])
    await eventually(lambda: "was not written" in caplog.text, 30, "the failure is in the log")
    failing = False

    handler.see(users[1])

    await eventually(lambda: written(db) == [NOW], 30, "the next one is written")


async def test_what_is_not_in_the_database_yet_is_noted_as_ever(db):
    user = orm.User(name="new")

    assert Handler(db).see(user)
    assert user.last_activity == NOW


def test_installing_twice_is_as_once_and_uninstalling_restores():
    before = base.BaseHandler._record_activity
    activity.install()
    activity.install()
    activity.uninstall()
    activity.uninstall()

    assert base.BaseHandler._record_activity is before


def test_a_jupyterhub_of_another_shape_is_left_alone(monkeypatch):
    monkeypatch.delattr(base.BaseHandler, "_record_activity")

    assert not activity.install()
    activity.uninstall()
    monkeypatch.undo()
