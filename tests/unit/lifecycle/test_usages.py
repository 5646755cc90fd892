"""What servers use: one question for all who look, and how busy a server is between two looks."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from builders import NOW, a_lease

from labspawner.lifecycle.usages import Usages, Use
from labspawner.model import Handle, Lease, LeaseId, Phase, Usage


def a_ready_lease(name: str = "one", **changes: Any) -> Lease:
    lease_id = LeaseId(name)
    values = {"id": lease_id, "phase": Phase.READY, "handle": Handle(lease_id=lease_id, provider="host")}
    return a_lease(**{"provider": "host", **values, **changes})


class Host:
    """A provider that says what a test tells it, and counts who asks."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[list[str]] = []

    async def usage(self, handles: Any) -> Any:
        self.asked.append([handle.lease_id for handle in handles])
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        if isinstance(answer, asyncio.Event):
            await answer.wait()
            return {}
        return answer


class Book:
    def __init__(self, *leases: Lease) -> None:
        self.leases = list(leases)

    def all(self) -> list[Lease]:
        return self.leases


def a_usages(host: Host, *leases: Lease, **changes: Any) -> Usages:
    return Usages({"host": host}, Book(*leases), **{"fresh_s": 0.0, "patience_s": 5.0, **changes})  # type: ignore[dict-item, arg-type]


def busy(cpu_s: float, *, after_s: float = 0.0) -> dict[LeaseId, Usage]:
    return {LeaseId("one"): Usage(taken_at=NOW + timedelta(seconds=after_s), cpu_s=cpu_s)}


async def test_many_who_look_at_once_are_one_question_for_all_ready_servers():
    host = Host(busy(1))
    one, two = a_ready_lease(), a_ready_lease("two")
    usages = a_usages(host, one, two, a_ready_lease("three", phase=Phase.PARKED), fresh_s=60.0)

    answers = await asyncio.gather(*(usages.of([lease]) for lease in (one, two) for _ in range(50)))

    assert host.asked == [["one", "two"]]
    assert [len(answer) for answer in answers] == [1] * 50 + [0] * 50


async def test_how_many_cores_are_busy_is_known_from_the_second_look_on():
    host = Host(busy(10), busy(14, after_s=10))
    usages = a_usages(host, a_ready_lease())

    first = await usages.of([a_ready_lease()])
    second = await usages.of([a_ready_lease()])

    assert first[LeaseId("one")].cores is None
    assert second[LeaseId("one")].cores == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("later", "cores"),
    [
        (busy(14, after_s=0.2), None),  # too near: the last answer stands
        (busy(14, after_s=3600), None),  # an hour's mean is not now
        (busy(2, after_s=10), 0.0),  # the server is another one: counters do not run backwards
        ({LeaseId("one"): Usage(taken_at=NOW + timedelta(seconds=10))}, None),
    ],
)
async def test_two_looks_that_say_nothing_of_now_give_no_number(later, cores):
    usages = a_usages(Host(busy(10), later), a_ready_lease())
    await usages.of([a_ready_lease()])

    assert (await usages.of([a_ready_lease()]))[LeaseId("one")].cores == cores


async def test_nobody_waits_for_a_host_that_takes_its_time_and_the_last_answer_is_kept():
    never = asyncio.Event()
    host = Host(busy(1), never)
    usages = a_usages(host, a_ready_lease(), patience_s=0.01)
    await usages.of([a_ready_lease()])

    assert await usages.of([a_ready_lease()]) == {LeaseId("one"): Use(busy(1)[LeaseId("one")])}
    await usages.close()


async def test_an_answer_that_is_too_old_is_none():
    usages = a_usages(Host(busy(1), RuntimeError("broken")), a_ready_lease(), stale_s=-1.0)
    await usages.of([a_ready_lease()])

    assert await usages.of([a_ready_lease()]) == {}


async def test_a_provider_that_hangs_or_raises_costs_only_its_own_numbers(caplog):
    hanging = a_usages(Host(asyncio.Event()), a_ready_lease(), asking_s=0.01)
    broken = a_usages(Host(RuntimeError("broken")), a_ready_lease())

    assert await hanging.of([a_ready_lease()]) == {}
    assert await broken.of([a_ready_lease()]) == {}
    assert "did not say" in caplog.text
    assert "broke its contract" in caplog.text


async def test_what_does_not_run_or_has_no_provider_is_not_asked_for():
    host = Host(busy(1))
    usages = a_usages(host)

    found = await usages.of(
        [a_ready_lease(phase=Phase.QUEUED), a_ready_lease(handle=None), a_ready_lease(provider="gone")]
    )

    assert found == {}
    assert host.asked == []
    assert await usages.of([a_ready_lease()]) == {}  # it ended while it was asked for: nobody to ask about
    assert host.asked == []
