"""What servers use, from control groups where they have one and from their processes where not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from labspawner.errors import ProviderUnavailable
from labspawner.model import Handle, LeaseId
from labspawner.providers import consumption
from labspawner.providers.consumption import measure
from labspawner.providers.local.confinement import Limits
from labspawner.providers.local.limits.dialects import V2
from labspawner.providers.local.limits.groups import Groups
from labspawner.providers.local.limits.quota import Disk
from labspawner.providers.local.limits.usage import usage_now, usage_of
from labspawner.providers.processes import HostProcess, Listing
from labspawner.sentences import plain

MIB = 2**20
LEASE = LeaseId("lease1")


@pytest.fixture
def greedy():
    """A process that holds 50 MiB of its own."""
    program = "x = bytearray(b'x') * (50 << 20); print('has it', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield child
        child.kill()


def found(child: subprocess.Popen[bytes], **changes) -> HostProcess:
    created = psutil.Process(child.pid).create_time() if "created" not in changes else 0.0
    values = {"pid": child.pid, "created": created, "parent": 1, "lease_id": LEASE, "hub_id": "h"}
    return HostProcess(**{**values, "provider": "local", "user": "ann", **changes})


def test_processes_are_measured_by_what_is_their_own(greedy):
    usage = measure([found(greedy)])

    assert 50 * MIB <= usage.memory_bytes <= 90 * MIB
    assert usage.cpu_s > 0
    assert usage.processes == 1
    assert usage.memory_limit_bytes is None


def test_without_the_kernels_own_figure_it_is_what_is_resident_and_not_shared(greedy, tmp_path: Path):
    usage = measure([found(greedy)], proc=tmp_path)

    assert 50 * MIB <= usage.memory_bytes <= 90 * MIB


def test_a_figure_that_cannot_be_read_is_not_used(greedy, tmp_path: Path):
    (tmp_path / str(greedy.pid)).mkdir()
    (tmp_path / str(greedy.pid) / "smaps_rollup").write_text("Rss: 4 kB\nPss:\n")

    assert consumption.memory_of(psutil.Process(greedy.pid), proc=tmp_path) >= 50 * MIB


def test_a_stranger_that_got_the_pid_and_a_process_that_is_gone_do_not_count(greedy):
    gone = HostProcess(pid=2**22 + 1, created=1.0, parent=1, lease_id=LEASE, hub_id="h", provider="local", user="ann")

    assert measure([found(greedy, created=1.0), gone]) is None
    assert measure([]) is None


@pytest.fixture
def doubled(folder) -> Groups:
    return Groups(V2(folder, folder.root), hub_id="hub", provider="local")


def test_a_control_group_is_believed_and_no_process_is_asked(doubled: Groups, folder, greedy):
    doubled.create("lease1", Limits(memory_bytes=256 * MIB, cpu=2))
    inside = folder.root / "labspawner/hub/local/lease1/inside"
    (inside / "memory.current").write_text("4096")
    (inside / "cpu.stat").write_text("usage_usec 1000000")
    (inside / "cgroup.procs").write_text("1")

    usage = usage_of([LEASE], groups=doubled, processes={LEASE: [found(greedy)]})[LEASE]

    assert (usage.memory_bytes, usage.cpu_s, usage.processes) == (4096, 1.0, 1)
    assert (usage.memory_limit_bytes, usage.cpu_limit) == (256 * MIB, 2)


def test_what_the_group_does_not_count_is_seen_in_the_processes(doubled: Groups, folder, greedy):
    doubled.create("lease1", Limits(cpu=2))
    inside = folder.root / "labspawner/hub/local/lease1/inside"
    (inside / "memory.current").unlink()
    (inside / "cpu.stat").write_text("usage_usec 1000000")
    (inside / "cgroup.procs").write_text("1")

    usage = usage_of([LEASE], groups=doubled, processes={LEASE: [found(greedy)]})[LEASE]

    assert usage.memory_bytes >= 50 * MIB
    assert (usage.cpu_s, usage.cpu_limit) == (1.0, 2)


def test_without_a_group_or_in_an_empty_one_the_processes_are_measured(doubled: Groups, greedy):
    doubled.create("lease1", Limits())

    for groups in (None, doubled):
        assert usage_of([LEASE], groups=groups, processes={LEASE: [found(greedy)]})[LEASE].memory_bytes >= 50 * MIB


def test_a_lease_of_which_nothing_can_be_told_is_left_out(doubled: Groups):
    assert usage_of([LEASE], groups=doubled, processes={}) == {}


def test_the_disk_is_told_where_there_are_quotas(greedy):
    class Quotas:
        def usage(self):
            return {20001: Disk(used_bytes=5, limit_bytes=7)}

    usage = usage_of([LEASE], groups=None, processes={LEASE: [found(greedy)]}, quotas=Quotas(), owners={LEASE: 20001})

    assert (usage[LEASE].disk_bytes, usage[LEASE].disk_limit_bytes) == (5, 7)


def test_a_home_without_a_quota_tells_no_disk(greedy):
    class Quotas:
        def usage(self):
            return {}

    usage = usage_of([LEASE], groups=None, processes={LEASE: [found(greedy)]}, quotas=Quotas(), owners={LEASE: 20001})

    assert usage[LEASE].disk_bytes is None


class Host:
    """A machine whose processes are `found`, without walking it; None: it cannot be listed."""

    def __init__(self, found) -> None:
        self.found, self.walks = found, 0

    async def in_thread(self, work, *args, **kwargs):
        return work(*args, **kwargs)

    async def listing(self, *, max_age_s: float = 0.0) -> Listing:
        self.walks += 1
        if self.found is None:
            raise ProviderUnavailable(plain("no answer"))
        return Listing(asked=0.0, marked=tuple(self.found), living={})


HANDLE = Handle(lease_id=LEASE, provider="local")


async def test_a_provider_walks_the_machine_only_where_a_group_does_not_tell(doubled: Groups, folder, greedy):
    doubled.create("lease1", Limits())
    (folder.root / "labspawner/hub/local/lease1/inside/cgroup.procs").write_text("1")
    host = Host([found(greedy)])

    assert set(await usage_now([HANDLE], host=host, hub_id="h", groups=doubled)) == {LEASE}
    assert host.walks == 0

    usage = await usage_now([HANDLE], host=host, hub_id="h", groups=None)
    assert usage[LEASE].memory_bytes >= 50 * MIB
    assert host.walks == 1


async def test_a_machine_that_cannot_be_listed_tells_what_groups_tell(doubled: Groups):
    assert await usage_now([HANDLE], host=Host(None), hub_id="h", groups=doubled) == {}


async def test_nobody_is_asked_about_nobody():
    host = Host(None)

    assert await usage_now([], host=host, hub_id="h", groups=None) == {}
    assert host.walks == 0
