"""Accounting, step by step: who may charge what, and what becomes of it when processes fork, exec, die and come."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from native.core_guests import GIB, a_slice, gone, guests, with_memory

from labspawner.gpu import region
from labspawner.testing.waiting import eventually_sync

NO_ROOM = -12
REFUSED = -22


@pytest.fixture
def invite(native):
    with guests(native.program("core_account")) as inviting:
        yield inviting


@pytest.fixture
def folder(tmp_path: Path):
    return a_slice(tmp_path / "slice", memory_bytes=6 * GIB)


def test_all_of_the_limit_can_be_used_and_not_a_byte_more(invite, folder):
    guest = invite(folder).join()

    assert guest.number(f"charge 0 {6 * GIB}") == 0
    assert guest.number("charge 0 1") == NO_ROOM
    assert guest.number("used 0") == guest.number("limit 0") == 6 * GIB
    guest.ask("refund 0 1")
    assert guest.number("charge 0 1") == 0


def test_processes_share_one_limit(invite, folder):
    one, other = invite(folder).join(), invite(folder).join()
    one.ask(f"charge 0 {4 * GIB}")

    assert other.number(f"charge 0 {2 * GIB + 1}") == NO_ROOM
    assert other.number(f"charge 0 {2 * GIB}") == 0
    assert (one.number("here 0"), one.number("used 0")) == (4 * GIB, 6 * GIB)


def test_cards_have_limits_of_their_own(invite, tmp_path):
    guest = invite(a_slice(tmp_path / "two", memory_bytes=GIB, cards=2)).join()

    assert guest.number(f"charge 0 {GIB}") == 0
    assert guest.number(f"charge 1 {GIB}") == 0
    assert guest.number("charge 1 1") == NO_ROOM
    assert guest.number("charge 2 1") == REFUSED


def test_more_than_any_limit_is_refused_and_charges_nothing(invite, folder):
    guest = invite(folder).join()

    for absurd in (6 * GIB + 1, 2**52, 2**63, 2**64 - 1):
        assert guest.number(f"charge 0 {absurd}") == NO_ROOM
    assert guest.number("used 0") == 0


def test_giving_back_more_than_was_taken_frees_nobody_elses(invite, folder):
    one, other = invite(folder).join(), invite(folder).join()
    one.ask(f"charge 0 {GIB}")
    other.ask("charge 0 5")

    other.ask(f"refund 0 {GIB}")

    assert one.number("used 0") == GIB
    assert other.number("here 0") == 0


def test_what_a_killed_process_held_is_there_for_the_next_that_needs_it(invite, folder):
    one, other = invite(folder).join(), invite(folder).join()
    one.ask(f"charge 0 {6 * GIB}")
    assert other.number("charge 0 1") == NO_ROOM

    one.kill()

    assert other.number(f"charge 0 {6 * GIB}") == 0


def test_tidying_frees_what_the_dead_held_without_a_refusal(invite, folder):
    one, other = invite(folder).join(), invite(folder).join()
    one.ask("charge 0 7")
    one.kill()
    assert other.number("used 0") == 7

    assert other.ask("tidy") == "1"

    assert other.number("used 0") == 0


def test_a_new_process_takes_the_slot_of_a_dead_one(invite, folder):
    one, other = invite(folder).join(), invite(folder).join()
    one.ask("charge 0 7")
    one.kill()

    third = invite(folder).join()

    assert [other.ask("slot"), third.ask("slot")] == ["1", "0"]
    assert third.number("used 0") == 0


@pytest.mark.parametrize("fork", ["fork", "raw-fork"])
def test_a_child_begins_with_nothing_and_a_slot_of_its_own(invite, folder, fork):
    guest = invite(folder).join()
    guest.ask("charge 0 100")

    assert guest.ask(fork).startswith("child ")

    assert (guest.ask("slot"), guest.number("here 0"), guest.number("used 0")) == ("-1", 0, 100)
    guest.ask("refund 0 100")  # what its parent charged is not the child's to give back
    assert guest.number("charge 0 5") == 0
    assert (guest.ask("slot"), guest.number("used 0")) == ("1", 105)
    guest.tell("end")
    assert guest.answer() == "parent 0"
    assert (guest.ask("slot"), guest.number("here 0")) == ("0", 100)
    guest.ask("tidy")
    assert guest.number("used 0") == 100


@pytest.mark.parametrize("fork", ["fork", "raw-fork"])
def test_a_child_that_lives_on_keeps_nothing_of_its_dead_parent(invite, folder, fork):
    guest, other = invite(folder).join(), invite(folder).join()
    guest.ask(f"charge 0 {6 * GIB}")
    child = int(guest.ask(fork).removeprefix("child "))
    assert other.number("charge 0 1") == NO_ROOM

    os.kill(guest.process.pid, signal.SIGKILL)
    guest.process.wait()

    assert other.number(f"charge 0 {6 * GIB}") == 0
    assert guest.ask("used 0") == str(6 * GIB)  # the child is alive
    os.kill(child, signal.SIGKILL)
    gone(child)


def test_a_program_that_was_started_keeps_nothing_of_its_dead_parent(invite, folder):
    guest, other = invite(folder).join(), invite(folder).join()
    guest.ask(f"charge 0 {6 * GIB}")
    child = guest.number("spawn")
    try:
        guest.process.kill()
        guest.process.wait()

        assert other.number(f"charge 0 {6 * GIB}") == 0
        assert Path(f"/proc/{child}").exists()
    finally:
        os.kill(child, signal.SIGKILL)
    gone(child)


def test_exec_frees_what_the_old_program_held(invite, folder):
    guest, other = invite(folder).join(), invite(folder).join()
    guest.ask(f"charge 0 {6 * GIB}")

    assert guest.ask("exec") == "ready"

    assert other.number(f"charge 0 {6 * GIB}") == 0


def test_a_program_that_closes_all_descriptors_keeps_its_slot_and_finds_none_of_ours(invite, folder):
    guest, other = invite(folder).join(), invite(folder).join()
    guest.ask(f"charge 0 {6 * GIB}")

    assert "region" not in guest.ask("descriptors")
    guest.ask("close-all")

    assert other.number("charge 0 1") == NO_ROOM
    other.ask("tidy")
    assert other.number("used 0") == 6 * GIB
    assert guest.number("charge 0 1") == NO_ROOM


def test_the_257th_process_is_refused_in_words_and_comes_in_when_one_has_left(invite, folder):
    crowd = invite(folder).join()
    assert crowd.number("crowd 299") == 255  # and itself

    late = invite(folder)
    assert late.number("start") == REFUSED
    assert region.read(folder.region).turned_away >= 44
    victim = next(process for process in region.read(folder.region).processes if process.pid != crowd.process.pid)
    os.kill(victim.pid, signal.SIGKILL)

    eventually_sync(lambda: late.ask("start") == "0")
    said = late.kill()
    assert said.count("\n") == 1
    assert "already has 256 processes" in said
    pids = [process.pid for process in region.read(folder.region).processes]
    crowd.kill()
    eventually_sync(lambda: not region.read(folder.region).processes)
    for pid in pids:
        gone(pid)


def test_who_only_looks_needs_no_slot(invite, folder):
    guest, viewer = invite(folder).join(), invite(folder)
    guest.ask("charge 0 100")

    assert viewer.number("watch") == 0

    assert (viewer.ask("slot"), viewer.number("used 0"), viewer.number("limit 0")) == ("-1", 100, 6 * GIB)
    assert len(viewer.ask("processes 0").split()) == 1
    viewer.join()
    assert viewer.number("charge 0 5") == 0
    assert guest.number("used 0") == 105


def test_processes_are_listed_with_what_they_hold(invite, folder):
    one, other = invite(folder).join(), invite(folder).join()
    one.ask("charge 0 100")
    other.ask("charge 0 50")

    pids = (one.process.pid, other.process.pid)

    assert one.ask("processes 0").split() == [
        f"0:1:{pids[0]}:{pids[0]}:100:core_account",
        f"1:0:{pids[1]}:{pids[1]}:50:core_account",
    ]


def test_the_offender_is_who_holds_most_and_the_dead_are_none(invite, folder):
    one, other, third = (invite(folder).join() for _ in range(3))
    assert one.number("offender 0") == -2
    one.ask("charge 0 10")
    other.ask("charge 0 30")
    third.ask("charge 0 20")

    assert one.ask("offender 0").startswith("1:0:")
    assert other.ask("offender 0").startswith("1:1:")
    other.kill()
    assert third.ask("offender 0").startswith("2:1:")


def test_what_the_driver_took_beside_our_charges_counts_and_ends_with_the_process(invite, folder):
    guest, other = invite(folder).join(), invite(folder).join()
    guest.ask(f"charge 0 {4 * GIB}")

    guest.ask(f"own-physical 0 {5 * GIB}")
    assert other.number("used 0") == 5 * GIB
    assert other.number(f"charge 0 {GIB + 1}") == NO_ROOM
    guest.ask(f"own-physical 0 {4 * GIB + 7}")  # a module was unloaded
    assert other.number("used 0") == 4 * GIB + 7
    guest.ask(f"own-physical 0 {GIB}")  # the driver knows less than was charged: the charge stands
    assert other.number("used 0") == 4 * GIB

    guest.ask(f"own-physical 0 {5 * GIB}")
    guest.kill()
    assert other.number(f"charge 0 {6 * GIB}") == 0


def test_what_the_driver_says_of_the_whole_slice_counts_too(invite, folder):
    guest = invite(folder).join()
    guest.ask(f"charge 0 {GIB}")

    guest.ask(f"physical 0 {6 * GIB}")
    assert guest.number("used 0") == 6 * GIB
    assert guest.number("charge 0 1") == NO_ROOM
    guest.ask(f"physical 0 {GIB}")
    assert guest.number(f"charge 0 {5 * GIB}") == 0


def test_two_pid_namespaces_share_one_slice(invite, folder):
    unshare = ["unshare", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no PID namespaces for this user")
    here, there = invite(folder).join(), invite(folder, before=unshare).join()
    there.ask(f"charge 0 {4 * GIB}")

    assert here.number(f"charge 0 {2 * GIB + 1}") == NO_ROOM
    assert here.number(f"charge 0 {2 * GIB}") == 0
    seen = there.ask("processes 0").split()
    assert seen[0].startswith("0:0:0:")  # it lives elsewhere: no pid of ours is its
    assert seen[1].startswith("1:1:1:1:")
    there.kill()
    eventually_sync(lambda: here.number(f"charge 0 {4 * GIB}") == 0)


def test_a_refusal_is_noted_with_what_its_reader_wants_to_know(invite, folder):
    guest = invite(folder).join()
    guest.ask("charge 0 1000")

    guest.ask("refuse 0 500 cuMemAlloc_v2")

    (note,) = region.read(folder.region).refusals
    assert (note.number, note.asked_bytes, note.used_bytes, note.limit_bytes) == (1, 500, 1000, 6 * GIB)
    assert (note.device, note.pid, note.command) == (0, guest.process.pid, "core_account")
    assert (note.who, note.api) == ("", "cuMemAlloc_v2")


def test_the_ring_keeps_the_last_64_refusals(invite, folder):
    guest = invite(folder).join()

    for number in range(1, 101):
        guest.ask(f"refuse 0 {number} cuMemAlloc_v2")

    reading = region.read(folder.region)
    assert [note.asked_bytes for note in reading.refusals] == list(range(37, 101))
    assert reading.refusal_count == reading.devices[0].refusals == 100


def test_launches_and_gpu_time_are_seen_from_outside(invite, folder):
    guest = invite(folder).join()
    assert region.read(folder.region).last_launch is None

    guest.ask("launch 0")
    guest.ask("gpu-time 0 1500000000")

    reading = region.read(folder.region)
    assert reading.last_launch is not None
    assert reading.devices[0].gpu_time_s == reading.processes[0].gpu_time_s == 1.5
    guest.kill()
    assert region.read(folder.region).devices[0].gpu_time_s == 1.5


def test_a_single_later_launch_is_stamped_when_somebody_tidies(invite, folder):
    guest = invite(folder).join()
    guest.ask("launch 0")
    first = region.read(folder.region).last_launch
    assert first is not None
    guest.ask("launch 0")

    def stamped_later() -> bool:
        guest.ask("launch 0")
        guest.ask("tidy")
        last = region.read(folder.region).last_launch
        return last is not None and last > first

    eventually_sync(stamped_later)


def test_growing_helps_at_once_and_shrinking_keeps_what_is_there(invite, folder):
    guest = invite(folder).join()
    guest.ask(f"charge 0 {4 * GIB}")
    limits = folder.read()

    folder.resize(with_memory(limits, 2 * GIB))
    assert guest.number("charge 0 1") == NO_ROOM
    assert (guest.number("limit 0"), guest.number("used 0")) == (2 * GIB, 4 * GIB)
    guest.ask(f"refund 0 {3 * GIB}")
    assert guest.number(f"charge 0 {GIB}") == 0
    assert guest.number("charge 0 1") == NO_ROOM

    folder.resize(with_memory(limits, 8 * GIB))
    assert guest.number(f"charge 0 {6 * GIB}") == 0


def test_a_limits_file_that_was_only_renamed_is_found_by_tidying(invite, folder):
    from labspawner.gpu import limits

    guest = invite(folder).join()
    guest.ask("charge 0 1")
    guest.ask("tidy")

    limits.write(with_memory(folder.read(), GIB), folder.limits)
    assert guest.number("limit 0") == 6 * GIB
    guest.ask("tidy")

    assert guest.number("limit 0") == GIB


@pytest.mark.parametrize("content", ["", "rubbish", "labspawner-limits 1\nslice ada\n"])
def test_a_bad_new_limits_file_changes_nothing_for_who_runs_and_says_so(invite, folder, content):
    guest = invite(folder).join()
    folder.limits.write_text(content)
    region.bump(folder.region)

    assert guest.number(f"charge 0 {6 * GIB}") == 0
    assert guest.number("charge 0 1") == NO_ROOM
    said = guest.kill()
    assert said.startswith("labspawner: limits stay as they were: ")
    assert said.count("\n") == 1


def test_other_cards_in_a_new_limits_file_are_for_new_processes(invite, folder):
    guest = invite(folder).join()
    text = folder.limits.read_text().replace("GPU-0", "GPU-9").replace(str(6 * GIB), str(7 * GIB))
    folder.limits.write_text(text)
    region.bump(folder.region)

    assert guest.number("limit 0") == 6 * GIB
    assert "names other devices" in guest.kill()


def test_a_limits_file_that_vanished_changes_nothing(invite, folder):
    guest = invite(folder).join()
    guest.ask("charge 0 1")
    folder.limits.unlink()

    guest.ask("tidy")

    assert guest.number("limit 0") == 6 * GIB
    assert guest.number(f"charge 0 {6 * GIB}") == NO_ROOM


def test_who_asked_is_known_by_the_libraries_that_are_loaded(native, folder, tmp_path):
    library = tmp_path / "torch" / "lib" / "libtorch_cuda.so"
    library.parent.mkdir(parents=True)
    shutil.copy(find_library("m"), library)

    with guests(native.program("core_account")) as invite:
        invite(folder, environment={"LD_PRELOAD": str(library)}).join().ask("refuse 0 5 cuMemAlloc_v2")

    (note,) = region.read(folder.region).refusals
    assert note.who == "PyTorch"


def find_library(name: str) -> Path:
    """Where a library that this process can load lies."""
    import ctypes
    import ctypes.util

    ctypes.CDLL(ctypes.util.find_library(name))
    lines = Path("/proc/self/maps").read_text().splitlines()
    return next(Path(line.split()[-1]) for line in lines if f"/lib{name}." in line)
