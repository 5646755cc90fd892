"""Control groups for real: what the kernel of this machine does with them. Counters are asserted, never wall time."""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path

import pytest
from unit.local.limits.control_groups import FolderThatActsLikeV2

from labspawner.errors import SetupError
from labspawner.providers.local.confinement import Limits
from labspawner.providers.local.limits import Groups, probe
from labspawner.providers.local.limits.cgroupfs import CgroupFs, find_mounts
from labspawner.providers.local.limits.dialects import PERIOD_US, V1, V2
from labspawner.testing.waiting import eventually_sync

MIB = 2**20
GENEROUS = Limits(cpu=1.0, memory_bytes=256 * MIB, processes=64)


def allocating(mib: int) -> tuple[str, ...]:
    return (sys.executable, "-c", f"x = bytearray({mib} << 20); print('has it', flush=True); input()")


def need(works: bool, what: str) -> None:
    if not works:
        pytest.skip(f"this machine does not let us limit {what} by control groups")


def test_a_process_that_joins_inside_is_of_the_group_with_all_that_it_starts(groups: Groups, member):
    group = groups.create("lease1", GENEROUS)

    one = member(group.inside_files, "sh", "-c", "sleep 60 & echo $!; wait")
    child = int(one.line())

    assert {one.child.pid, child} <= group.pids()
    assert group.pids_inside() == group.pids()


def test_who_is_outside_is_of_the_group_and_not_limited(groups: Groups, member):
    need(groups.limits_memory, "memory")
    group = groups.create("lease1", Limits(memory_bytes=16 * MIB))

    helper = member(group.outside_files, *allocating(64))

    assert helper.line() == "has it"
    assert helper.child.pid in group.pids()
    assert group.pids_inside() == frozenset()


def test_memory_beyond_the_limit_is_refused_by_killing(groups: Groups, member):
    need(groups.limits_memory, "memory")
    group = groups.create("lease1", Limits(memory_bytes=64 * MIB))

    greedy = member(group.inside_files, *allocating(256))

    assert greedy.child.wait(timeout=120) == -signal.SIGKILL
    assert group.oom_kills() == 1


def test_the_largest_process_dies_and_the_server_lives_on(groups: Groups, member):
    need(groups.limits_memory, "memory")
    group = groups.create("lease1", Limits(memory_bytes=96 * MIB))
    server = member(group.inside_files, "cat")

    kernel = member(group.inside_files, *allocating(256))

    assert kernel.child.wait(timeout=120) == -signal.SIGKILL
    assert server.child.poll() is None
    assert server.child.pid in group.pids()


def test_a_fork_bomb_stops_at_the_limit(groups: Groups, member):
    need(groups.limits_processes, "processes")
    group = groups.create("lease1", Limits(processes=20))

    bomb = member(group.inside_files, "sh", "-c", "while :; do sleep 60 & done")

    assert bomb.child.wait(timeout=120) != 0
    assert 10 <= len(group.pids()) <= 20
    assert group.kill()
    assert group.pids() == frozenset()


def test_a_busy_loop_gets_no_more_than_its_share_of_each_period(groups: Groups, member):
    need(groups.limits_cpu, "CPU")
    group = groups.create("lease1", Limits(cpu=0.1))

    member(group.inside_files, "sh", "-c", "while :; do :; done")

    eventually_sync(lambda: (seen := periods_of(group))[0] >= 10 and seen[1] > 0, 60)
    if group.usage().cpu_s is not None:
        # What a stalled machine let it use too much in one period is paid back in some later. Unlimited, it never is.
        eventually_sync(
            lambda: group.usage().cpu_s <= 0.1 * (periods_of(group)[0] + 3) * PERIOD_US / 1e6, 20, "its share, no more"
        )


def periods_of(group) -> tuple[int, int]:
    for file in group.inside_files:
        path = file.replace("cgroup.procs", "cpu.stat")
        if os.path.exists(path):
            table = dict(line.split() for line in Path(path).read_text().splitlines())
            if "nr_periods" in table:
                return int(table["nr_periods"]), int(table["nr_throttled"])
    raise AssertionError("no cpu.stat")


def test_what_is_enforced_is_read_back(groups: Groups):
    need(groups.limits_cpu and groups.limits_memory and groups.limits_processes, "all")

    group = groups.create("lease1", GENEROUS)

    assert group.limits_of() == GENEROUS


def test_without_limits_nothing_is_limited(groups: Groups):
    group = groups.create("lease1", Limits())

    assert group.limits_of() == Limits()


