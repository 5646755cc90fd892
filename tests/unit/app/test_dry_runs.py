"""What the reconciler would do, for those who only look: nothing is done, and few looks are made for many who ask."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import timedelta
from types import SimpleNamespace

import pytest
from builders import NOW, a_lease

from labspawner.errors import StoreUnavailable
from labspawner.inner.reconciling import KEPT_S, DryRuns, as_json
from labspawner.model import Handle, LeaseId, OwnedResource, Phase, ReleaseMode
from labspawner.reconciler import Action, Plan, Reconciler, Sighting
from labspawner.sentences import Sentence


class Host:
    """A provider of which listings are counted, and nothing may be released."""

    name = "sim"

    def __init__(self, owned: Sequence[OwnedResource] = ()) -> None:
        self.listings = 0
        self._owned = owned

    async def owned(self) -> Sequence[OwnedResource]:
        self.listings += 1
        await asyncio.sleep(0)
        return self._owned

    async def release(self, handle: Handle, mode: ReleaseMode, *, grace_s: float) -> None:
        raise AssertionError("a dry run released something")


def a_reconciler(host: Host, leases: Sequence[object] = (), broken: bool = False) -> Reconciler:
    async def held() -> Sequence[object]:
        if broken:
            raise StoreUnavailable(Sentence("no database"))
        return leases

    async def end(*_: object) -> bool:
        raise AssertionError("a dry run ended a lease")

    return Reconciler(
        providers={"sim": host},
        leases=held,
        busy=set,
        servers=set,
        end=end,
        clock=lambda: NOW,
    )


async def test_what_an_earlier_hub_left_is_told_and_not_done():
    left = a_lease(phase=Phase.LAUNCHING, phase_at=NOW - timedelta(hours=1))
    runs = DryRuns(a_reconciler(Host(), [left]))

    found = await runs.last()

    assert [(one["kind"], one["lease"], one["user"]) for one in found["actions"]] == [
        ("interrupted", left.id, "student1")
    ]


async def test_the_next_pass_remembers_nothing_of_a_dry_run():
    orphan = OwnedResource(lease_id=LeaseId("l1"), handle=Handle(lease_id=LeaseId("l1"), provider="sim"))
    reconciler = a_reconciler(Host([orphan]))

    found = await DryRuns(reconciler).last()

    assert [(one["kind"], one["key"], one["count"]) for one in found["suspects"]] == [("orphan", "sim/l1", 1)]
    assert not reconciler.suspects


async def test_many_who_ask_at_once_cost_one_look():
    host = Host()
    runs = DryRuns(a_reconciler(host))

    await asyncio.gather(*(runs.last() for _ in range(20)))

    assert host.listings == 1


async def test_a_look_is_kept_for_a_moment_and_then_made_again():
    host, now = Host(), SimpleNamespace(s=100.0)
    runs = DryRuns(a_reconciler(host), clock=lambda: now.s)

    await runs.last()
    now.s += KEPT_S - 0.1
    await runs.last()
    kept = host.listings
    now.s += 0.2
    await runs.last()

    assert (kept, host.listings) == (1, 2)


async def test_without_a_database_whoever_asks_reads_so_and_the_next_one_asks_again():
    runs = DryRuns(a_reconciler(Host(), broken=True))

    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await runs.last()


def test_a_plan_travels_with_its_sentences_and_its_brake():
    lease = a_lease(server_name="second")
    reason = Sentence("It belonged to {owner}.", owner="nobody")
    action = Action("gone", "sim", lease, None, ReleaseMode.STOP, reason)
    orphan = Action("orphan", "sim", None, Handle(lease_id=LeaseId("l9"), provider="sim"), ReleaseMode.DESTROY, reason)

    found = json.loads(json.dumps(as_json(Plan((action,), {("gone", lease.id): Sighting(NOW, 2)}, (orphan,)), NOW)))

    assert found["actions"][0]["server"] == "second"
    assert Sentence.from_json(found["actions"][0]["reason"]) == reason
    assert [one["lease"] for one in found["braked"]] == ["l9"]
    assert found["suspects"][0]["count"] == 2
