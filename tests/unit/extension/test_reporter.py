"""When the hub is told."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from labspawner.extension.hub import AWAY, Reply
from labspawner.extension.reporter import AFTER_CHANGE_S, LONGEST_S, Reporter


class World:
    """A hub, a server and a clock that do what they are told."""

    def __init__(self) -> None:
        self.now, self.state = 1000.0, "idle"
        self.reply = Reply(200, {"v": 1, "report_every_s": 60})
        self.sent: list[float] = []
        self.reporter = Reporter(
            self,
            collect=self.collect,
            state=lambda: self.state,
            clock=lambda: self.now,
            every_s=60,
            jitter=lambda: 1.0,
        )

    async def collect(self) -> dict[str, Any]:
        return {"v": 1}

    async def post(self, what: str, body: Any) -> Reply:
        self.sent.append(self.now)
        await asyncio.sleep(0)
        return self.reply

    async def until(self, end: float, step_s: float = 1.0) -> list[float]:
        """Tick every `step_s` seconds, and say when something was sent."""
        before = len(self.sent)
        while self.now < end:
            await self.reporter.tick()
            self.now += step_s
        return self.sent[before:]


@pytest.fixture
def world() -> World:
    return World()


async def test_the_first_report_is_at_once_and_the_next_when_the_hub_wishes(world):
    world.reply = Reply(200, {"v": 1, "report_every_s": 30})

    assert await world.until(1100) == [1000, 1030, 1060, 1090]


async def test_a_change_is_told_at_once_but_not_every_second(world):
    await world.until(1010)
    world.state = "busy"
    assert await world.until(1012) == [1010]
    world.state = "idle"

    assert await world.until(1030) == [1010 + AFTER_CHANGE_S]


async def test_what_changed_while_it_was_told_is_told_again(world):
    async def collect() -> dict[str, Any]:
        world.state = "busy"
        return {}

    world.reporter._collect = collect

    assert await world.until(1030) == [1000, 1005]


async def test_while_the_hub_is_away_it_is_asked_less_and_less_often(world, caplog):
    world.reply = Reply(AWAY, {})

    sent = await world.until(1400)

    gaps = [later - earlier for earlier, later in pairwise(sent)]
    assert gaps == [2, 4, 8, 16, 32, 60, 60, 60, 60, 60][: len(gaps)]
    assert len(caplog.records) == 1


async def test_changes_do_not_storm_a_hub_that_is_away(world):
    world.reply = Reply(AWAY, {})
    await world.until(1100)
    world.state = "busy"

    assert len(await world.until(1190)) <= 2


async def test_a_hub_that_knows_no_reports_is_left_in_peace(world):
    world.reply = Reply(404, {})

    sent = await world.until(1000 + 3 * LONGEST_S, step_s=5)

    assert len(sent) <= 7
    assert world.reporter.answer is None
    assert world.reporter.status == 404


async def test_a_hub_that_comes_back_gets_what_changed(world):
    world.reply = Reply(AWAY, {})
    await world.until(1010)
    world.state, world.reply = "busy", Reply(200, {"v": 1})

    await world.until(1100)

    assert world.reporter.answer == {"v": 1}
    assert world.reporter.status == 200


async def test_the_hub_is_asked_at_each_mark_not_up_to_a_minute_later(world):
    world.reply = Reply(
        200,
        {
            "v": 1,
            "now": "2026-11-02T10:00:00Z",
            "warn_at": ["2026-11-02T09:00:00+00:00", "2026-11-02T10:00:20+00:00", "nonsense"],
            "ends_at": "2026-11-02T10:30:00+00:00",
        },
    )

    assert (await world.until(1025))[:2] == [1000, 1021]


@pytest.mark.parametrize("odd", [None, True, "10", -5, 0, float("nan"), []])
async def test_an_odd_wish_of_the_hub_changes_nothing(world, odd):
    world.reply = Reply(
        200, {"v": 1, "report_every_s": odd, "warn_at": 3, "ends_at": odd, "now": "2026-11-02T10:00:00Z"}
    )

    assert await world.until(1070) == [1000, 1060]


@pytest.mark.parametrize(("wish", "count"), [(0.001, 10), (10**9, 1)])
async def test_a_wish_beyond_reason_is_brought_back_to_it(world, wish, count):
    world.reply = Reply(200, {"v": 1, "report_every_s": wish})

    assert len(await world.until(1010)) == count


async def test_an_answer_of_another_version_is_no_answer(world):
    world.reply = Reply(200, {"v": 2})
    await world.until(1001)

    assert world.reporter.answer is None


async def test_two_ticks_at_once_make_one_report(world):
    await asyncio.gather(world.reporter.tick(), world.reporter.tick())

    assert len(world.sent) == 1


async def test_after_an_extension_the_next_report_comes_soon(world):
    await world.until(1010)

    world.reporter.soon()

    assert await world.until(1020) == [1011]