def test_making_a_group_again_changes_its_limits_and_keeps_who_is_in_it(groups: Groups, member):
    need(groups.limits_memory, "memory")
    group = groups.create("lease1", GENEROUS)
    one = member(group.inside_files, "cat")

    again = groups.create("lease1", Limits(cpu=0.25, memory_bytes=512 * MIB, processes=7))

    assert again.limits_of().memory_bytes == 512 * MIB
    assert one.child.pid in again.pids()


def test_usage_tells_memory_processor_time_and_processes_beside_their_limits(groups: Groups, member):
    need(groups.limits_memory and groups.limits_cpu, "memory and CPU")
    group = groups.create("lease1", GENEROUS)
    one = member(group.inside_files, *allocating(50))
    one.line()

    usage = group.usage()

    assert 50 * MIB <= usage.memory_bytes <= 100 * MIB
    assert usage.memory_limit_bytes == 256 * MIB
    assert usage.cpu_s > 0
    assert usage.cpu_limit == 1.0
    assert usage.processes == 1
    assert usage.taken_at.tzinfo is not None


def test_kill_ends_everybody_in_both_leaves(groups: Groups, member):
    group = groups.create("lease1", GENEROUS)
    helper = member(group.outside_files, "cat")
    server = member(group.inside_files, "sh", "-c", "trap '' TERM INT; setsid sleep 60 & echo up; wait")
    server.line()

    assert group.kill()

    assert helper.child.wait(timeout=120) == server.child.wait(timeout=120) == -signal.SIGKILL
    assert group.pids() == frozenset()


def test_kill_of_a_group_that_is_gone_or_empty_is_done(groups: Groups):
    assert groups.group("never-made").kill()
    assert groups.create("lease1", GENEROUS).kill()


def test_remove_may_be_repeated_and_takes_the_empty_tree_with_it(groups: Groups):
    group = groups.create("lease1", GENEROUS)

    assert group.remove()
    assert group.remove()

    assert not group.exists()
    assert not groups.list_groups()
    assert not any(os.path.exists(os.path.dirname(file) + "/../..") for file in group.inside_files)


def test_remove_says_no_while_somebody_lives_in_it_and_kills_nobody(groups: Groups, member):
    group = groups.create("lease1", GENEROUS)
    one = member(group.inside_files, "cat")

    assert not group.remove(deadline_s=0.05)

    assert one.child.poll() is None
    assert group.kill()
    assert group.remove()


def test_remove_waits_until_the_kernel_has_buried_who_was_killed(groups: Groups, member):
    group = groups.create("lease1", GENEROUS)
    for _ in range(5):
        member(group.inside_files, *allocating(10)).line()

    group.kill()

    assert group.remove()


def test_groups_inside_a_group_are_removed_with_it(groups: Groups):
    group = groups.create("lease1", GENEROUS)
    for file in group.inside_files:
        os.mkdir(file.replace("cgroup.procs", "made-inside"))

    assert group.remove()
    assert not group.exists()


def test_what_a_crash_left_is_listed_also_where_it_is_half_made(groups: Groups):
    whole = groups.create("lease1", GENEROUS)
    half = groups.create("lease2", GENEROUS)
    os.rmdir(os.path.dirname(half.inside_files[0]))

    found = groups.list_groups()

    assert set(found) == {"lease1", "lease2"}
    assert found["lease1"].name == whole.name
    assert found["lease2"].remove()


def test_another_hub_and_another_provider_have_groups_of_their_own(groups: Groups, hub_id: str):
    others = [
        probe(hub_id=f"{hub_id}-b", provider="local").groups,
        probe(hub_id=hub_id, provider="other").groups,
    ]
    mine = groups.create("lease1", GENEROUS)
    theirs = [other.create("lease1", GENEROUS) for other in others]
    try:
        assert set(groups.list_groups()) == {"lease1"}
        assert mine.remove()
        assert all(group.exists() for group in theirs)
    finally:
        for group in theirs:
            group.remove()


def test_a_name_that_is_no_lease_id_stays_inside_the_tree(groups: Groups):
    group = groups.create("../../etc", GENEROUS)

    assert ".." not in str(group.name)
    assert set(groups.list_groups()) == {group.name.name}


def test_a_limit_that_the_kernel_refuses_is_a_sentence_and_leaves_nothing(groups: Groups):
    need(groups.limits_processes, "processes")

    with pytest.raises(SetupError) as caught:
        groups.create("lease1", Limits(processes=-5))

    assert "pids.max" in str(caught.value)
    assert "limits" in caught.value.message
    assert not groups.list_groups()


def test_a_group_that_was_there_before_outlives_limits_that_are_refused(groups: Groups):
    need(groups.limits_processes, "processes")
    groups.create("lease1", GENEROUS)

    with pytest.raises(SetupError):
        groups.create("lease1", Limits(processes=-5))

    assert set(groups.list_groups()) == {"lease1"}


