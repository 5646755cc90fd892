"""Whose server a token is: JupyterHub's own scopes, in a database like the hub's."""

from __future__ import annotations

import pytest
from jupyterhub import orm, roles
from jupyterhub.scopes import get_scopes_for

from labspawner.evidence.handlers import REMEMBERED_S, Tokens, server_of_token


@pytest.fixture
def db():
    session = orm.new_session_factory("sqlite:///:memory:")()
    for role in roles.get_default_roles():
        roles.create_role(session, role)
    session.add(orm.OAuthClient(identifier="jupyterhub", allowed_scopes=[]))
    session.commit()
    yield session
    session.close()
    session.get_bind().dispose()


@pytest.fixture
def student(db):
    """Makes a user as the hub does: with the role of every user."""

    def make(name: str) -> orm.User:
        user = orm.User(name=name)
        db.add(user)
        db.commit()
        roles.assign_default_roles(db, entity=user)
        return user

    return make


def a_token(db, user: orm.User, *scopes: str, **changes: object) -> orm.APIToken:
    token = user.new_api_token(scopes=list(scopes), **changes)
    return orm.APIToken.find(db, token)


@pytest.mark.parametrize(("name", "server"), [("ann", ""), ("a.b@c", "two"), ("Ann Ö", "a/b")])
def test_the_token_of_a_server_names_it(db, student, name, server):
    user = student(name)
    token = a_token(db, user, f"access:servers!server={name}/{server}", f"users:activity!user={name}")

    assert server_of_token(token) == (name, server)


def test_a_token_for_more_than_one_server_is_nobodys(db, student):
    user = student("ann")

    assert server_of_token(a_token(db, user, "access:servers!server=ann/", "access:servers!server=ann/two")) is None
    assert server_of_token(a_token(db, user, "access:servers!user=ann")) is None
    assert server_of_token(a_token(db, user, "inherit")) is None
    assert server_of_token(a_token(db, user, "users:activity!user=ann")) is None


def test_a_token_for_the_server_of_another_student_is_nobodys(db, student):
    ann, bob = student("ann"), student("bob")
    bob.roles.append(orm.Role(name="guest", scopes=["access:servers!server=ann/"]))
    db.commit()
    token = a_token(db, bob, "access:servers!server=ann/")

    assert "access:servers!server=ann/" in get_scopes_for(token)
    assert server_of_token(token) is None
    assert ann.name == "ann"


def test_a_name_that_begins_like_another_is_not_that_one(db, student):
    student("ann")
    other = student("an")
    other.roles.append(orm.Role(name="guest", scopes=["access:servers!server=ann/"]))
    db.commit()

    assert server_of_token(a_token(db, other, "access:servers!server=ann/")) is None


def test_the_token_of_a_browser_or_of_nobody_is_no_servers(db, student):
    user = student("ann")
    db.add(orm.OAuthClient(identifier="jupyterhub-user-ann", allowed_scopes=[]))
    db.commit()
    token = a_token(db, user, "access:servers!server=ann/", client_id="jupyterhub-user-ann")

    assert server_of_token(token) is None
    assert server_of_token(None) is None


def test_the_token_of_a_service_is_no_servers(db):
    service = orm.Service(name="tool", roles=[orm.Role(name="all", scopes=["access:servers"])])
    db.add(service)
    db.commit()
    token = service.new_api_token(scopes=["access:servers"])

    assert server_of_token(orm.APIToken.find(db, token)) is None


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_token_is_looked_up_once_for_many_reports_and_again_after_a_while():
    clock, looks = Clock(), []
    tokens = Tokens(clock)

    def look():
        looks.append(clock.now)
        return ("ann", "")

    found = [tokens.server_of("t", look) for _ in range(5)]
    clock.now = REMEMBERED_S + 1
    tokens.server_of("t", look)

    assert found == [("ann", "")] * 5
    assert looks == [0.0, REMEMBERED_S + 1]


def test_a_token_of_nobody_is_not_remembered():
    tokens = Tokens(Clock())

    assert tokens.server_of("t\udcff", lambda: None) is None
    assert tokens.server_of("t\udcff", lambda: ("ann", "")) == ("ann", "")


def test_memory_for_tokens_has_a_bound(monkeypatch):
    monkeypatch.setattr("labspawner.evidence.handlers._MOST", 3)
    tokens = Tokens(Clock())

    for number in range(10):
        tokens.server_of(str(number), lambda: ("ann", ""))

    assert len(tokens._known) <= 3
