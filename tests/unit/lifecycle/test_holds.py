"""Places that are held: one for each who clicked, for a moment, for one start; and another variant for who waits."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from labspawner.errors import BadChoice, LeaseConflict, NeverFits, NoRoom, NotAllowed, ProviderUnavailable, StartFailed
from labspawner.lifecycle import Engine
from labspawner.lifecycle.holds import HOLD_FOR, TAKES, TAKES_WITHIN, Hold, Holds, TooManyHolds
from labspawner.lifecycle.pace import Pace
from labspawner.model import Phase, Resources
from labspawner.providers.sim import SimProvider
from labspawner.sentences import plain
from labspawner.testing.waiting import eventually

from .conftest import (
    GIB,
    Clock,
    OpenEngine,
    OpenSim,
    Scripted,
    a_variant,
    an_order,
    launching,
    nothing_is_left,
    quiet,
    reaches,
)

NEED = Resources()


@pytest.fixture
def two_places(open_sim: OpenSim) -> SimProvider:
    return open_sim(hosts=[{"name": "a", "servers": 2, "memory": "8GiB"}])


@pytest.fixture
def lab(open_engine: OpenEngine, two_places: SimProvider) -> Engine:
    return open_engine(two_places)


async def room(engine: Engine, need: Resources = NEED, provider: str = "sim") -> Any:
    found = await engine.rooms(provider, [need])
    assert found is not None
    return found[need]


async def hold(engine: Engine, user: str = "student1", **changes: Any) -> Hold:
    return await engine.hold(an_order(user=user, **changes))


# -- what a hold is ---------------------------------------------------------------------------------------------------


async def test_a_held_place_is_nobody_elses_and_starts_its_user(lab: Engine):
    await lab.launch(an_order(user="first"), quiet)
    held = await hold(lab)

    with pytest.raises(NoRoom):
        await lab.launch(an_order(user="other"), quiet)
    lease = await lab.launch(an_order(), quiet)

    assert (held.user, held.profile, held.provider) == ("student1", "py101/base", "sim")
    assert lease.phase is Phase.READY
    assert lab.holds.all() == []


async def test_of_many_who_want_the_last_places_at_once_as_many_get_one_as_there_are(lab: Engine):
    found = await asyncio.gather(*(hold(lab, f"s{number}") for number in range(20)), return_exceptions=True)

    assert [type(one) for one in found].count(Hold) == 2
    assert {type(one) for one in found} == {Hold, NoRoom}
    assert (await room(lab)).free == 0
    assert (await room(lab)).held == 2


async def test_a_hold_is_spent_once(lab: Engine):
    await hold(lab)
    await lab.launch(an_order(), quiet)
    await lab.stop("student1", "")
    await lab.launch(an_order(user="a"), quiet)
    await lab.launch(an_order(user="b"), quiet)

    with pytest.raises(NoRoom):
        await lab.launch(an_order(), quiet)


async def test_a_hold_is_spent_even_by_a_start_that_fails(open_engine: OpenEngine, open_sim: OpenSim):
    sim = open_sim(hosts=[{"name": "a", "servers": 1}], fail_at="boot")
    engine = open_engine(sim)
    await hold(engine)

    with pytest.raises(StartFailed):
        await engine.launch(an_order(), quiet)

    assert engine.holds.of("student1") is None
    await nothing_is_left(engine, sim)
    assert (await room(engine)).free == 1


async def test_a_hold_lapses_by_itself_and_lets_in_who_waits(open_engine: OpenEngine, open_sim: OpenSim, clock: Clock):
    engine = open_engine(open_sim(hosts=[{"name": "a", "servers": 1}]), recheck_s=3600.0)
    engine.holds = engine._launcher._holds = Holds(engine._admission, clock, hold_for=timedelta(seconds=0.05))
    await hold(engine, "idler")

    lease = await engine.launch(an_order(user="worker", wait_s=120.0), quiet)

    assert lease.user == "worker"
    assert engine.holds.all() == []


async def test_a_hold_that_is_over_is_worth_nothing_though_its_timer_has_not_rung(lab: Engine, clock: Clock):
    await lab.launch(an_order(user="first"), quiet)
    await hold(lab)
    clock.forward(seconds=HOLD_FOR.total_seconds())

    assert lab.holds.of("student1") is None
    assert lab.holds.all() == []


async def test_a_new_hold_takes_the_place_of_the_old_one(lab: Engine):
    first = await hold(lab)
    second = await hold(lab, profile="py101/other")

    assert lab.holds.all() == [second]
    assert (await room(lab)).free == 1
    assert not lab.holds.release("student1", first.id)
    assert lab.holds.release("student1", second.id)
    assert (await room(lab)).free == 2


async def test_two_clicks_at_once_never_leave_two_places_taken(lab: Engine):
    found = await asyncio.gather(hold(lab), hold(lab), return_exceptions=True)

    # Either the second was refused, or it came late and took the first one's place.
    assert {type(one) for one in found} <= {Hold, TooManyHolds}
    assert len(lab.holds.all()) == 1
    assert lab.holds.all()[0] in found
    assert (await room(lab)).free == 1


async def test_nobody_gives_back_what_is_held_for_somebody_else(lab: Engine):
    held = await hold(lab)

    assert not lab.holds.release("thief", held.id)
    assert not lab.holds.release("thief")
    assert lab.holds.of("student1") == held


async def test_nobody_starts_with_what_is_held_for_somebody_else(lab: Engine):
    await lab.launch(an_order(user="first"), quiet)
    held = await hold(lab)

    with pytest.raises(NoRoom):
        await lab.launch(an_order(user="thief"), quiet)

    assert lab.holds.of("student1") == held


async def test_who_starts_another_profile_gives_up_what_was_held_and_stands_behind_who_waits(lab: Engine):
    await lab.launch(an_order(user="first"), quiet)
    await hold(lab)
    with launching(lab, an_order(user="waiting", wait_s=300.0)) as waits:
        await in_line(lab, "waiting")

        with pytest.raises(NoRoom):
            await lab.launch(an_order(profile="py101/other"), quiet)

        assert (await waits).user == "waiting"
    assert lab.holds.all() == []


async def test_a_thousand_clicks_keep_one_place_and_then_none(lab: Engine):
    answers = [await _attempt(lab) for _ in range(1000)]

    assert answers[:TAKES] == ["held"] * TAKES
    assert set(answers[TAKES:]) == {"refused"}
    assert len(lab.holds.all()) == 1
    assert (await room(lab)).free == 1


async def _attempt(engine: Engine) -> str:
    try:
        await hold(engine)
    except TooManyHolds as exc:
        return "refused" if exc.status_code == 429 and exc.retry_after_s >= 1 else "oddly refused"
    return "held"


async def test_who_clicked_too_often_may_click_again_later_and_start_at_once(lab: Engine, clock: Clock):
    for _ in range(TAKES):
        await hold(lab)
    with pytest.raises(TooManyHolds):
        await hold(lab)

    assert (await lab.launch(an_order(), quiet)).phase is Phase.READY
    await lab.stop("student1", "")
    clock.forward(seconds=TAKES_WITHIN.total_seconds())
    assert await hold(lab)


async def test_a_start_forgives_the_clicks_before_it(lab: Engine):
    for _ in range(TAKES):
        await hold(lab)
    await lab.launch(an_order(), quiet)
    await lab.stop("student1", "")

    assert await hold(lab)


async def test_no_place_is_held_while_others_wait_in_line(open_engine: OpenEngine, open_sim: OpenSim):
    engine = open_engine(open_sim(hosts=[{"name": "a", "memory": "4GiB"}]))
    await engine.launch(an_order(user="s0", variants=(a_variant(memory=2 * GIB),)), quiet)
    large = an_order(user="large", wait_s=300.0, variants=(a_variant(memory=3 * GIB),))

    with launching(engine, large):
        await eventually(engine.lines, deadline_s=60)

        with pytest.raises(NoRoom):
            await hold(engine, variants=(a_variant(memory=1 * GIB),))
        found = await room(engine, Resources(memory_bytes=1 * GIB))
        assert (found.free, found.waiting, found.open) == (2, 1, False)


async def test_a_smaller_start_uses_the_place_and_a_larger_one_has_to_find_its_own(lab: Engine):
    await lab.launch(an_order(user="first"), quiet)
    await hold(lab, variants=(a_variant(memory=2 * GIB),))

    assert (await lab.launch(an_order(variants=(a_variant(memory=1 * GIB),)), quiet)).reserves.memory_bytes == GIB
    await lab.stop("student1", "")
    await hold(lab, variants=(a_variant(memory=1 * GIB),))
    with pytest.raises(NeverFits):
        await lab.launch(an_order(variants=(a_variant(memory=9 * GIB),)), quiet)
    assert lab.holds.all() == []
    assert (await room(lab)).free == 1


async def test_where_the_next_variant_is_taken_by_itself_the_hold_is_of_the_one_with_room(
    open_engine: OpenEngine, open_sim: OpenSim
):
    engine = open_engine(
        open_sim(hosts=[{"name": "a", "servers": 1}]), open_sim("spare", hosts=[{"name": "b", "servers": 1}])
    )
    await engine.launch(an_order(user="first"), quiet)
    both = (a_variant(), a_variant("spare"))

    held = await hold(engine, variants=both, fallback=True)
    lease = await engine.launch(an_order(variants=both, fallback=True), quiet)

    assert (held.provider, held.variant, lease.provider) == ("spare", 1, "spare")


async def test_a_hold_is_refused_with_what_a_start_would_be_refused_with(lab: Engine):
    await lab.launch(an_order(per_user=1), quiet)

    with pytest.raises(NotAllowed):
        await hold(lab, server_name="second", per_user=1)
    with pytest.raises(NeverFits):
        await hold(lab, "other", variants=(a_variant(memory=9 * GIB),))


async def test_a_start_under_way_gets_no_second_place(lab: Engine):
    slow = an_order(variants=(a_variant(settings={"stall_at": "boot"}),))
    with launching(lab, slow):
        await reaches(lab, Phase.LAUNCHING)

        with pytest.raises(LeaseConflict):
            await hold(lab)


async def test_a_silent_provider_holds_nothing(open_engine: OpenEngine):
    silent = Scripted(places=1)

    async def nothing() -> Any:
        raise ProviderUnavailable(plain("away"))

    silent.on_capacity = nothing
    engine = open_engine(silent)

    with pytest.raises(ProviderUnavailable):
        await hold(engine)
    assert await engine.rooms("sim", [NEED]) is None
    assert engine.holds.all() == []


async def test_an_engine_that_closes_has_no_hold_and_no_timer_left(open_engine: OpenEngine, open_sim: OpenSim):
    engine = open_engine(open_sim())
    await hold(engine)

    await engine.close()

    assert engine.holds.all() == []


# -- another variant while waiting ------------------------------------------------------------------------------------


@pytest.fixture
def ask(open_engine: OpenEngine, open_sim: OpenSim) -> Engine:
    """A full provider and one with a place."""
    return open_engine(
        open_sim(hosts=[{"name": "a", "servers": 1}]), open_sim("spare", hosts=[{"name": "b", "servers": 1}])
    )


def either(user: str = "student1", **changes: Any) -> Any:
    variants = (a_variant(index=0), a_variant("spare", index=1, pinned={"index": 1}))
    return an_order(user=user, **{"variants": variants, "ask": True, "wait_s": 300.0, **changes})


async def in_line(engine: Engine, user: str = "student1") -> None:
    """Until this user stands in line."""

    def stands() -> bool:
        leases = [engine.book.get(place.lease_id) for line in engine.lines().values() for place in line]
        return any(lease is not None and lease.user == user for lease in leases)

    await eventually(stands, deadline_s=60)


async def test_who_waits_may_take_the_variant_that_has_room(ask: Engine):
    await ask.launch(an_order(user="first"), quiet)
    with launching(ask, either()) as start:
        await in_line(ask)
        assert [variant.provider for variant in ask.others("student1", "")] == ["spare"]

        await ask.switch("student1", "", 1)
        lease = await start

    assert (lease.provider, lease.pinned["index"]) == ("spare", 1)
    assert ask.lines() == {}
    assert ask.others("student1", "") == ()


async def test_a_variant_without_room_is_refused_and_the_place_in_line_is_kept(ask: Engine):
    await ask.launch(an_order(user="first"), quiet)
    await ask.launch(an_order(user="second", variants=(a_variant("spare"),)), quiet)
    with launching(ask, either()) as start:
        await in_line(ask)

        with pytest.raises(NoRoom):
            await ask.switch("student1", "", 1)
        await ask.stop("first", "")

        assert (await start).provider == "sim"


@pytest.mark.parametrize("index", [0, 2, -1])
async def test_only_the_other_variants_of_the_profile_can_be_taken(ask: Engine, index: int):
    await ask.launch(an_order(user="first"), quiet)
    with launching(ask, either()):
        await in_line(ask)

        with pytest.raises(BadChoice):
            await ask.switch("student1", "", index)


async def test_where_the_profile_does_not_ask_nothing_can_be_taken(ask: Engine):
    await ask.launch(an_order(user="first"), quiet)
    with launching(ask, either(ask=False)):
        await in_line(ask)

        assert ask.others("student1", "") == ()
        with pytest.raises(BadChoice):
            await ask.switch("student1", "", 1)


async def test_who_does_not_wait_cannot_take_another_variant(ask: Engine):
    with pytest.raises(LeaseConflict):
        await ask.switch("student1", "", 1)
    await ask.launch(either(), quiet)
    with pytest.raises(LeaseConflict):
        await ask.switch("student1", "", 1)


async def test_of_two_who_take_the_last_place_elsewhere_one_gets_it_and_the_other_waits_on(ask: Engine):
    await ask.launch(an_order(user="first"), quiet)
    with launching(ask, either("s1")) as one, launching(ask, either("s2")) as two:
        await in_line(ask, "s1")
        await in_line(ask, "s2")

        answers = await asyncio.gather(ask.switch("s1", "", 1), ask.switch("s2", "", 1), return_exceptions=True)
        assert sorted(type(answer).__name__ for answer in answers) == ["NoRoom", "NoneType"]
        await ask.stop("first", "")
        leases = {lease.user: lease.provider for lease in (await one, await two)}

    assert sorted(leases.values()) == ["sim", "spare"]


async def test_cancelled_at_the_moment_of_the_choice_nothing_is_left(ask: Engine, open_sim: OpenSim):
    await ask.launch(an_order(user="first"), quiet)
    with launching(ask, either()) as start:
        await in_line(ask)
        await ask.switch("student1", "", 1)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
    await ask.stop("first", "")

    await nothing_is_left(ask, *ask.providers.values())  # type: ignore[arg-type]


async def test_let_in_at_the_moment_of_the_choice_there_is_one_server_and_one_promise(ask: Engine):
    await ask.launch(an_order(user="first"), quiet)
    with launching(ask, either()) as start:
        await in_line(ask)
        stopping = asyncio.ensure_future(ask.stop("first", ""))
        await asyncio.gather(ask.switch("student1", "", 1), return_exceptions=True)
        lease = await start
        await stopping

    assert list(ask._admission._promised) == [lease.id]


# -- rooms and pace -----------------------------------------------------------------------------------------------------


async def test_a_room_says_how_many_fit_how_many_wait_and_what_a_newcomer_would_read(lab: Engine):
    assert ((await room(lab)).free, (await room(lab)).total) == (2, 2)
    for user in ("a", "b"):
        await lab.launch(an_order(user=user), quiet)

    with launching(lab, an_order(user="c", wait_s=300.0)):
        await eventually(lab.lines, deadline_s=60)
        found = await room(lab)

    assert (found.free, found.total, found.waiting, found.wait.place, found.open) == (0, 2, 1, 2, False)


async def test_a_room_that_no_machine_could_give_says_so(lab: Engine):
    assert (await room(lab, Resources(memory_bytes=9 * GIB))).never
    assert not (await room(lab, Resources(memory_bytes=8 * GIB))).never


async def test_a_provider_without_limits_has_room_without_a_number(open_engine: OpenEngine, open_sim: OpenSim):
    found = await room(open_engine(open_sim()))

    assert (found.free, found.total, found.open) == (None, None, True)


async def test_each_change_of_what_is_free_is_heard(lab: Engine):
    heard = lab.room_changed.rang
    await hold(lab)
    after_hold = lab.room_changed.rang
    lab.holds.release("student1")

    assert heard < after_hold < lab.room_changed.rang
    assert await lab.room_changed.since(heard) == lab.room_changed.rang


async def test_a_start_is_remembered_for_how_long_it_took(lab: Engine, clock: Clock):
    assert lab.typical_start_s("py101/base") is None

    await lab.launch(an_order(), quiet)

    assert lab.typical_start_s("py101/base") == 0.0
    assert lab.typical_start_s("py101/base", "elsewhere") is None


def test_the_pace_of_a_profile_is_the_median_of_its_last_starts():
    pace = Pace()
    for seconds in (3.0, 100.0, 5.0):
        pace.note("p", "sim", seconds)
    pace.note("p", "other", 900.0)

    assert pace.typical_s("p", "sim") == 5.0
    assert pace.typical_s("p") == 52.5
    assert pace.typical_s("q") is None
