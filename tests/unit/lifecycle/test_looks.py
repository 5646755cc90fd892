"""One look at a provider serves all who ask at the same time, and nobody is refused because of an old one."""

from __future__ import annotations

import asyncio

import pytest

from labspawner.errors import NoRoom
from labspawner.lifecycle import looks
from labspawner.lifecycle.admission import CAPACITY_S, Admission
from labspawner.model import Capacity, HostCapacity, LeaseId, Resources
from labspawner.testing.waiting import eventually

from .conftest import Clock

NEED = Resources()


class Machines:
    """A provider of which only the capacity is asked. places: what it says; looks: how often it was asked."""

    def __init__(self, places: int, clock: Clock) -> None:
        self.places, self.looks, self._clock = places, 0, clock
        self.answers = asyncio.Event()
        self.answers.set()

    async def capacity(self) -> Capacity:
        self.looks += 1
        host = HostCapacity(name="a", servers_total=100, servers_free=self.places)
        await self.answers.wait()
        return Capacity(hosts=(host,), taken_at=self._clock())


@pytest.fixture
def machines(clock: Clock) -> Machines:
    return Machines(500, clock)


@pytest.fixture
async def admission(machines: Machines, clock: Clock):
    made = Admission({"m": machines}, clock)  # type: ignore[dict-item]
    yield made
    await made.close()


@pytest.fixture
def long_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """What asks at once does so also on a machine that stands still for a moment in between."""
    monkeypatch.setattr(looks, "FRESH_S", 3600.0)


async def test_one_look_serves_hundreds_at_once(admission, machines, long_fresh):
    await asyncio.gather(*(admission.try_now(LeaseId(f"l{number}"), "m", NEED) for number in range(300)))

    assert machines.looks == 1


async def test_who_share_a_look_are_never_promised_more_than_it_shows(admission, machines):
    machines.places = 7

    answers = await asyncio.gather(
        *(admission.try_now(LeaseId(f"l{number}"), "m", NEED) for number in range(20)), return_exceptions=True
    )

    assert sum(answer is None for answer in answers) == 7
    assert all(isinstance(answer, NoRoom) for answer in answers if answer is not None)


async def test_who_finds_no_room_in_an_old_look_asks_again(admission, machines):
    machines.places = 0
    with pytest.raises(NoRoom):
        await admission.try_now(LeaseId("a"), "m", NEED)
    machines.places = 1

    await admission.try_now(LeaseId("b"), "m", NEED)


async def test_what_is_given_back_is_seen_at_once(admission, machines):
    machines.places = 1
    await admission.try_now(LeaseId("a"), "m", NEED)

    admission.give_back(LeaseId("a"))

    assert await admission.free_places("m", NEED, most=5) == 1


async def test_a_page_that_gave_up_takes_the_look_from_nobody(admission, machines, long_fresh):
    machines.answers.clear()
    page = asyncio.ensure_future(admission.free_places("m", NEED, most=5))
    start = asyncio.ensure_future(admission.try_now(LeaseId("a"), "m", NEED))
    await eventually(lambda: machines.looks == 1)

    assert await page is None
    machines.answers.set()
    await start


async def test_a_start_does_not_wait_for_a_look_that_hangs_since_long(admission, machines):
    machines.answers.clear()
    assert await admission.free_places("m", NEED, most=5) is None
    hung = machines.answers
    machines.answers = asyncio.Event()
    machines.answers.set()

    await asyncio.wait_for(admission.try_now(LeaseId("a"), "m", NEED), CAPACITY_S - 1)

    assert machines.looks == 2
    hung.set()
