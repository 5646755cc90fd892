"""One piece of work per turn of the loop, in order, with nobody forgotten."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from labspawner.gate import Pace, Turnstile

ONE = Pace(1)


async def turns_of_the_loop(stop: asyncio.Event) -> int:
    count = 0
    while not stop.is_set():
        await asyncio.sleep(0)
        count += 1
    return count


async def in_order(turnstile: Turnstile, kinds: list[str]) -> list[int]:
    """Who came through first, second ...: all ask at once."""
    came: list[int] = []

    async def one(number: int, kind: str) -> None:
        await turnstile.turn(kind)
        came.append(number)

    await asyncio.gather(*(one(number, kind) for number, kind in enumerate(kinds)))
    return came


async def test_one_is_let_through_per_turn_of_the_loop():
    turnstile, stop = Turnstile({"a": ONE}), asyncio.Event()
    counting = asyncio.create_task(turns_of_the_loop(stop))

    await in_order(turnstile, ["a"] * 50)
    stop.set()

    assert await counting >= 50


async def test_first_come_first_served():
    assert await in_order(Turnstile({"a": ONE}), ["a"] * 20) == list(range(20))


async def test_who_has_more_weight_gets_more_turns_and_nobody_waits_for_ever():
    turnstile = Turnstile({"often": Pace(3), "seldom": ONE})

    came = await in_order(turnstile, ["seldom"] * 10 + ["often"] * 30)

    assert sum(number < 10 for number in came[:20]) == 5
    assert sorted(came) == list(range(40))


async def test_who_was_away_has_saved_up_no_turns():
    turnstile = Turnstile({"a": ONE, "b": ONE})
    await in_order(turnstile, ["a"] * 100)

    came = await in_order(turnstile, ["a"] * 10 + ["b"] * 10)

    assert 4 <= sum(number < 10 for number in came[:10]) <= 6


async def test_a_cancelled_wait_leaves_the_line_and_holds_up_nobody():
    turnstile = Turnstile({"a": ONE})
    waits = [asyncio.ensure_future(turnstile.turn("a")) for _ in range(3)]
    await asyncio.sleep(0)

    waits[1].cancel()
    await asyncio.wait(waits, timeout=120)

    assert [wait.cancelled() for wait in waits] == [False, True, False]
    assert turnstile.waiting("a") == 0


async def test_a_line_that_ran_empty_starts_again():
    turnstile = Turnstile({"a": ONE})
    await turnstile.turn("a")

    await asyncio.wait_for(turnstile.turn("a"), 120)


async def test_each_hears_the_place_at_once_and_whenever_it_is_a_quarter_of_that():
    turnstile = Turnstile({"a": ONE})
    heard: dict[int, list[int]] = {number: [] for number in range(1, 9)}

    await asyncio.gather(*(turnstile.turn("a", heard[number].append) for number in heard))

    assert heard[1] == [1]
    assert heard[8] == [8, 2, 1]
    assert heard[5] == [5, 1]
    assert heard[2] == [2, 1]


async def test_who_left_in_front_is_not_counted_once_the_line_has_come_so_far():
    turnstile = Turnstile({"a": ONE})
    heard: list[int] = []
    waits = [asyncio.ensure_future(turnstile.turn("a")) for _ in range(9)]
    last = asyncio.ensure_future(turnstile.turn("a", heard.append))
    await asyncio.sleep(0)

    for wait in waits[:8]:
        wait.cancel()
    await asyncio.wait([*waits, last], timeout=120)

    assert heard[0] == 10
    assert heard == sorted(heard, reverse=True)


async def test_a_kind_that_does_not_exist_is_an_error():
    with pytest.raises(KeyError):
        await Turnstile({"a": ONE}).turn("b")


async def test_those_who_share_a_turn_run_in_a_row_and_then_who_was_asked_to_call_back():
    turnstile, ran = Turnstile({"a": Pace(1, together=3)}), []

    async def one(number: int) -> None:
        await turnstile.turn("a")
        asyncio.get_running_loop().call_soon(ran.append, "somebody else")
        turnstile.after(lambda: ran.append(f"after {number}"))
        ran.append(str(number))

    await asyncio.gather(*(one(number) for number in range(4)))
    await turnstile.turn("a")

    assert ran[:6] == ["0", "1", "2", "after 0", "after 1", "after 2"]
    assert ran[6:9] == ["somebody else"] * 3
    assert ran.index("after 3") > ran.index("3")


async def test_a_call_back_comes_even_where_nobody_waits():
    turnstile, called = Turnstile({"a": ONE}), asyncio.Event()

    turnstile.after(called.set)

    await asyncio.wait_for(called.wait(), 120)


async def test_after_a_heavy_piece_come_turns_without_one():
    turnstile = Turnstile({"heavy": Pace(1, pause=3)})
    turns: list[int] = []
    stop = asyncio.Event()

    async def count() -> None:
        nonlocal turn
        while not stop.is_set():
            turn += 1
            await asyncio.sleep(0)

    async def one() -> None:
        await turnstile.turn("heavy")
        turns.append(turn)

    turn = 0
    counting = asyncio.create_task(count())
    await asyncio.gather(*(one() for _ in range(3)))
    stop.set()
    await counting

    assert [later - earlier for earlier, later in itertools.pairwise(turns)] == [4, 4]


async def test_in_the_turns_without_a_heavy_piece_others_go_on():
    turnstile = Turnstile({"heavy": Pace(1, pause=2), "light": Pace(1)})

    came = await in_order(turnstile, ["heavy"] * 2 + ["light"] * 4)

    assert came.index(1) - came.index(0) >= 3


async def test_a_heavy_piece_waits_a_little_for_who_asks_again_and_not_for_ever():
    turnstile, came, stop = Turnstile({"heavy": Pace(1, pause=3), "light": Pace(10)}), [], asyncio.Event()

    async def asking() -> None:
        while not stop.is_set():
            await turnstile.turn("light")
            came.append("light")
            await asyncio.sleep(0)

    async def one() -> None:
        await turnstile.turn("heavy")
        came.append("heavy")

    again = asyncio.create_task(asking())
    await asyncio.gather(*(one() for _ in range(3)))
    stop.set()
    await again

    heavy = [place for place, kind in enumerate(came) if kind == "heavy"]
    assert [later - earlier for earlier, later in itertools.pairwise(heavy)] == [pytest.approx(11, abs=4)] * 2
