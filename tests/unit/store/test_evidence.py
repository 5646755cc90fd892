"""What is known of the use of servers, and what students were granted; in each kind of database."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from builders import NOW, a_lease

from labspawner.model import Activity, Evidence, HostLook, LeaseId, Phase, Work, WorkKind
from labspawner.sentences import Sentence
from labspawner.store import Allowance, Standing, Store

MINUTE = timedelta(minutes=1)
EXTEND = {"day": "2026-11-02", "per_day": 3, "step": 30 * MINUTE, "base": NOW}
HOLD = {"day": "2026-11-02", "budget_s": 7200.0, "now": NOW}
REPORT = Activity(
    taken_at=NOW,
    valid_until=NOW + MINUTE,
    last_activity=NOW - MINUTE,
    busy=True,
    work=(
        Work(kind=WorkKind.KERNEL, what="a\x00\ud800.ipynb", since=NOW),
        Work(kind=WorkKind.TERMINAL, what="python", since=None),
    ),
    work_count=7,
    waiting=1,
    clients=2,
    unsaved=3,
    gpu_last_busy=NOW,
)


def a_standing(**known) -> Standing:
    values = {
        "expected": True,
        "report": REPORT,
        "host": HostLook(since=NOW - MINUTE, looked_at=NOW, last_busy=None),
        "warned_at": NOW,
    }
    return Standing(
        evidence=Evidence(**{**values, **known}),
        verdict="warn",
        reason=Sentence("idle for {idle}", idle="3 min"),
        ends_at=NOW + MINUTE,
        cause="idle",
    )


@pytest.fixture
async def lease(store: Store):
    new = a_lease(phase=Phase.READY)
    await store.add(new)
    return new


async def test_what_is_known_comes_back_as_it_was(store: Store, lease):
    assert await store.standings([lease.id]) == {}

    assert await store.put_standings({lease.id: a_standing()}) == 1

    assert await store.standings([lease.id]) == {lease.id: a_standing()}
    assert await store.live_with_standings("test-hub") == [(lease, a_standing())]


async def test_what_is_not_known_comes_back_as_that(store: Store, lease):
    await store.put_standings({lease.id: Standing(evidence=Evidence())})

    assert await store.standings([lease.id]) == {lease.id: Standing(evidence=Evidence())}


async def test_the_later_report_replaces_the_earlier_one(store: Store, lease):
    await store.put_standings({lease.id: a_standing()})

    await store.put_standings({lease.id: a_standing(report=None, host=None)})

    assert (await store.standings([lease.id]))[lease.id] == a_standing(report=None, host=None)


async def test_live_leases_of_one_hub_come_oldest_first_with_or_without_evidence(store: Store, lease):
    older = a_lease(user="older", created_at=NOW - MINUTE)
    over, other = a_lease(user="over", phase=Phase.ENDED), a_lease(user="other", hub_id="hub2")
    for new in (older, over, other):
        await store.add(new)
        await store.put_standings({new.id: a_standing()} if new is not older else {})

    assert await store.live_with_standings("test-hub") == [(older, None), (lease, None)]


async def test_evidence_of_a_lease_that_is_not_on_record_is_left_out(store: Store, lease):
    both = {lease.id: a_standing(), LeaseId("pruned"): a_standing()}

    assert await store.put_standings(both) == 1
    assert await store.put_standings({}) == 0
    assert await store.standings([]) == {}


async def test_more_servers_than_one_statement_takes(store: Store):
    leases = [a_lease(user=f"s{number}") for number in range(503)]
    for lease in leases:
        await store.add(lease)

    assert await store.put_standings({lease.id: a_standing() for lease in leases}) == 503
    assert len(await store.standings([lease.id for lease in leases])) == 503


async def test_evidence_goes_with_its_lease(store: Store, clock):
    over = a_lease(phase=Phase.READY)
    await store.add(over)
    await store.put_standings({over.id: a_standing()})
    await store.extend(over.id, **EXTEND)
    await store.update(over.id, phase=Phase.ENDED)

    await store.prune(NOW + timedelta(days=1))

    assert await store.standings([over.id]) == {}


# -- extensions --------------------------------------------------------------------------------------------------------


async def test_each_extension_adds_a_step_until_the_days_are_used_up(store: Store, lease):
    ends = [(await store.extend(lease.id, **EXTEND)).until for _ in range(4)]

    assert ends == [NOW + 30 * MINUTE, NOW + 60 * MINUTE, NOW + 90 * MINUTE, None]
    assert (await store.standings([lease.id]))[lease.id].evidence.extended_until == NOW + 90 * MINUTE
    assert await store.granted("test-hub", "2026-11-02") == {lease.id: Allowance(extensions=3)}


async def test_the_next_day_has_clicks_again_and_goes_on_from_a_later_base(store: Store, lease):
    for _ in range(4):
        await store.extend(lease.id, **EXTEND)

    grant = await store.extend(lease.id, **{**EXTEND, "day": "2026-11-03", "base": NOW + timedelta(days=1)})

    assert grant.until == NOW + timedelta(days=1, minutes=30)
    assert grant.used == Allowance(extensions=1)


async def test_clicks_at_once_never_exceed_the_bound(store: Store, make_store, lease, request):
    stores = [store]
    if "memory" not in request.node.name:  # a second connection would see another, empty database
        stores.append(make_store())

    grants = await asyncio.gather(*(stores[n % len(stores)].extend(lease.id, **EXTEND) for n in range(10)))

    given = sorted(grant.until for grant in grants if grant.until)
    assert given == [NOW + 30 * MINUTE, NOW + 60 * MINUTE, NOW + 90 * MINUTE]


async def test_a_report_does_not_undo_what_was_granted(store: Store, lease):
    await store.extend(lease.id, **EXTEND)
    await store.hold(lease.id, seconds=60, **HOLD)

    await store.put_standings({lease.id: a_standing()})

    known = (await store.standings([lease.id]))[lease.id].evidence
    assert known == a_standing(extended_until=NOW + 30 * MINUTE, held_until=NOW + MINUTE).evidence


async def test_a_grant_does_not_undo_a_report(store: Store, lease):
    await store.put_standings({lease.id: a_standing()})

    await store.extend(lease.id, **EXTEND)

    assert (await store.standings([lease.id]))[lease.id].evidence.report == REPORT


async def test_nothing_is_granted_to_an_unknown_lease(store: Store):
    assert await store.extend(LeaseId("none"), **EXTEND) is None
    assert await store.hold(LeaseId("none"), seconds=60, **HOLD) is None


# -- holds -------------------------------------------------------------------------------------------------------------


async def test_a_hold_uses_the_days_budget_and_no_more(store: Store, lease):
    assert (await store.hold(lease.id, seconds=7200, **HOLD)).until == NOW + 120 * MINUTE

    later = {**HOLD, "now": NOW + 120 * MINUTE}
    assert (await store.hold(lease.id, seconds=1, **later)).until is None
    assert (await store.standings([lease.id]))[lease.id].evidence.held_until == NOW + 120 * MINUTE


async def test_a_hold_given_up_counts_as_far_as_it_was_used(store: Store, lease):
    await store.hold(lease.id, seconds=7200, **HOLD)

    given_up = await store.hold(lease.id, seconds=0, **{**HOLD, "now": NOW + 30 * MINUTE})

    assert given_up.until is None
    assert given_up.used == Allowance(held_s=1800)
    assert (await store.standings([lease.id]))[lease.id].evidence.held_until is None
    again = await store.hold(lease.id, seconds=5400, **{**HOLD, "now": NOW + 40 * MINUTE})
    assert again.until == NOW + 130 * MINUTE


async def test_a_new_hold_replaces_the_one_under_way(store: Store, lease):
    await store.hold(lease.id, seconds=3600, **HOLD)

    grant = await store.hold(lease.id, seconds=7200, **HOLD)

    assert grant.until == NOW + 120 * MINUTE
    assert grant.used == Allowance(held_s=7200)
