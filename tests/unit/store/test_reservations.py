"""Two never hold the same, whatever they do at the same time; what was freed cools down."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from builders import NOW
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.store.clock import SHARED

from labspawner.errors import StoreUnavailable
from labspawner.store import Reservations, Store
from labspawner.store.engine import make_engine
from labspawner.store.schema import reservations as table

LATER = NOW + timedelta(minutes=5)
IDS = ("100", "101", "102")

Make = Callable[..., Reservations]


@pytest.fixture
def with_table(db_url: str) -> None:
    """The table is there: what makes it is a test of its own."""
    engine = make_engine(db_url)
    table.create(engine)
    engine.dispose()


@pytest.fixture
async def make(db_url: str, with_table: None) -> AsyncIterator[Make]:
    """Reservations in one database, each object with a connection of its own; closed at the end."""
    async for made in _maker(db_url):
        yield made


@pytest.fixture
async def make_in_an_empty_database(db_url: str) -> AsyncIterator[Make]:
    async for made in _maker(db_url):
        yield made


async def _maker(db_url: str) -> AsyncIterator[Make]:
    made: list[Reservations] = []

    def open_one(hub_id: str = "hub", scope: str = "proxmox") -> Reservations:
        made.append(Reservations.open(db_url, hub_id=hub_id, scope=scope))
        return made[-1]

    yield open_one
    for each in made:
        await each.close()


async def _values(reservations: Reservations, now: datetime = NOW) -> dict[str, str | None]:
    return {each.value: each.owner for each in await reservations.held(now)}


async def test_each_owner_gets_the_first_candidate_that_nobody_holds(make: Make):
    reservations = make()

    taken = [await reservations.take("vmid", IDS, owner, NOW) for owner in ("a", "b", "c", "d")]

    assert taken == ["100", "101", "102", None]
    assert await _values(reservations) == {"100": "a", "101": "b", "102": "c"}


async def test_an_owner_that_asks_again_gets_the_same_whatever_the_candidates(make: Make):
    reservations = make()
    await reservations.take("vmid", IDS, "a", NOW)

    again = await reservations.take("vmid", ["102"], "a", NOW)

    assert again == "100"
    assert await _values(reservations) == {"100": "a"}


@pytest.mark.parametrize("db_url", SHARED, indirect=True)
async def test_pools_hubs_and_providers_do_not_know_of_each_other(make: Make):
    hub, other, cluster = make(), make(hub_id="other"), make(scope="cluster2")

    taken = [
        await hub.take("vmid", ["100"], "a", NOW),
        await hub.take("address", ["100"], "a", NOW),
        await other.take("vmid", ["100"], "b", NOW),
        await cluster.take("vmid", ["100"], "c", NOW),
    ]

    assert taken == ["100"] * 4
    assert await other.free("a", NOW) == 0
    assert {each.pool for each in await hub.held(NOW)} == {"vmid", "address"}
    assert [each.pool for each in await hub.held(NOW, "address")] == ["address"]


async def test_what_was_freed_is_nobodys_until_it_has_cooled_down(make: Make):
    reservations = make()
    await reservations.take("vmid", ["100"], "a", NOW)

    freed = await reservations.free("a", NOW, cool_down=timedelta(minutes=5))

    assert freed == 1
    assert await reservations.take("vmid", ["100"], "b", LATER - timedelta(seconds=1)) is None
    assert await reservations.take("vmid", ["100"], "a", LATER - timedelta(seconds=1)) is None
    assert await reservations.take("vmid", ["100"], "b", LATER) == "100"


async def test_freeing_again_does_not_make_it_cool_down_longer(make: Make):
    reservations = make()
    await reservations.take("vmid", ["100"], "a", NOW)
    await reservations.free("a", NOW, cool_down=timedelta(minutes=5))

    assert await reservations.free("a", LATER, cool_down=timedelta(minutes=5)) == 0

    assert await reservations.held(LATER) == []


async def test_without_a_cool_down_it_is_free_at_once(make: Make):
    reservations = make()
    await reservations.take("draining", ["pve1"], "draining:pve1", NOW)

    await reservations.free("draining:pve1", NOW)

    assert await reservations.take("draining", ["pve1"], "b", NOW) == "pve1"


async def test_one_pool_of_an_owner_can_be_freed_alone(make: Make):
    reservations = make()
    await reservations.take("vmid", ["100"], "a", NOW)
    await reservations.take("address", ["10.0.0.7"], "a", NOW)

    assert await reservations.free("a", NOW, pool="address") == 1

    assert await _values(reservations) == {"100": "a"}


async def test_an_address_of_somebody_else_is_set_aside_and_its_owner_gets_another(make: Make):
    reservations = make()
    await reservations.take("address", ["10.0.0.7", "10.0.0.8"], "a", NOW)

    await reservations.set_aside("address", "10.0.0.7", LATER, "answers before its VM has booted")
    await reservations.set_aside("address", "10.0.0.7", LATER, "answers before its VM has booted")

    assert await reservations.take("address", ["10.0.0.7", "10.0.0.8"], "a", NOW) == "10.0.0.8"
    aside = next(each for each in await reservations.held(NOW) if each.owner is None)
    assert (aside.value, aside.until, aside.why) == ("10.0.0.7", LATER, "answers before its VM has booted")
    assert await _values(reservations, LATER) == {"10.0.0.8": "a"}


async def test_something_that_nobody_holds_can_be_set_aside(make: Make):
    reservations = make()

    await reservations.set_aside("vmid", "100", LATER)

    assert await reservations.take("vmid", IDS, "a", NOW) == "101"


async def test_what_a_host_says_is_recorded_and_replaces_what_the_owner_held(make: Make):
    reservations = make()
    await reservations.take("address", ["10.0.0.7"], "a", NOW)

    assert await reservations.adopt("address", "10.0.0.9", "a", NOW)

    assert await _values(reservations) == {"10.0.0.9": "a"}
    assert await reservations.adopt("address", "10.0.0.9", "a", NOW)


async def test_what_rests_can_be_recorded_for_the_vm_that_has_it(make: Make):
    reservations = make()
    await reservations.set_aside("address", "10.0.0.7", LATER)

    assert await reservations.adopt("address", "10.0.0.7", "a", NOW)

    held = (await reservations.held(LATER))[0]
    assert (held.owner, held.until, held.why) == ("a", None, "")


async def test_what_another_owner_holds_is_not_recorded_for_a_second_one(make: Make):
    reservations = make()
    await reservations.take("address", ["10.0.0.7"], "a", NOW)
    await reservations.take("address", ["10.0.0.8"], "b", NOW)

    assert not await reservations.adopt("address", "10.0.0.7", "b", NOW)

    assert await _values(reservations) == {"10.0.0.7": "a", "10.0.0.8": "b"}


@pytest.mark.parametrize("db_url", SHARED, indirect=True)
async def test_of_many_that_want_the_same_at_once_each_gets_another(make: Make):
    hubs = [make() for _ in range(4)]
    wanted = [str(number) for number in range(40)]

    taken = await asyncio.gather(
        *(hubs[number % 4].take("vmid", wanted, f"lease{number}", NOW) for number in range(40))
    )

    assert sorted(taken) == sorted(wanted)


@pytest.mark.parametrize("db_url", SHARED, indirect=True)
async def test_of_many_that_want_the_last_one_exactly_one_gets_it(make: Make):
    hubs = [make() for _ in range(4)]

    taken = await asyncio.gather(*(hub.take("vmid", ["100"], f"lease{n}", NOW) for n, hub in enumerate(hubs)))

    assert sorted(map(str, taken)) == ["100", "None", "None", "None"]


@pytest.mark.parametrize("db_url", SHARED, indirect=True)
async def test_one_owner_that_asks_through_several_processes_holds_one_thing(make: Make):
    hubs = [make() for _ in range(4)]

    taken = await asyncio.gather(*(hub.take("vmid", reversed(IDS), "a", NOW) for hub in hubs))

    assert set(taken) == {"102"}
    assert await _values(hubs[0]) == {"102": "a"}


@pytest.mark.parametrize("db_url", SHARED, indirect=True)
async def test_what_is_held_outlives_the_hub(make: Make):
    before = make()
    await before.take("vmid", IDS, "a", NOW)
    await before.close()

    assert await _values(make()) == {"100": "a"}


@pytest.mark.parametrize("db_url", SHARED, indirect=True)
async def test_leases_and_reservations_share_a_database_whoever_comes_first(
    make_in_an_empty_database: Make, make_store: Callable[[], Store]
):
    make, store = make_in_an_empty_database, make_store()
    await make().take("vmid", IDS, "a", NOW)
    await store.migrate()

    assert await store.db_ok()
    assert await _values(make()) == {"100": "a"}


@pytest.mark.parametrize("db_url", SHARED, indirect=True)
async def test_of_several_that_come_first_one_makes_the_table(make_in_an_empty_database: Make):
    hubs = [make_in_an_empty_database() for _ in range(3)]

    taken = await asyncio.gather(*(hub.take("vmid", IDS, f"lease{n}", NOW) for n, hub in enumerate(hubs)))

    assert sorted(map(str, taken)) == list(IDS)


async def test_a_cancelled_taker_has_taken_or_not_but_nothing_comes_later(make: Make):
    reservations = make()
    await reservations.held(NOW)
    looking, go_on = threading.Event(), threading.Event()

    def slowly() -> Iterator[str]:
        looking.set()
        assert go_on.wait(120)
        yield "100"

    taking = asyncio.get_running_loop().create_task(reservations.take("vmid", slowly(), "a", NOW))
    await asyncio.to_thread(looking.wait, 120)
    taking.cancel()
    await asyncio.sleep(0)
    assert not taking.done()
    go_on.set()

    with pytest.raises(asyncio.CancelledError):
        await taking
    assert await _values(reservations) == {"100": "a"}


async def test_an_instant_without_a_timezone_is_refused(make: Make):
    with pytest.raises(ValueError, match="needs a timezone"):
        await make().take("vmid", IDS, "a", NOW.replace(tzinfo=None))


async def test_a_database_that_does_not_answer_is_said_so(tmp_path: Path):
    folder = tmp_path / "gone"
    folder.mkdir()
    reservations = Reservations.open(f"sqlite:///{folder}/a.sqlite", hub_id="hub", scope="proxmox")
    await reservations.take("vmid", IDS, "a", NOW)
    await reservations.close()
    for file in folder.iterdir():
        file.unlink()
    (folder / "a.sqlite").mkdir()

    with pytest.raises(StoreUnavailable):
        await Reservations.open(f"sqlite:///{folder}/a.sqlite", hub_id="hub", scope="proxmox").held(NOW)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.sampled_from("abcd"), st.permutations(IDS)),
        st.tuples(st.just("free"), st.sampled_from("abcd"), st.sampled_from([0, 3, 60])),
        st.tuples(st.just("aside"), st.sampled_from(IDS), st.integers(1, 9)),
        st.tuples(st.just("adopt"), st.sampled_from("abcd"), st.sampled_from(IDS)),
        st.tuples(st.just("wait"), st.integers(1, 9), st.none()),
    ),
    max_size=20,
)


@given(STEPS)
@settings(max_examples=25, deadline=None)
def test_no_history_gives_one_thing_to_two_or_two_things_to_one(steps: list[tuple[str, object, object]]):
    asyncio.run(_play(steps))


async def _play(steps: list[tuple[str, object, object]]) -> None:
    engine, now = make_engine("sqlite://"), NOW
    table.create(engine)
    reservations = Reservations(engine, hub_id="hub", scope="proxmox")
    resting: dict[str, datetime] = {}
    for verb, first, second in steps:
        before = await _values(reservations, now)
        if verb == "take":
            got = await reservations.take("vmid", list(second), str(first), now)
            mine = [value for value, owner in before.items() if owner == first]
            assert got == (mine[0] if mine else next((value for value in second if value not in before), None))
        elif verb == "free":
            await reservations.free(str(first), now, cool_down=timedelta(minutes=second))
            resting |= {value: now + timedelta(minutes=second) for value, owner in before.items() if owner == first}
        elif verb == "aside":
            await reservations.set_aside("vmid", str(first), now + timedelta(minutes=second))
            resting[str(first)] = now + timedelta(minutes=second)
        elif verb == "adopt":
            await reservations.adopt("vmid", str(second), str(first), now)
            resting.pop(str(second), None)
        else:
            now += timedelta(minutes=first)
        held = await reservations.held(now)
        owners = [each.owner for each in held if each.owner is not None]
        assert len(owners) == len(set(owners))
        assert all(each.until is not None and each.until > now for each in held if each.owner is None)
        assert not {each.value for each in held if each.owner} & {v for v, until in resting.items() if until > now}
    await reservations.close()
