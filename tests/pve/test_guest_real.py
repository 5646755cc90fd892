"""Real guests: labspawner-guest runs, servers are processes with a home on the VM's disk, and nothing outlives the double."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from labspawner.guest import HELPER
from labspawner.testing import tinyserver
from labspawner.testing.kube import sitter
from labspawner.testing.processes import lives
from labspawner.testing.pve.guest import Guests
from labspawner.testing.waiting import eventually, eventually_sync

from .guesthost import Lab, a_request, a_vm, asked


@pytest.fixture
def lab(tmp_path):
    def make(**behaviour):
        return Lab(Guests.real(**behaviour), tmp_path)

    return make


async def serving(host, vm, *words, **changes):
    """A configured server that listens; its address."""
    said = await host.help(vm, "configure", say=a_request(words or tinyserver.command(), **changes))
    assert said["ok"], said
    await host.listening(vm)
    return host.guests.guest(vm.vmid).address


def processes(host, vm):
    return alive(f"{host.guests.mark}/{vm.vmid}/")


def alive(mark):
    found = []
    for pid in sitter.marked(mark):
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(pid))
    return found


async def test_a_server_runs_as_a_process_at_the_guests_address_with_a_home_on_its_disk(lab):
    async with lab() as host:
        vm = await host.booted(a_vm())
        words = [*tinyserver.command(say="hello")]

        address = await serving(host, vm, *words)

        assert "alice" in await asked(address, 8888, "/user/alice/lab")
        assert processes(host, vm)
        assert (host.guests.disk(vm.vmid) / "home/alice").is_dir()
        assert (await host.done(vm, [HELPER, "logs", "3"])).out == "hello\n"
        status = await host.help(vm, "status")
        assert (status["server"]["state"], status["cloud_init"]) == ("active", "done")
        assert status["versions"]["jupyterhub"] or status["versions"] == dict.fromkeys(status["versions"])


async def test_two_guests_listen_on_one_port_at_their_own_addresses(lab):
    async with lab() as host:
        first, second = await host.booted(a_vm(1)), await host.booted(a_vm(2))

        addresses = {await serving(host, first), await serving(host, second)}

        assert len(addresses) == 2
        assert all([await asked(address, 8888, "/user/alice/api") for address in addresses])


async def test_a_hibernated_server_stands_still_and_goes_on_as_the_same_process(lab):
    async with lab() as host:
        vm = await host.booted(a_vm())
        address = await serving(host, vm)
        before = {process.pid for process in processes(host, vm)}

        await host.guests.pause(vm)
        await eventually(lambda: {one.status() for one in processes(host, vm)} == {psutil.STATUS_STOPPED}, 60)
        await host.guests.resume(vm)
        await host.up(vm)

        assert {process.pid for process in processes(host, vm)} >= before
        assert await asked(address, 8888, "/user/alice/api")


async def test_power_ends_all_processes_and_the_disk_stays_until_the_vm_is_destroyed(lab):
    async with lab() as host:
        vm = await host.booted(a_vm())
        await serving(host, vm)
        (host.guests.disk(vm.vmid) / "home/alice/work.txt").write_text("kept")

        await host.guests.power_off(vm)
        gone = processes(host, vm)
        await host.booted(vm)
        status = await host.help(vm, "status")
        kept = (host.guests.disk(vm.vmid) / "home/alice/work.txt").read_text()
        await host.guests.destroyed(vm)

        assert gone == []
        assert status["lease"] is None  # the environment was in memory
        assert kept == "kept"
        assert not host.guests.disk(vm.vmid).exists()


async def test_shutdown_lets_the_server_end_in_order(lab):
    async with lab() as host:
        vm = await host.booted(a_vm())
        await serving(host, vm)

        assert await host.guests.shutdown(vm, timeout_s=60)

        assert processes(host, vm) == []


async def test_an_ended_server_takes_its_vm_down_where_that_is_wanted(lab):
    async with lab() as host:
        vm = await host.booted(a_vm())
        address = await serving(host, vm, *tinyserver.command(die_when_asked=True), when_ended="poweroff")

        await asked(address, 8888, "/user/alice/die")

        await eventually(lambda: host.off == [vm.vmid], 60, "the VM goes down")


async def test_a_replaced_server_takes_nothing_down(lab):
    async with lab() as host:
        vm = await host.booted(a_vm())
        await serving(host, vm, when_ended="poweroff")

        said = await host.help(
            vm, "configure", say=a_request(tinyserver.command(), lease="lease-2", when_ended="poweroff")
        )
        await host.listening(vm)
        await host.clock.sleep(300)

        assert said["replaced"] is True
        assert host.off == []


async def test_a_clone_has_the_files_of_its_template(lab):
    template, clone = a_vm(9000), a_vm(701)
    async with lab() as host:
        (host.guests.disk(9000) / "home/alice").mkdir(parents=True)
        (host.guests.disk(9000) / "home/alice/course.ipynb").write_text("{}")
        (host.guests.disk(9000) / "run").mkdir()

        await host.guests.cloned(template, clone)

        assert (host.guests.disk(701) / "home/alice/course.ipynb").read_text() == "{}"
        assert not (host.guests.disk(701) / "run").exists()


async def test_a_snapshot_brings_the_files_back_and_starts_the_server(lab):
    async with lab() as host:
        vm = await host.booted(a_vm())
        address = await serving(host, vm)
        await host.guests.save(vm, "clean")
        (host.guests.disk(vm.vmid) / "home/alice/mess.txt").write_text("mess")

        await host.guests.restore(vm, "clean")
        await host.guests.resume(vm)
        await host.up(vm)
        await host.listening(vm)

        assert await asked(address, 8888, "/user/alice/api")
        assert not (host.guests.disk(vm.vmid) / "home/alice/mess.txt").exists()


async def test_a_refusal_of_the_helper_comes_through(lab):
    async with lab() as host:
        vm = await host.booted(a_vm())

        said = await host.help(vm, "configure", say={"protocol": 2})

        assert (said["ok"], said["reason"]) == (False, "protocol")


_CREATOR = """
import asyncio, json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from pve.guesthost import Lab, a_request, a_vm
from labspawner.testing import tinyserver
from labspawner.testing.pve.guest import Guests

async def main():
    async with Lab(Guests.real(), Path(sys.argv[1])) as host:
        vm = await host.booted(a_vm())
        await host.help(vm, "configure", say=a_request(tinyserver.command()))
        await host.listening(vm)
        print(json.dumps(host.guests.mark), flush=True)
        await asyncio.sleep(3600)

asyncio.run(main())
"""


def test_a_creator_that_is_killed_leaves_no_process_and_no_folder(tmp_path):
    tests = os.path.dirname(os.path.dirname(__file__))
    words = [sys.executable, "-c", _CREATOR, str(tmp_path), tests]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as creator:
        mark = json.loads(creator.stdout.readline())
        left = alive(mark)

        creator.send_signal(signal.SIGKILL)
        creator.wait(timeout=300)

    assert left
    eventually_sync(lambda: not any(lives(process) for process in left), 60, "all processes have ended")
    eventually_sync(lambda: not (tmp_path / "guests").exists(), 60, "their disks are gone")