def test_the_probe_leaves_nothing_behind(hub_id: str):
    found = probe(hub_id=hub_id, provider="local")

    if found.groups is not None:
        assert not found.groups.list_groups()
        trial = found.groups.group("x").inside_files[0].split(hub_id)[0] + hub_id
        assert not os.path.exists(trial)
    assert found.words


@pytest.fixture
def bare_v2(hub_id: str):
    """The real unified hierarchy, with or without controllers: joining, freezing and killing need none."""
    mounts = find_mounts()
    if mounts.v2 is None or not CgroupFs().writable(mounts.v2 / "cgroup.procs"):
        pytest.skip("the unified hierarchy is not mounted, or not ours to change")
    dialect = V2(CgroupFs(), mounts.v2)
    dialect.controllers = frozenset()
    found = Groups(dialect, hub_id=hub_id, provider="local")
    yield found
    for group in found.list_groups().values():
        group.kill()
        group.remove()


def test_v2_joins_kills_and_removes_without_controllers(bare_v2: Groups, member):
    group = bare_v2.create("lease1", GENEROUS)
    server = member(group.inside_files, "sh", "-c", "sleep 60 & echo up; wait")
    server.line()
    member(group.outside_files, "echo", "up").line()

    assert len(group.pids_inside()) == 2
    assert group.kill()
    assert group.remove()
    assert group.usage().processes is None


def test_v2_of_an_older_kernel_freezes_and_kills_one_by_one(bare_v2: Groups, member):
    class NoKillFile(CgroupFs):
        def write(self, path, text):
            if path.name == "cgroup.kill":
                raise FileNotFoundError(path)
            super().write(path, text)

    bare_v2._dialect.fs = NoKillFile()
    group = bare_v2.create("lease1", GENEROUS)
    server = member(
        group.inside_files, "sh", "-c", "bomb() { sleep 60 & sleep 60 & }; bomb; bomb; echo up; exec sleep 60"
    )
    server.line()

    assert group.kill()
    assert server.child.wait(timeout=120) == -signal.SIGKILL
    assert group.remove()


def test_v1_without_a_freezer_still_ends_everybody(groups: Groups, member):
    if not isinstance(groups._dialect, V1):
        pytest.skip("this machine has the unified hierarchy")
    groups._dialect._of.pop("freezer", None)
    group = groups.create("lease1", GENEROUS)
    server = member(group.inside_files, "sh", "-c", "sleep 60 & echo up; exec sleep 60")  # none waits for another
    server.line()

    assert group.kill()
    assert server.child.wait(timeout=120) == -signal.SIGKILL


def test_without_pid_descriptors_everybody_is_killed_by_number(groups: Groups, member, monkeypatch):
    if not isinstance(groups._dialect, V1):
        pytest.skip("this machine has the unified hierarchy")
    monkeypatch.delattr(os, "pidfd_open")
    group = groups.create("lease1", GENEROUS)
    server = member(group.inside_files, "cat")

    assert group.kill()
    assert server.child.wait(timeout=120) == -signal.SIGKILL


def test_the_memory_of_devices_is_limited_where_the_machine_can(tmp_path: Path, hub_id: str):
    folder = FolderThatActsLikeV2(tmp_path, "cpu memory pids dmem")

    group = Groups(V2(folder, tmp_path), hub_id=hub_id, provider="local").create("ada", Limits(memory_bytes=2**30))

    assert group.device_memory == tmp_path / group.name / "inside"
    assert (group.device_memory / "dmem.max").exists()


def test_a_machine_that_keeps_the_memory_of_devices_to_itself_limits_the_rest(tmp_path: Path, hub_id: str):
    folder = FolderThatActsLikeV2(tmp_path, "cpu memory pids dmem")
    whole = folder.write

    def as_under_systemd(path: Path, text: str) -> None:
        if text == "+dmem":
            raise OSError(errno.EBUSY, "as told", str(path))
        whole(path, text)

    folder.write = as_under_systemd  # type: ignore[method-assign]

    group = Groups(V2(folder, tmp_path), hub_id=hub_id, provider="local").create("ada", Limits(memory_bytes=2**30))

    assert group.device_memory is None
    assert group.limits_of().memory_bytes == 2**30


def test_kill_gives_up_on_a_process_that_does_not_die(folder: FolderThatActsLikeV2, folder_mounts, hub_id: str):
    found = Groups(V2(folder, folder.root), hub_id=hub_id, provider="local")
    group = found.create("lease1", GENEROUS)
    folder.refuses["cgroup.kill"] = 2
    with open(group.inside_files[0], "w") as procs:
        procs.write("1\n")  # nobody may kill that one, and we do not try

    assert not group.kill(deadline_s=0.05)
    assert not group.remove(deadline_s=0.05)
