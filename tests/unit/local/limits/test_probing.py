"""What control groups can do is found out by trial, and said in words."""

from __future__ import annotations

import errno
import os
from pathlib import Path, PurePosixPath

import pytest
from unit.local.limits.control_groups import FolderThatActsLikeV2

from labspawner.errors import SetupError
from labspawner.providers.local.confinement import Limits
from labspawner.providers.local.limits import Groups, probe
from labspawner.providers.local.limits.cgroupfs import CgroupFs, Mounts, find_mounts

MIB = 2**20
LIMITS = Limits(cpu=1.5, memory_bytes=64 * MIB, processes=50)


def found(folder: FolderThatActsLikeV2, mounts: Mounts, **changes) -> Groups:
    groups = probe(hub_id="hub", provider="local", fs=folder, mounts=mounts, **changes).groups
    assert groups is not None
    return groups


def test_version_2_is_used_where_it_has_controllers(folder, folder_mounts):
    result = probe(hub_id="hub", provider="local", fs=folder, mounts=folder_mounts)

    assert result.words == "control groups version 2 limit memory, CPU, processes"
    assert result.groups.limits_memory
    assert result.groups.limits_cpu
    assert result.groups.limits_processes
    assert not folder.exists(folder.root / "labspawner")


def test_a_group_has_its_limits_in_the_leaf_of_the_server_and_its_weight_among_leases(folder, folder_mounts):
    group = found(folder, folder_mounts).create("lease1", LIMITS)

    lease = folder.root / "labspawner/hub/local/lease1"
    said = {
        name: (lease / "inside" / name).read_text() for name in ("memory.max", "memory.swap.max", "pids.max", "cpu.max")
    }
    assert said == {"memory.max": str(64 * MIB), "memory.swap.max": "0", "pids.max": "50", "cpu.max": "150000 100000"}
    assert (lease / "cpu.weight").read_text() == "150"
    assert (lease / "outside" / "memory.max").read_text() == "max"
    assert group.limits_of() == LIMITS
    assert group.inside_files == (str(lease / "inside" / "cgroup.procs"),)
    assert group.outside_files == (str(lease / "outside" / "cgroup.procs"),)


