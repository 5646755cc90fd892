"""A token that is remembered is always what the database would answer."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
import sqlalchemy as sa
from jupyterhub import orm
from sqlalchemy import event
from sqlalchemy.orm import Session

from labspawner.gate import tokens

SECRET = "0123456789abcdef"


@pytest.fixture
def db() -> Iterator[Session]:
    assert tokens.install()
    session = orm.new_session_factory("sqlite:///:memory:")()
    session.add(orm.OAuthClient(identifier="jupyterhub"))
    session.add(orm.User(name="ada"))
    session.commit()
    yield session
    session.close()
    session.get_bind().dispose()
    tokens.uninstall()


@pytest.fixture
def ada(db: Session) -> orm.User:
    return db.query(orm.User).one()


@pytest.fixture
def asked(db: Session) -> list[str]:
    statements: list[str] = []
    event.listen(db.get_bind(), "before_cursor_execute", lambda _c, _k, text, *_rest: statements.append(text))
    return statements


def give(user: orm.User, **how: object) -> str:
    return str(user.new_api_token(scopes=["inherit"], **how))


def test_a_token_is_looked_for_once(db, ada, asked):
    token = give(ada)
    found = orm.APIToken.find(db, token)
    asked.clear()

    assert orm.APIToken.find(db, token) is found
    assert found.user is ada
    assert asked == []


def test_a_token_of_another_secret_with_the_same_beginning_is_not_it(db, ada):
    token = give(ada, token=SECRET)

    assert orm.APIToken.find(db, SECRET[:-1] + "0") is None
    assert orm.APIToken.find(db, token) is not None
    assert orm.APIToken.find(db, SECRET[:-1] + "0") is None


def test_what_is_no_token_is_none(db):
    assert orm.APIToken.find(db, "") is None
    assert orm.APIToken.find(db, "\xe9" * 200) is None


@pytest.mark.parametrize("commit", [True, False])
def test_a_deleted_token_is_not_found(db, ada, commit):
    token = give(ada)
    db.delete(orm.APIToken.find(db, token))
    if commit:
        db.commit()

    assert orm.APIToken.find(db, token) is None


def test_the_tokens_of_a_deleted_user_are_not_found(db, ada):
    token = give(ada)
    assert orm.APIToken.find(db, token) is not None
    db.delete(ada)
    db.commit()

    assert orm.APIToken.find(db, token) is None


def test_tokens_that_were_deleted_by_a_statement_are_not_found(db, ada):
    token = give(ada)
    assert orm.APIToken.find(db, token) is not None
    db.execute(sa.delete(orm.APIToken), execution_options={"synchronize_session": False})
    db.commit()

    assert orm.APIToken.find(db, token) is None


def test_a_token_that_has_another_secret_now_is_not_found_by_the_old_one(db, ada):
    token = give(ada)
    orm.APIToken.find(db, token).token = SECRET
    db.commit()

    assert orm.APIToken.find(db, token) is None
    assert orm.APIToken.find(db, SECRET) is not None


def test_a_token_that_was_expired_in_memory_is_read_again(db, ada, asked):
    found = orm.APIToken.find(db, token := give(ada))
    db.expire(found)
    asked.clear()

    assert orm.APIToken.find(db, token) is found
    assert asked


def test_a_token_that_can_expire_is_looked_for_every_time_and_not_found_once_it_has(db, ada, asked):
    token = give(ada, expires_in=3600)
    found = orm.APIToken.find(db, token)
    asked.clear()
    assert orm.APIToken.find(db, token) is found
    assert asked

    found.expires_at = orm.APIToken.now() - timedelta(seconds=1)
    db.commit()

    assert orm.APIToken.find(db, token) is None


def test_a_remembered_token_that_gets_an_end_ends(db, ada):
    found = orm.APIToken.find(db, token := give(ada))
    found.expires_at = orm.APIToken.now() - timedelta(seconds=1)
    db.commit()

    assert orm.APIToken.find(db, token) is None


def test_a_stale_token_without_a_client_is_deleted_as_ever(db, ada):
    found = orm.APIToken.find(db, token := give(ada))
    found.client_id = None
    db.commit()

    assert orm.APIToken.find(db, token) is None
    assert db.query(orm.APIToken).count() == 0


def test_a_token_of_one_kind_only_is_looked_for_as_ever(db, ada):
    token = give(ada)

    assert orm.APIToken.find(db, token, kind="user") is not None
    assert orm.APIToken.find(db, token, kind="service") is None


def test_a_token_of_another_session_is_never_answered(db, ada):
    token = give(ada)
    first = orm.APIToken.find(db, token)

    with Session(db.get_bind()) as other:
        assert orm.APIToken.find(other, token) is not first


def test_no_secret_is_kept_and_not_more_than_a_few_thousand(db, ada, monkeypatch, asked):
    monkeypatch.setattr(tokens, "MOST", 2)
    many = [give(ada) for _ in range(3)]
    for token in many:
        orm.APIToken.find(db, token)
    asked.clear()

    assert orm.APIToken.find(db, many[2]) is not None
    assert asked == []
    assert orm.APIToken.find(db, many[0]) is not None
    assert asked


def test_installing_twice_is_as_once_and_uninstalling_restores():
    before = orm.APIToken.__dict__["find"].__func__
    tokens.install()
    tokens.install()
    tokens.uninstall()

    assert orm.APIToken.__dict__["find"].__func__ is before


def test_a_jupyterhub_of_another_shape_is_left_alone(monkeypatch):
    monkeypatch.setattr(orm.APIToken, "find", staticmethod(lambda db, token: None))

    assert not tokens.install()
