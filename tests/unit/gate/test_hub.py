"""What the gate puts in front of JupyterHub, and that it can be taken away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace

import pytest
from jupyterhub.handlers import base
from jupyterhub.user import User, UserDict

from labspawner import gate
from labspawner.gate import hub

STARTS = 500


@pytest.fixture
def installed() -> Iterator[None]:
    assert gate.install()
    yield
    gate.uninstall()


class Pending:
    """A server that is being started; it counts how often it was looked at."""

    looks = 0
    active, ready = True, False

    @property
    def pending(self) -> str:
        Pending.looks += 1
        return "spawn"


def users(**settings: object) -> UserDict:
    found = UserDict(lambda: None, settings)
    dict.__setitem__(found, 1, SimpleNamespace(spawners={"": Pending()}))
    Pending.looks = 0
    return found


@pytest.fixture
async def burst(installed: None) -> AsyncIterator[UserDict]:
    """Users of a hub where many wait to begin."""
    found = users()
    starts = [asyncio.ensure_future(gate.turnstile_of(found.settings).turn(hub.BEGIN)) for _ in range(STARTS)]
    await asyncio.sleep(0)
    yield found
    for start in starts:
        start.cancel()
    await asyncio.wait(starts)


async def test_one_count_of_the_servers_serves_a_burst(burst, monkeypatch):
    monkeypatch.setattr(hub, "COUNTED_S", 3600.0)
    first = burst.count_active_users()

    assert first == burst.count_active_users()
    assert first["spawn_pending"] == 1
    assert Pending.looks == 1


@pytest.mark.parametrize("limit", ["active_server_limit", "concurrent_spawn_limit"])
async def test_where_a_limit_depends_on_the_count_it_is_made_each_time(burst, limit):
    burst.settings[limit] = 100

    burst.count_active_users()
    burst.count_active_users()

    assert Pending.looks == 2


async def test_a_count_is_made_anew_when_it_is_old(burst, monkeypatch):
    monkeypatch.setattr(hub, "COUNTED_S", -1.0)

    burst.count_active_users()
    burst.count_active_users()

    assert Pending.looks == 2


async def test_without_a_burst_each_count_is_made(installed):
    quiet = users()

    quiet.count_active_users()
    quiet.count_active_users()

    assert Pending.looks == 2


def test_installing_twice_is_as_once_and_uninstalling_restores():
    before = (base.BaseHandler.prepare, base.BaseHandler.spawn_single_user, User.spawn, UserDict.count_active_users)

    gate.install()
    gate.install()
    gate.uninstall()
    gate.uninstall()

    assert before == (
        base.BaseHandler.prepare,
        base.BaseHandler.spawn_single_user,
        User.spawn,
        UserDict.count_active_users,
    )


def test_a_jupyterhub_that_does_not_count_has_a_gate_all_the_same(monkeypatch):
    monkeypatch.delattr(UserDict, "count_active_users")

    assert gate.install()
    gate.uninstall()
    monkeypatch.undo()


def test_a_jupyterhub_of_another_shape_is_left_alone(monkeypatch):
    monkeypatch.setattr(User, "spawn", lambda _user: None)

    assert not gate.install()
