"""Rounds of polls: which servers JupyterHub's own poll is called for, and when no more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from labspawner.rounds import Rounds
from labspawner.testing.waiting import eventually


@dataclass(eq=False)
class Server:
    """What JupyterHub would poll; counts how often it was."""

    poll_interval: float = 0.03
    poll_jitter: float = 0.1
    user: object = None
    name: str = ""
    polls: int = 0
    fails: bool = False
    under_way: asyncio.Event = field(default_factory=asyncio.Event)
    hold: asyncio.Event | None = None

    async def poll_and_notify(self) -> None:
        self.polls += 1
        self.under_way.set()
        if self.hold is not None:
            await self.hold.wait()
        if self.fails:
            raise RuntimeError("JupyterHub broke")


@dataclass
class Hosts:
    """What the last listing shows."""

    running: set[Server] = field(default_factory=set)
    looks: int = 0
    fail: bool = False

    async def look(self) -> None:
        self.looks += 1
        if self.fail:
            raise RuntimeError("no listing")

    def runs(self, server: Server) -> bool:
        return server in self.running


@pytest.fixture
def hosts() -> Hosts:
    return Hosts()


@pytest.fixture
async def rounds(hosts) -> AsyncIterator[Rounds]:
    rounds = Rounds(hosts.look, hosts.runs)
    yield rounds
    await rounds.close()


async def test_a_server_that_a_listing_shows_is_not_asked_itself(rounds, hosts):
    shown, other = Server(), Server()
    hosts.running.add(shown)
    rounds.add(shown)
    rounds.add(other)

    await eventually(lambda: other.polls >= 3, 60, "the other server is polled")

    assert shown.polls == 0
    assert hosts.looks >= 3


async def test_a_server_that_is_gone_is_asked_in_jupyterhubs_way(rounds, hosts):
    server = Server()
    hosts.running.add(server)
    rounds.add(server)
    await eventually(lambda: hosts.looks >= 2, 60, "rounds are made")

    hosts.running.clear()

    await eventually(lambda: server.polls >= 1, 60, "it is polled")


async def test_servers_that_are_due_together_share_a_look(rounds, hosts):
    servers = [Server(poll_interval=0.3, poll_jitter=0) for _ in range(200)]
    for server in servers:
        rounds.add(server)

    await eventually(lambda: all(server.polls for server in servers), 60, "each is polled")

    assert hosts.looks <= 20 * max(server.polls for server in servers)


async def test_a_dropped_server_is_polled_no_more_and_others_are(rounds):
    dropped, other = Server(), Server()
    rounds.add(dropped)
    rounds.add(other)
    await eventually(lambda: dropped.polls >= 1, 60, "it is polled")

    rounds.drop(dropped)
    rounds.drop(dropped)
    before, others = dropped.polls, other.polls
    await eventually(lambda: other.polls >= others + 3, 60, "the other goes on")

    assert dropped.polls <= before + 1  # one may have been on its way


async def test_a_poll_that_takes_long_is_not_begun_twice_and_holds_up_nobody(rounds):
    slow, other = Server(hold=asyncio.Event()), Server()
    rounds.add(slow)
    rounds.add(other)

    await slow.under_way.wait()
    await eventually(lambda: other.polls >= 3, 60, "the other goes on")
    assert slow.polls == 1

    slow.hold.set()
    slow.hold = None
    await eventually(lambda: slow.polls >= 2, 60, "it is polled again")


async def test_a_poll_and_a_listing_that_fail_are_logged_and_the_next_ones_come(rounds, hosts, caplog):
    server = Server(fails=True)
    hosts.fail = True
    hosts.running.add(Server())
    rounds.add(server)

    await eventually(lambda: server.polls >= 2, 60, "it is polled again")

    assert "a poll failed" in caplog.text
    assert "no listing" in caplog.text


async def test_one_that_is_due_sooner_is_not_kept_waiting(rounds):
    rounds.add(Server(poll_interval=3600))
    soon = Server()
    await asyncio.sleep(0)  # the rounds sleep for the first one

    rounds.add(soon)

    await eventually(lambda: soon.polls >= 1, 60, "it is polled")


async def test_polls_begin_again_after_all_were_dropped(rounds):
    first = Server()
    rounds.add(first)
    rounds.drop(first)
    await asyncio.sleep(0)  # they see that there is nothing to poll

    rounds.add(first)

    await eventually(lambda: first.polls >= 1, 60, "it is polled")


async def test_close_ends_polls_that_are_under_way(hosts):
    rounds = Rounds(hosts.look, hosts.runs)
    server = Server(hold=asyncio.Event())
    rounds.add(server)
    await server.under_way.wait()

    await rounds.close()

    assert rounds._asking == {}