def test_version_2_counters_become_a_usage(folder, folder_mounts):
    group = found(folder, folder_mounts).create("lease1", LIMITS)
    inside = folder.root / "labspawner/hub/local/lease1/inside"
    (inside / "memory.current").write_text("5000\n")
    (inside / "memory.stat").write_text("anon 1\ninactive_file 2000\n")
    (inside / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    (inside / "cgroup.procs").write_text(f"1\n{os.getpid()}\n")
    (inside / "memory.events").write_text("oom 3\noom_kill 2\n")

    usage = group.usage()

    assert (usage.memory_bytes, usage.cpu_s, usage.processes) == (3000, 2.5, 2)
    assert (usage.memory_limit_bytes, usage.cpu_limit) == (64 * MIB, 1.5)
    assert group.oom_kills() == 2


def test_a_controller_that_is_not_delegated_is_said_and_left_out(tmp_path: Path):
    folder = FolderThatActsLikeV2(tmp_path, "memory pids")

    result = probe(hub_id="hub", provider="local", fs=folder, mounts=Mounts(v2=tmp_path, own={"": "/"}))

    assert result.words == "control groups version 2 limit memory, processes, not CPU"
    group = result.groups.create("lease1", LIMITS)
    assert group.limits_of() == Limits(memory_bytes=64 * MIB, processes=50)


def test_the_smallest_quota_is_what_the_kernel_takes(folder, folder_mounts):
    found(folder, folder_mounts).create("lease1", Limits(cpu=0.001))

    assert (folder.root / "labspawner/hub/local/lease1/inside/cpu.max").read_text() == "1000 100000"


def test_an_ordinary_user_gets_the_topmost_group_of_theirs(tmp_path: Path):
    folder = TheirsIs("user.slice/user@7.service", tmp_path)
    own = "/user.slice/user@7.service/app.slice/hub.service"

    groups = found(folder, Mounts(v2=tmp_path, own={"": own}))

    group = groups.create("lease1", LIMITS)
    assert f"{tmp_path}/user.slice/user@7.service/labspawner/hub/local/lease1/" in group.inside_files[0]


def test_a_session_that_owns_no_group_is_told_so(tmp_path: Path):
    folder = TheirsIs("user.slice/user@7.service", tmp_path)

    result = probe(
        hub_id="hub", provider="local", fs=folder, mounts=Mounts(v2=tmp_path, own={"": "/user.slice/session-3.scope"})
    )

    assert result.groups is None
    assert result.words == "no control groups: version 2: no group that we are in may be changed by us"


def test_the_parent_may_be_named_by_the_administrator(tmp_path: Path):
    folder = FolderThatActsLikeV2(tmp_path)
    folder.write(tmp_path / "cgroup.subtree_control", "+memory")
    folder.make(tmp_path / "lab")

    groups = found(folder, Mounts(v2=tmp_path, own={"": "/"}), parent="/lab")

    assert str(tmp_path / "lab/labspawner") in groups.create("lease1", LIMITS).inside_files[0]


def test_a_group_with_processes_of_its_own_is_named(folder, folder_mounts):
    folder.refuses["cgroup.subtree_control"] = errno.EBUSY

    result = probe(hub_id="hub", provider="local", fs=folder, mounts=folder_mounts)

    assert result.groups is None
    assert f"{folder.root} has processes of its own" in result.words


@pytest.mark.parametrize(("file", "what"), [("memory.max", "memory.max"), ("inside/pids.max", "pids.max")])
def test_a_limit_that_is_refused_in_the_trial_is_named_and_nothing_is_left(folder, folder_mounts, file, what):
    folder.refuses[file] = errno.EPERM

    result = probe(hub_id="hub", provider="local", fs=folder, mounts=folder_mounts)

    assert result.groups is None
    assert what in result.words
    assert not folder.exists(folder.root / "labspawner")


def test_a_limit_that_is_swallowed_is_noticed(tmp_path: Path):
    class Deaf(FolderThatActsLikeV2):
        def write(self, path, text):
            if path.name != "cpu.max":
                super().write(path, text)

    result = probe(hub_id="hub", provider="local", fs=Deaf(tmp_path), mounts=Mounts(v2=tmp_path, own={"": "/"}))

    assert result.words == "no control groups: version 2: limits of CPU are not taken"


def test_a_group_that_cannot_be_joined_is_noticed(tmp_path: Path):
    class NoEntry(FolderThatActsLikeV2):
        def make(self, path):
            super().make(path)
            if path.name == "inside":
                (path / "cgroup.procs").unlink()
                (path / "cgroup.procs").mkdir()

        def remove(self, path):
            if path.name == "inside" and path.exists():
                (path / "cgroup.procs").rmdir()
                (path / "cgroup.procs").write_text("")
            super().remove(path)

        def groups_in(self, path):
            return [child for child in super().groups_in(path) if child.name != "cgroup.procs"]

    result = probe(hub_id="hub", provider="local", fs=NoEntry(tmp_path), mounts=Mounts(v2=tmp_path, own={"": "/"}))

    assert result.groups is None
    assert "could not join" in result.words


def test_a_trial_of_a_hub_that_was_killed_is_removed_and_one_under_way_is_not(folder, folder_mounts):
    groups = found(folder, folder_mounts)
    for pid in ("99999999", "1"):
        groups.group("x")._dialect.make(PurePosixPath("labspawner", "hub", "_trial", pid))

    probe(hub_id="hub", provider="local", fs=folder, mounts=folder_mounts)

    assert [path.name for path in folder.groups_in(folder.root / "labspawner/hub/_trial")] == ["1"]


def test_a_machine_without_control_groups_is_told_so(tmp_path: Path):
    result = probe(hub_id="hub", provider="local", mounts=find_mounts(tmp_path))

    assert (result.groups, result.words) == (None, "no control groups: none are mounted")


def test_older_controllers_are_used_where_the_unified_hierarchy_has_none(tmp_path: Path):
    (tmp_path / "unified").mkdir()
    unified = FolderThatActsLikeV2(tmp_path / "unified", "")
    old = {name: tmp_path / name for name in ("memory", "pids")}
    for path in old.values():
        path.mkdir()

    result = probe(hub_id="hub", provider="local", fs=unified, mounts=Mounts(v2=unified.root, v1=old, own={"": "/"}))

    assert result.groups is None
    assert f"version 2: {unified.root} has none of the controllers memory, cpu, pids" in result.words
    assert "version 1: " in result.words  # tried, and these plain folders are no control groups


def test_older_controllers_that_may_not_be_changed_are_said():
    result = probe(hub_id="hub", provider="local", mounts=Mounts(v1={"memory": Path("/proc/sys")}, own={"memory": "/"}))

    assert result.words == "no control groups: version 1: none of its groups may be changed by us"


class Vanishing(FolderThatActsLikeV2):
    """A tree that another hub removes three times while a group is being made in it."""

    victim = ""
    times = 0

    def make(self, path: Path) -> None:
        if path.name == self.victim and self.times < 3:
            self.times += 1
            raise OSError(errno.ENODEV, "gone", str(path))
        super().make(path)


def test_a_start_in_a_tree_that_vanishes_under_its_feet_is_tried_again(tmp_path: Path):
    folder = Vanishing(tmp_path)
    groups = found(folder, Mounts(v2=tmp_path, own={"": "/"}))
    folder.victim = "lease1"

    assert groups.create("lease1", LIMITS).exists()


def test_a_trial_in_a_tree_that_vanishes_under_its_feet_is_tried_again(tmp_path: Path):
    folder = Vanishing(tmp_path)
    folder.victim = "_trial"

    assert found(folder, Mounts(v2=tmp_path, own={"": "/"})).limits_memory
    assert folder.times == 3


def test_a_group_that_cannot_be_made_is_a_sentence(folder, folder_mounts):
    groups = found(folder, folder_mounts)
    folder.refuses["inside/memory.max"] = errno.EBUSY

    with pytest.raises(SetupError) as caught:
        groups.create("lease1", LIMITS)

    assert "memory.max" in str(caught.value)
    assert not groups.list_groups()


def test_hybrid_mounts_are_read_as_they_are(tmp_path: Path):
    (tmp_path / "mountinfo").write_text(
        "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
        "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:1 - cgroup cgroup rw,cpu,cpuacct\n"
        "35 31 0:32 /docker/abc /sys/fs/cgroup/my\\040memory rw - cgroup cgroup rw,memory\n"
        "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"
        "42 31 0:38 / /other rw - cgroup2 cgroup2 rw\n"
    )
    (tmp_path / "cgroup").write_text("9:name=systemd:/\n4:memory:/docker/abc/deep\n2:cpu,cpuacct:/\n0::/lab\n")

    mounts = find_mounts(tmp_path)

    assert mounts.v2 == Path("/sys/fs/cgroup/unified")
    assert mounts.v1 == {
        "cpu": Path("/sys/fs/cgroup/cpu,cpuacct"),
        "cpuacct": Path("/sys/fs/cgroup/cpu,cpuacct"),
        "memory": Path("/sys/fs/cgroup/my memory"),
    }
    assert mounts.own == {"cpu": "/", "cpuacct": "/", "memory": "/deep", "": "/lab"}


def test_an_ordinary_user_on_this_machine_is_told_why_not():
    if os.geteuid() != 0:
        pytest.skip("only root can become an ordinary user")
    mounts = find_mounts()
    if not mounts.v1 and mounts.v2 is None:
        pytest.skip("no control groups are mounted")
    child = os.fork()
    if child == 0:
        os.setresuid(65534, 65534, 65534)
        os._exit(0 if probe(hub_id="hub", provider="local").groups is None else 1)

    assert os.waitpid(child, 0)[1] == 0


class TheirsIs(FolderThatActsLikeV2):
    """A mount where only one group, and what is below it, belongs to us."""

    def __init__(self, theirs: str, root: Path) -> None:
        super().__init__(root)
        self._theirs = ""
        folder = root
        for part in [*theirs.split("/"), "app.slice", "hub.service"]:
            for controller in ("memory", "pids", "cpu"):
                self.write(folder / "cgroup.subtree_control", f"+{controller}")
            folder /= part
            self.make(folder)
        self._theirs = theirs

    def writable(self, path: Path) -> bool:
        return path.is_relative_to(self.root / self._theirs) and CgroupFs.writable(self, path)
