"""What is remembered by name is always what the database would answer."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from types import SimpleNamespace

import pytest
from jupyterhub import orm
from jupyterhub.user import UserDict
from sqlalchemy import event
from sqlalchemy.orm import Session

from labspawner.gate import lookups


@pytest.fixture
def db() -> Iterator[Session]:
    assert lookups.install()
    session = orm.new_session_factory("sqlite:///:memory:")()
    session.add(orm.User(name="ada"))
    session.add(orm.Role(name="server"))
    session.commit()
    yield session
    session.close()
    session.get_bind().dispose()
    lookups.uninstall()


@pytest.fixture
def asked(db: Session) -> list[str]:
    statements: list[str] = []
    event.listen(db.get_bind(), "before_cursor_execute", lambda _c, _k, text, *_rest: statements.append(text))
    return statements


def test_who_is_in_memory_is_found_without_asking(db, asked):
    ada, role = orm.User.find(db, "ada"), orm.Role.find(db, name="server")
    asked.clear()

    assert orm.User.find(db, "ada") is ada
    assert orm.Role.find(db, "server") is role
    assert asked == []


def test_who_does_not_exist_yet_is_found_once_made(db):
    assert orm.User.find(db, "bob") is None
    db.add(orm.User(name="bob"))
    db.commit()

    assert orm.User.find(db, "bob").name == "bob"


def test_who_was_renamed_is_found_by_the_new_name_only(db):
    ada = orm.User.find(db, "ada")
    ada.name = "countess"
    db.commit()

    assert orm.User.find(db, "ada") is None
    assert orm.User.find(db, "countess") is ada


def test_a_name_that_was_given_to_another_finds_the_other(db):
    orm.User.find(db, "ada").name = "countess"
    db.add(other := orm.User(name="ada"))
    db.commit()

    assert orm.User.find(db, "ada") is other


@pytest.mark.parametrize("commit", [True, False])
def test_who_was_deleted_is_not_found(db, commit):
    db.delete(orm.User.find(db, "ada"))
    if commit:
        db.commit()

    assert orm.User.find(db, "ada") is None


def test_what_was_expunged_or_expired_is_read_again(db, asked):
    ada = orm.User.find(db, "ada")
    db.expire(ada)
    asked.clear()
    assert orm.User.find(db, "ada") is ada
    assert asked

    db.expunge(ada)
    assert orm.User.find(db, "ada") is not ada


def test_a_user_of_another_session_is_never_answered(db):
    first = orm.User.find(db, "ada")
    with Session(db.get_bind()) as other:
        assert orm.User.find(other, "ada") is not first


def test_a_user_that_anything_else_loaded_is_found_without_asking(db, asked):
    orm.User.find(db, "nobody")
    db.expunge_all()
    (ada,) = db.query(orm.User).all()
    asked.clear()

    assert orm.User.find(db, "ada") is ada
    assert asked == []


async def test_who_came_last_is_warmed_up_first(db, asked):
    day = datetime(2026, 1, 1)  # noqa: DTZ001 - as JupyterHub stores it
    db.add_all([orm.User(name=f"user{number}", last_activity=day.replace(day=number)) for number in range(1, 4)])
    db.commit()
    db.expunge_all()
    users = UserDict(lambda: db, {"db": db})

    assert await lookups.warm_up(users, most=2) == 2

    asked.clear()
    assert [orm.User.find(db, name).name for name in ("user3", "user2")] == ["user3", "user2"]
    assert asked == []
    assert orm.User.find(db, "user1").name == "user1"
    assert asked != []


def test_sqlite_is_not_asked_whether_it_is_there_before_every_transaction(db, asked):
    db.query(orm.User.id).all()
    db.commit()
    db.query(orm.User.id).all()

    assert not [text for text in asked if text == "SELECT 1"]


def test_other_databases_are_asked_as_before(monkeypatch):
    registered: list[object] = []
    monkeypatch.setattr(orm, "register_ping_connection", registered.append)
    lookups.install()
    engine = SimpleNamespace(dialect=SimpleNamespace(name="postgresql"))

    orm.register_ping_connection(engine)
    lookups.uninstall()

    assert registered == [engine]


def test_installing_twice_is_as_once_and_uninstalling_restores():
    before = orm.User.__dict__["find"].__func__
    lookups.install()
    lookups.install()
    lookups.uninstall()

    assert orm.User.__dict__["find"].__func__ is before


def test_a_jupyterhub_of_another_shape_is_left_alone(monkeypatch):
    monkeypatch.setattr(orm.Role, "find", staticmethod(lambda db, name: None))

    assert not lookups.install()
