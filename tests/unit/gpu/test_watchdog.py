"""The watchdog: reported first, killed at the second look, and nobody else."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labspawner.gpu.cards import Card, CardProcess, Inventory
from labspawner.gpu.nvml import NoDriver
from labspawner.gpu.watchdog import Holder, Memory, Watchdog, Watched, decide, tolerated
from labspawner.sentences import plain

GIB = 2**30
LAB = Watched("lab-1", {"GPU-0": 6 * GIB})


def holding(pid: int, gib: float, *, of: str | None = "lab-1", uuid: str = "GPU-0") -> Holder:
    return Holder((pid, float(pid)), uuid, round(gib * GIB), of)


def a_card(*processes: CardProcess, index: int = 0) -> Card:
    return Card(uuid=f"GPU-{index}", index=index, name="A5000", memory_total_bytes=24 * GIB, processes=processes)


def test_a_slice_within_its_limit_and_a_little_above_is_left_alone():
    decision, _ = decide([holding(1, 3), holding(2, 3.05)], [LAB], Memory())

    assert (decision.reported, decision.killed, decision.strangers) == ((), (), ())


def test_too_much_is_reported_first_and_the_largest_holder_killed_at_the_next_look():
    holders = [holding(1, 2), holding(2, 5), holding(3, 6, of="lab-2")]
    first, memory = decide(holders, [LAB, Watched("lab-2", {"GPU-0": 6 * GIB})], Memory())
    second, _ = decide(holders, [LAB, Watched("lab-2", {"GPU-0": 6 * GIB})], memory)

    assert [excess.slice_name for excess in first.reported] == ["lab-1"]
    assert first.killed == ()
    assert [holder.identity for _, holder in second.killed] == [(2, 2.0)]
    assert second.reported == ()


def test_who_gave_back_in_time_is_spared_and_reported_anew_the_next_time():
    _, memory = decide([holding(1, 8)], [LAB], Memory())
    spared, memory = decide([holding(1, 5)], [LAB], memory)
    again, _ = decide([holding(1, 8)], [LAB], memory)

    assert spared.killed == ()
    assert [excess.held_bytes for excess in again.reported] == [8 * GIB]


def test_a_card_that_is_not_the_slices_has_a_limit_of_nothing():
    decision, _ = decide([holding(1, 1, uuid="GPU-1")], [LAB], Memory())

    assert [(excess.uuid, excess.limit_bytes) for excess in decision.reported] == [("GPU-1", 0)]


def test_a_process_in_no_slice_is_reported_once_and_a_made_up_slice_hides_nobody():
    strangers = [holding(1, 1, of=None), holding(2, 1, of="made-up")]
    first, memory = decide(strangers, [LAB], Memory())
    second, _ = decide(strangers, [LAB], memory)

    assert [holder.identity[0] for holder in first.strangers] == [1, 2]
    assert (second.strangers, second.killed) == ((), ())


@given(st.lists(st.tuples(st.integers(2, 9), st.floats(0, 12), st.sampled_from(["lab-1", "lab-2", None])), max_size=8))
def test_only_members_of_a_slice_over_its_limit_are_ever_killed(drawn):
    holders = [holding(pid, gib, of=name) for pid, gib, name in drawn]
    slices = [LAB, Watched("lab-2", {"GPU-0": 3 * GIB})]
    _, memory = decide(holders, slices, Memory())

    decision, _ = decide(holders, slices, memory)

    for excess, holder in decision.killed:
        limit = next(one.limits["GPU-0"] for one in slices if one.name == holder.slice_name)
        members = [one for one in holders if one.slice_name == holder.slice_name]
        assert excess.held_bytes == sum(one.memory_bytes for one in members) > tolerated(limit)
        assert holder in members
        assert holder.memory_bytes == max(one.memory_bytes for one in members)


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as started:
        yield started
        started.kill()


def identity(pid: int) -> tuple[int, float] | None:
    try:
        return pid, psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def watching(pid: int, gib: float, **changes: object) -> Watchdog:
    values: dict[str, object] = {
        "inventory": lambda: Inventory(cards=(a_card(CardProcess(pid, round(gib * GIB))),)),
        "identify": identity,
        "slice_of": lambda _: "lab-1",
        "slices": lambda: [LAB],
    }
    return Watchdog(**{**values, **changes})  # type: ignore[arg-type]


def test_an_offender_is_killed_at_the_second_look_and_the_log_says_both(process, caplog):
    watchdog = watching(process.pid, 7)
    with caplog.at_level(logging.WARNING):
        first = watchdog.look()
        assert (first.ended, process.poll()) == ((), None)
        second = watchdog.look()

    assert [holder.identity[0] for _, holder in second.ended] == [process.pid]
    assert process.wait(60) == -9
    assert ["over its GPU limit" in record.message for record in caplog.records] == [True, False]
    assert "killed" in caplog.records[1].message


def test_who_is_killed_and_takes_a_while_to_die_is_killed_and_counted_once(process):
    watchdog = watching(process.pid, 7)

    # Nobody waits for the process here: it stays, as one does that dies slowly.
    looks = [watchdog.look() for _ in range(5)]

    assert [len(look.ended) for look in looks] == [0, 1, 0, 0, 0]
    assert process.wait(60) == -9


def test_a_watchdog_that_only_reports_kills_nobody(process):
    watchdog = watching(process.pid, 7, kill=False)

    looks = [watchdog.look() for _ in range(3)]

    assert [look.ended for look in looks] == [(), (), ()]
    assert process.poll() is None


def test_another_process_that_got_the_pid_is_spared(process):
    known = iter([(process.pid, 1.0), (process.pid, 1.0), (process.pid, 2.0)])
    watchdog = watching(process.pid, 7, identify=lambda _: next(known))
    watchdog.look()

    assert watchdog.look().ended == ()
    assert process.poll() is None


def test_the_watchdog_never_kills_itself():
    watchdog = watching(os.getpid(), 7)
    watchdog.look()

    assert watchdog.look().ended == ()


def test_a_driver_that_does_not_answer_is_said_once_and_ends_nothing(caplog):
    def gone() -> Inventory:
        raise NoDriver(plain("There is no NVIDIA driver on this machine."))

    watchdog = watching(1, 7, inventory=gone)
    with caplog.at_level(logging.WARNING):
        watchdog.look()
        watchdog.look()

    assert len(caplog.records) == 1


def test_a_card_that_vanishes_is_an_event(caplog):
    found = iter([Inventory(cards=(a_card(), a_card(index=1))), Inventory(cards=(a_card(),))])
    watchdog = watching(1, 0, inventory=lambda: next(found))
    watchdog.look()

    with caplog.at_level(logging.INFO):
        changes = watchdog.look().changes

    assert [(change.uuid, change.present) for change in changes] == [("GPU-1", False)]
    assert "GPU is gone gpu=GPU-1" in caplog.text
