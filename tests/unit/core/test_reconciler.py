"""What does not match is ended: after a second look, after a grace, never on a failed listing, never too much at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from builders import NOW, a_lease
from hypothesis import given, settings
from hypothesis import strategies as st

from labspawner.errors import ProviderUnavailable
from labspawner.model import Ending, Handle, Lease, LeaseId, OwnedResource, Phase, ReleaseMode, ServerState
from labspawner.naming import new_lease_id
from labspawner.reconciler import INTERRUPTED, Plan, Reconciler, Rules, World, plan
from labspawner.sentences import Sentence
from labspawner.testing.waiting import eventually

GONE, RUNNING, UNKNOWN = ServerState.GONE, ServerState.RUNNING, ServerState.UNKNOWN


def a_ready_lease(**changes: Any) -> Lease:
    id_ = new_lease_id()
    values = {"id": id_, "phase": Phase.READY, "handle": Handle(lease_id=id_, provider="sim"), "ready_at": NOW}
    return a_lease(**{**values, **changes})


def a_parked_lease(retain_s: object = 3600.0, **changes: Any) -> Lease:
    return a_ready_lease(
        phase=Phase.PARKED, release_mode=ReleaseMode.STOP, pinned={"cull": {"retain_s": retain_s}}, **changes
    )


def owned(*ids: str) -> list[OwnedResource]:
    return [OwnedResource(lease_id=LeaseId(id_), handle=Handle(lease_id=LeaseId(id_), provider="sim")) for id_ in ids]


def a_world(*leases: Lease, **changes: Any) -> World:
    values: dict[str, Any] = {
        "leases": leases,
        "states": {lease.id: RUNNING for lease in leases},
        "owned": {"sim": owned(*(lease.id for lease in leases))},
        "servers": {(lease.user, lease.server_name) for lease in leases},
        "busy": set(),
        "now": NOW,
    }
    return World(**{**values, **changes})


DEFAULT = Rules()


def passes(*worlds: World, rules: Rules = DEFAULT) -> Plan:
    """The plan of the last of some passes in a row."""
    todo = Plan((), {})
    for world in worlds:
        todo = plan(world, todo.suspects, rules)
    return todo


def kinds(todo: Plan) -> list[str]:
    return [action.kind for action in todo.actions]


def later(world: World, **span: float) -> World:
    from dataclasses import replace

    return replace(world, now=NOW + timedelta(**span))


# -- the plan


def test_where_all_agree_there_is_nothing_to_do():
    world = a_world(a_ready_lease(), a_parked_lease(user="student2"))

    assert passes(*[later(world, minutes=n) for n in range(30)]) == Plan((), {})


@pytest.mark.parametrize("phase", [Phase.QUEUED, Phase.LAUNCHING])
def test_an_interrupted_start_is_ended_at_once(phase: Phase):
    (action,) = passes(a_world(a_ready_lease(phase=phase, ready_at=None))).actions

    assert (action.kind, action.mode, action.reason) == ("interrupted", ReleaseMode.DESTROY, INTERRUPTED)


def test_an_interrupted_resume_is_parked_as_it_was():
    (action,) = passes(a_world(a_ready_lease(phase=Phase.QUEUED, release_mode=ReleaseMode.HIBERNATE))).actions

    assert (action.kind, action.mode) == ("interrupted", ReleaseMode.HIBERNATE)


def test_a_release_is_repeated_with_its_mode_and_its_reason():
    ending = Ending(by="culler", reason=Sentence("idle"))
    lease = a_ready_lease(phase=Phase.STOPPING, ending=ending, release_mode=ReleaseMode.STOP)

    (action,) = passes(a_world(lease)).actions

    assert (action.kind, action.mode, action.reason) == ("release-retry", ReleaseMode.STOP, "idle")


def test_a_release_without_a_reason_gets_one():
    (action,) = passes(a_world(a_ready_lease(phase=Phase.STOPPING))).actions

    assert action.reason


@pytest.mark.parametrize(
    "phase", [Phase.QUEUED, Phase.LAUNCHING, Phase.READY, Phase.STOPPING, Phase.PARKED], ids=lambda phase: phase.value
)
def test_what_this_process_works_on_is_left_alone(phase: Phase):
    lease = a_ready_lease(phase=phase)
    world = a_world(lease, busy={lease.id}, states={lease.id: GONE}, servers=set(), owned={"sim": []})

    assert passes(*[later(world, hours=n) for n in range(5)]) == Plan((), {})


def test_a_server_that_is_gone_is_believed_at_the_second_look():
    lease = a_ready_lease()
    gone, there = a_world(lease, states={lease.id: GONE}), a_world(lease)

    assert kinds(passes(gone)) == []
    assert kinds(passes(gone, there, gone)) == []
    assert kinds(passes(gone, gone)) == ["gone"]


def test_a_server_of_which_nothing_is_known_is_kept():
    lease = a_ready_lease()

    for states in ({}, {lease.id: UNKNOWN}):
        assert kinds(passes(*[a_world(lease, states=states)] * 9)) == []


def test_a_server_that_the_hub_does_not_know_is_stopped_after_two_minutes():
    world = a_world(a_ready_lease(), servers=set())

    assert kinds(passes(world, later(world, seconds=119))) == []
    assert kinds(passes(world, later(world, seconds=120))) == ["forgotten"]


def test_while_the_hub_cannot_tell_what_it_knows_nothing_is_forgotten():
    world = a_world(a_ready_lease(), servers=None)

    assert kinds(passes(world, later(world, days=9))) == []


def test_an_orphan_is_destroyed_after_two_listings_and_ten_minutes():
    world = a_world(owned={"sim": owned("lorphan")})

    assert kinds(passes(world)) == []
    assert kinds(passes(world, later(world, seconds=599))) == []
    (action,) = passes(world, later(world, minutes=10)).actions
    assert (action.kind, action.lease, action.mode) == ("orphan", None, ReleaseMode.DESTROY)
    assert kinds(passes(later(world, minutes=10), rules=Rules(orphan_grace=timedelta(0)))) == []


def test_a_failed_listing_neither_proves_nor_counts_as_a_sighting():
    seen, failed = a_world(owned={"sim": owned("lorphan")}), a_world(owned={"sim": None})

    assert kinds(passes(failed, later(failed, hours=1))) == []
    assert kinds(passes(seen, later(failed, minutes=20), later(seen, minutes=40))) == []


def test_a_resource_of_a_busy_or_parked_lease_is_no_orphan():
    parked = a_parked_lease()
    world = a_world(parked, owned={"sim": owned(parked.id, "lbusy")}, busy={"lbusy"})

    assert kinds(passes(world, later(world, minutes=20))) == []


def test_what_was_parked_and_is_listed_no_more_is_freed_at_the_second_look():
    lost, listed = a_world(a_parked_lease(), owned={"sim": []}), a_world(a_parked_lease())

    assert kinds(passes(lost)) == []
    assert kinds(passes(lost, lost)) == ["gone"]
    assert kinds(passes(listed, listed)) == []


@pytest.mark.parametrize("changes", [{"owned": {"sim": None}}, {"owned": {}}])
def test_what_was_parked_is_kept_while_nobody_lists_it(changes: Any):
    assert kinds(passes(*[a_world(a_parked_lease(), **changes)] * 5)) == []


def test_what_was_parked_without_a_handle_is_kept():
    assert kinds(passes(*[a_world(a_parked_lease(handle=None), owned={"sim": []})] * 5)) == []


def test_what_was_parked_is_kept_as_long_as_its_profile_says():
    world = a_world(a_parked_lease(3600.0))

    assert kinds(passes(later(world, seconds=3599))) == []
    assert kinds(passes(later(world, seconds=3600))) == ["retention"]


@pytest.mark.parametrize("pinned", [{"cull": {"retain_s": None}}, {"cull": {}}, {"cull": None}, {}], ids=str)
def test_without_a_retention_it_is_kept_for_ever(pinned: Any):
    world = a_world(a_parked_lease().with_(pinned=pinned))

    assert kinds(passes(later(world, days=4000))) == []


def test_a_destruction_of_a_parked_server_that_failed_is_repeated():
    lease = a_parked_lease(None).with_(release_mode=ReleaseMode.DESTROY)

    (action,) = passes(a_world(lease)).actions

    assert (action.kind, action.mode) == ("release-retry", ReleaseMode.DESTROY)


# -- the brake


def orphans(count: int, beside: int) -> World:
    leases = [a_ready_lease(user=f"s{number}") for number in range(beside)]
    extra = [f"lorphan{number}" for number in range(count)]
    return a_world(*leases, owned={"sim": owned(*(lease.id for lease in leases), *extra)})


@pytest.mark.parametrize(
    ("count", "beside", "acts"),
    [
        (3, 0, True),
        (4, 0, True),
        (5, 0, False),
        (5, 20, True),
        (5, 19, False),
        (6, 24, True),
        (6, 23, False),
        (99, 1, False),
    ],
)
def test_a_pass_ends_up_to_four_or_a_fifth_of_all(count: int, beside: int, acts: bool):
    world = orphans(count, beside)

    todo = passes(world, later(world, minutes=10))

    assert len(todo.actions) == (count if acts else 0)
    assert len(todo.braked) == (0 if acts else count)


def test_interrupted_starts_and_retried_releases_are_not_braked():
    leases = [
        a_ready_lease(user=f"s{n}", phase=phase) for n in range(50) for phase in (Phase.LAUNCHING, Phase.STOPPING)
    ]

    assert len(passes(a_world(*leases)).actions) == 100


def test_what_was_parked_by_a_whole_course_is_destroyed_little_by_little():
    world = later(a_world(*(a_parked_lease(user=f"s{number}") for number in range(40))), days=1)

    todo = passes(world)

    assert (len(todo.actions), todo.braked) == (8, ())


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.floats(0, 1), st.integers(1, 10))
def test_never_more_than_the_brake_allows(count: int, beside: int, share: float, least: int):
    world = orphans(count, beside)

    todo = passes(world, later(world, minutes=10), rules=Rules(brake_share=share, brake_min=least))

    assert len(todo.actions) <= max(least - 1, share * (count + beside))
    assert len(todo.actions) + len(todo.braked) == count
    assert not (todo.actions and todo.braked)


# -- looking and acting


class Host:
    """A provider whose listings a test decides."""

    def __init__(self, name: str = "sim") -> None:
        self.name = name
        self.resources: list[OwnedResource] = []
        self.states: dict[LeaseId, ServerState] = {}
        self.released: list[LeaseId] = []
        self.trouble: Any = None
        self.release_trouble: Any = None

    async def owned(self) -> Sequence[OwnedResource]:
        if self.trouble is not None:
            await self.trouble()
        return self.resources

    async def observe(self, handles: Sequence[Handle]) -> Any:
        return {handle.lease_id: self.states.get(handle.lease_id, RUNNING) for handle in handles}

    async def release(self, handle: Handle, mode: ReleaseMode, *, grace_s: float) -> None:
        if self.release_trouble is not None:
            await self.release_trouble(handle)
        self.released.append(handle.lease_id)


class Hub:
    """What the engine gives the reconciler."""

    def __init__(self, *hosts: Host, **changes: Any) -> None:
        self.now = NOW
        self.leases: list[Lease] = []
        self.ended: list[tuple[LeaseId, ReleaseMode]] = []
        self.between: Any = None
        self.trouble: Any = None
        self.reconciler = Reconciler(
            providers={host.name: host for host in hosts},  # type: ignore[misc]
            leases=self.list_leases,
            busy=set,
            servers=lambda: None,
            end=self.end,
            clock=lambda: self.now,
            **{"rules": Rules(orphan_grace=timedelta(0)), "interval_s": 0.0, "listing_s": 0.05, **changes},
        )

    async def list_leases(self) -> list[Lease]:
        found = list(self.leases)
        if self.between is not None:
            self.between()
        return found

    async def end(self, lease: Lease, ending: Ending, mode: ReleaseMode) -> bool:
        if self.trouble is not None:
            await self.trouble(lease)
        self.ended.append((lease.id, mode))
        return True


async def unavailable(*_args: Any) -> None:
    raise ProviderUnavailable(Sentence("no"), detail="host=pve1 is down")


async def broken(*_args: Any) -> None:
    raise KeyError("boom")


async def hangs(*_args: Any) -> None:
    await asyncio.Event().wait()


async def stray(*_args: Any) -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("trouble", [unavailable, broken, hangs], ids=lambda trouble: trouble.__name__)
async def test_one_provider_that_cannot_list_does_not_keep_the_others_from_it(trouble: Any, caplog: Any):
    sick, well = Host("sick"), Host("well")
    sick.resources, well.resources = owned("lsick"), owned("lwell")
    sick.trouble = trouble
    hub = Hub(sick, well)
    hub.leases = [a_ready_lease(provider="sick", handle=None)]

    for _ in range(3):
        await hub.reconciler.pass_once()

    assert (sick.released, set(well.released)) == ([], {"lwell"})
    assert caplog.text.count("so nothing of it is ended") == 3
    sick.trouble = None
    for _ in range(2):
        await hub.reconciler.pass_once()
    assert sick.released == ["lsick"]


async def test_what_began_or_changed_during_the_look_is_not_judged():
    host, old, new = Host(), a_ready_lease(phase=Phase.LAUNCHING, ready_at=None), a_ready_lease(user="student2")
    host.states = {old.id: GONE}
    host.resources = owned(new.id)
    hub = Hub(host)
    hub.leases = [old]
    ready = old.with_(phase=Phase.READY, ready_at=NOW)

    def meanwhile() -> None:
        hub.leases = [ready, new]

    hub.between = meanwhile
    world = await hub.reconciler.look()

    assert world.leases == [ready]
    assert world.states == {}
    assert world.busy == {new.id}
    assert plan(world, {}, Rules()).suspects == {}


@pytest.mark.parametrize("trouble", [unavailable, broken, hangs, stray], ids=lambda trouble: trouble.__name__)
async def test_one_action_that_fails_does_not_keep_the_others_from_happening(trouble: Any):
    host = Host()
    host.resources = owned("lbad", "lgood")

    async def sometimes(handle: Handle) -> None:
        if handle.lease_id == "lbad":
            await trouble()

    host.release_trouble = sometimes
    hub = Hub(host, release_timeout_s=0.05)
    bad, good = a_lease(), a_lease(user="student2")
    hub.leases = [bad, good]

    async def as_bad(lease: Lease) -> None:
        if lease.id == bad.id:
            await (broken if trouble is hangs else trouble)()

    hub.trouble = as_bad

    for _ in range(2):
        await hub.reconciler.pass_once()

    assert set(host.released) == {"lgood"}
    assert {id_ for id_, _ in hub.ended} == {good.id}


async def test_cancelling_a_pass_ends_what_it_does():
    host, ended = Host(), []
    host.resources = owned("l1", "l2", "l3")

    async def long(handle: Handle) -> None:
        try:
            await hangs()
        finally:
            ended.append(handle.lease_id)

    host.release_trouble = long
    hub = Hub(host, concurrency=2)
    await hub.reconciler.pass_once()
    task = asyncio.create_task(hub.reconciler.run())
    await eventually(lambda: len(asyncio.all_tasks()) > 4)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert sorted(ended) == ["l1", "l2"]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_pass_that_fails_is_logged_and_the_next_one_comes(caplog: Any):
    hub, asked = Hub(Host()), []

    def fail() -> None:
        asked.append(1)
        raise OSError("database on fire")

    hub.between = fail
    task = asyncio.create_task(hub.reconciler.run())
    await eventually(lambda: len(asked) >= 3)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert "reconciler pass failed" in caplog.text


async def test_the_brake_is_said_once_and_again_when_it_grips_anew(caplog: Any):
    host = Host()
    host.resources = owned(*(f"l{number}" for number in range(9)))
    hub = Hub(host)

    for _ in range(4):
        todo = await hub.reconciler.pass_once()

    assert len(todo.braked) == 9
    assert host.released == []
    assert caplog.text.count("reconciler stopped itself") == 1
    host.resources = owned(*(f"l{number}" for number in range(3)))
    await hub.reconciler.pass_once()
    assert len(host.released) == 3
