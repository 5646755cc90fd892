"""Scripted guests live as real ones do: power, agent, programs, cloud-init, labspawner-guest and a server."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest

from labspawner.guest import HELPER
from labspawner.testing import tinyserver
from labspawner.testing.hub import free_ports
from labspawner.testing.pve.clock import Clock
from labspawner.testing.pve.guest import Guests
from labspawner.testing.pve.guest.still import StillServer
from labspawner.testing.pve.seams import GuestFault, NoSuchProgram
from labspawner.testing.waiting import eventually

from .guesthost import MAC, Lab, a_request, a_vm, asked


@pytest.fixture
def lab(tmp_path):
    def make(**behaviour):
        return Lab(Guests.scripted(**behaviour), tmp_path)

    return make


async def test_the_agent_answers_once_the_guest_has_booted_and_not_before(lab):
    vm = a_vm()
    async with lab(boot_s=(20, 20)) as host:
        host.clock.set_pace(0)
        await host.guests.boot(vm)
        began = host.clock.now()
        assert not await host.guests.ping(vm)

        host.clock.set_pace(1000)
        await host.up(vm)

        assert host.clock.now() - began >= 20
        await host.guests.power_off(vm)
        assert not await host.guests.ping(vm)


async def test_an_agent_that_never_comes_never_comes(lab):
    vm = a_vm()
    async with lab(agent=False, boot_s=(1, 1)) as host:
        await host.guests.boot(vm)
        await host.clock.sleep(600)

        assert not await host.guests.ping(vm)


async def test_a_server_that_is_stopped_in_any_turn_of_the_loop_listens_no_more():
    clock, (port,) = Clock(), free_ports(1)
    environment = {"JUPYTERHUB_SERVICE_URL": f"http://127.0.0.1:{port}/"}
    for turns in range(20):
        server = StillServer(["lab"], environment, address="127.0.0.1", version="5", clock=clock)
        server.start(0.0, lambda: None)
        for _ in range(turns):
            await asyncio.sleep(0)

        server.stop()
        for _ in range(5):
            await asyncio.sleep(0)

        assert not server.listening
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0, turns


@pytest.mark.parametrize(
    ("script", "code", "out", "err"),
    [
        ("echo out; echo err >&2; sleep 3; exit 3", 3, "out\n", "err\n"),
        ("true && echo yes", 0, "yes\n", ""),
        ("false && echo yes", 1, "", ""),
        ("cat /no/such/file", 1, "", "cat: /no/such/file: No such file or directory\n"),
        ("nonsense", 127, "", "sh: 1: nonsense: not found\n"),
        ("echo mark > /dev/shm/mark; cat /dev/shm/mark", 0, "mark\n", ""),
    ],
)
async def test_a_shell_line_does_what_it_says(lab, script, code, out, err):
    async with lab() as host:
        vm = await host.booted(a_vm())

        done = await host.done(vm, ["/bin/sh", "-c", script])

        assert (done.exitcode, done.signal, done.out, done.err) == (code, None, out, err)


async def test_a_killed_program_has_a_signal_and_no_exit_code(lab):
    async with lab() as host:
        vm = await host.booted(a_vm())

        done = await host.done(vm, ["/bin/sh", "-c", "kill -9 $$"])

        assert (done.exitcode, done.signal) == (None, 9)


async def test_a_program_that_is_not_there_is_no_program(lab):
    async with lab(helper=False) as host:
        vm = await host.booted(a_vm())

        for command in (["/no/such/program"], ["/bin/uname -a"], [HELPER, "status"]):
            with pytest.raises(NoSuchProgram):
                await host.guests.exec(vm, command, b"")


async def test_a_block_list_forbids_programs(lab):
    async with lab(exec_blocked=True, cloud_init_s=(0, 0)) as host:
        vm = a_vm()
        await host.guests.boot(vm)
        await host.up(vm)

        with pytest.raises(GuestFault, match="guest-exec"):
            await host.guests.exec(vm, ["/bin/true"], b"")


async def test_memory_is_kept_by_a_pause_and_lost_with_the_power(lab):
    async with lab() as host:
        vm = await host.booted(a_vm())
        await host.done(vm, ["/bin/sh", "-c", "echo a > /dev/shm/mark; echo b > /opt/mark"])

        await host.guests.pause(vm)
        assert not await host.guests.ping(vm)
        await host.guests.resume(vm)
        await host.up(vm)
        kept = await host.done(vm, ["/bin/cat", "/dev/shm/mark", "/opt/mark"])
        await host.guests.power_off(vm)
        await host.booted(vm)
        disk = await host.done(vm, ["/bin/cat", "/opt/mark"])
        memory = await host.done(vm, ["/bin/cat", "/dev/shm/mark"])

        assert (kept.out, disk.out, memory.exitcode) == ("a\nb\n", "b\n", 1)


async def test_interfaces_have_the_address_of_ipconfig0_and_the_mac_of_net0(lab):
    async with lab() as host:
        vm = a_vm(address="127.77.3.20")
        host.clock.set_pace(0)
        await host.guests.boot(vm)
        early = await host.guests.interfaces(vm)
        host.clock.set_pace(1000)
        await host.booted(vm)

        async def there():
            row = {row["name"]: row for row in await host.guests.interfaces(vm)}["eth0"]
            return row["hardware-address"] == MAC.lower() and row["ip-addresses"][0]["ip-address"] == "127.77.3.20"

        assert all("127.77" not in json.dumps(row) for row in early)
        await eventually(there, 60)


@pytest.mark.parametrize(
    ("kind", "names"), [("none", ["lo", "eth0"]), ("docker", ["lo", "docker0", "eth0"]), ("link-local", ["lo", "eth0"])]
)
async def test_interface_lists_come_as_hubs_meet_them(lab, kind, names):
    async with lab(network=kind, network_s=(0, 0)) as host:
        vm = await host.booted(a_vm(address="127.77.3.20"))

        rows = await host.guests.interfaces(vm)

        assert [row["name"] for row in rows] == names
        own = rows[-1]
        if kind == "none":
            assert "ip-addresses" not in own
        elif kind == "link-local":
            assert own["ip-addresses"][0]["ip-address"].startswith("fe80::")


async def test_what_asks_dhcp_gets_an_address_of_its_own_and_keeps_it(lab):
    async with lab(network_s=(0, 0)) as host:
        first, second = await host.booted(a_vm(1)), await host.booted(a_vm(2, ipconfig0="ip=dhcp"))
        before = host.guests.guest(1).address
        await host.guests.power_off(first)
        await host.booted(first)

        assert host.guests.guest(1).address == before
        assert host.guests.guest(2).address not in ("", before)
        assert (await host.guests.interfaces(second))[1]["ip-addresses"][0]["ip-address"] == host.guests.guest(
            2
        ).address


async def test_a_configured_server_answers_at_the_guests_address(lab):
    async with lab() as host:
        vm = await host.booted(a_vm())
        address = host.guests.guest(vm.vmid).address

        said = await host.help(vm, "configure", say=a_request())
        await host.listening(vm)

        assert (said["ok"], said["started"], said["replaced"], said["port"]) == (True, True, False, 8888)
        assert json.loads(await asked(address, 8888, "/user/alice/api")) == {"version": "still"}
        status = await host.help(vm, "status")
        assert (status["lease"], status["server"]["state"], status["cloud_init"]) == ("lease-1", "active", "done")
        assert status["versions"]["jupyterhub"]


async def test_the_same_request_again_changes_nothing_and_another_replaces_the_server(lab):
    async with lab() as host:
        vm = await host.booted(a_vm())
        await host.help(vm, "configure", say=a_request())

        again = await host.help(vm, "configure", say=a_request())
        other = await host.help(vm, "configure", say=a_request(lease="lease-2"))

        assert (again["started"], again["replaced"]) == (False, False)
        assert (other["started"], other["replaced"], other["lease"]) == (True, True, "lease-2")


async def test_configure_is_refused_with_a_sentence_while_cloud_init_runs(lab):
    async with lab(cloud_init="running") as host:
        vm = a_vm()
        await host.guests.boot(vm)
        await host.up(vm)

        said = await host.help(vm, "configure", say=a_request())

        assert (said["ok"], said["reason"]) == (False, "no_user")
        assert "cloud-init" in said["message"]


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [({"protocol": 2}, "protocol"), ({"versions": {"jupyterhub": None}}, "no_command")],
)
async def test_a_template_that_does_not_fit_refuses(lab, behaviour, reason):
    async with lab(**behaviour) as host:
        vm = await host.booted(a_vm())

        said = await host.help(vm, "configure", say=a_request())

        assert (said["ok"], said["reason"]) == (False, reason)


async def test_a_server_that_dies_is_failed_with_its_last_words_and_without_its_token(lab):
    words = tinyserver.command(say="Traceback: boom ?token=token-of-a-test", die_after_s=0.0, exit_code=3)
    async with lab() as host:
        vm = await host.booted(a_vm())
        await host.help(vm, "configure", say=a_request(words))

        async def failed():
            return (await host.help(vm, "status"))["server"]["state"] == "failed"

        await eventually(failed, 60)
        log = (await host.done(vm, [HELPER, "logs", "20"])).out
        assert (await host.help(vm, "status"))["server"]["exit_code"] == 3
        assert "Traceback: boom" in log
        assert "token-of-a-test" not in log


async def test_a_server_that_ended_by_itself_takes_its_vm_down_where_that_is_wanted(lab):
    words = tinyserver.command(die_when_asked=True)
    async with lab() as host:
        vm = await host.booted(a_vm())
        await host.help(vm, "configure", say=a_request(words, when_ended="poweroff"))
        await host.listening(vm)

        await asked(host.guests.guest(vm.vmid).address, 8888, "/user/alice/die")

        await eventually(lambda: host.off == [vm.vmid], 60, "the VM goes down")


async def test_a_server_that_was_told_to_stop_leaves_its_vm_alone(lab):
    async with lab() as host:
        vm = await host.booted(a_vm())
        await host.help(vm, "configure", say=a_request(when_ended="poweroff"))
        await host.listening(vm)

        assert (await host.help(vm, "stop"))["stopped"] is True
        assert (await host.help(vm, "stop"))["stopped"] is False
        await host.clock.sleep(300)

        assert host.off == []
        assert await asked(host.guests.guest(vm.vmid).address, 8888, "/") is None


async def test_a_hibernated_server_is_silent_and_answers_again_with_what_it_knew(lab):
    async with lab() as host:
        vm = await host.booted(a_vm())
        address = host.guests.guest(vm.vmid).address
        await host.help(vm, "configure", say=a_request())
        await host.listening(vm)

        await host.guests.pause(vm)
        silent = await asked(address, 8888, "/user/alice/api")
        await host.guests.resume(vm)
        await host.up(vm)

        assert silent is None
        assert (await host.help(vm, "status"))["lease"] == "lease-1"
        assert await asked(address, 8888, "/user/alice/api")


async def test_a_snapshot_with_memory_brings_the_server_back(lab):
    async with lab() as host:
        vm = await host.booted(a_vm())
        await host.help(vm, "configure", say=a_request())
        await host.listening(vm)
        await host.guests.save(vm, "clean")
        await host.help(vm, "stop")

        await host.guests.restore(vm, "clean")
        await host.guests.resume(vm)
        await host.up(vm)

        await host.listening(vm)


async def test_two_guests_of_one_address_show_it(lab):
    async with lab() as host:
        first, second = await host.booted(a_vm(1)), a_vm(2, address="")
        address = host.guests.guest(1).address
        second.config["ipconfig0"] = f"ip={address}/10"
        await host.booted(second)
        await host.help(first, "configure", say=a_request())
        await host.listening(first)

        await host.help(second, "configure", say=a_request())

        async def failed():
            return (await host.help(second, "status"))["server"]["state"] == "failed"

        await eventually(failed, 60)


async def test_clones_behave_as_their_template_was_told_to(lab):
    template, clone = a_vm(9000), a_vm(701)
    async with lab(boot_s=(0, 0)) as host:
        host.guests.set(template.vmid, agent=False)

        await host.guests.cloned(template, clone)
        await host.guests.boot(clone)
        await host.clock.sleep(60)

        assert not await host.guests.ping(clone)


async def test_a_deaf_guest_does_not_go_down_and_another_does(lab):
    async with lab() as host:
        vm = await host.booted(a_vm(1))
        deaf = await host.booted(a_vm(2))
        host.guests.set(2, deaf=True)

        assert await host.guests.shutdown(vm, timeout_s=60)
        assert not await host.guests.shutdown(deaf, timeout_s=60)
        assert await host.guests.ping(deaf)


async def test_a_windows_guest_says_so_and_has_no_helper(lab):
    async with lab() as host:
        vm = a_vm(ostype="win11")
        await host.guests.boot(vm)
        await host.up(vm)

        assert (await host.guests.ask(vm, "get-osinfo", {}))["id"] == "mswindows"
        with pytest.raises(NoSuchProgram):
            await host.guests.exec(vm, [HELPER, "status"], b"")


async def test_files_are_written_and_read_through_the_agent(lab):
    async with lab() as host:
        vm = await host.booted(a_vm())

        await host.guests.ask(vm, "file-write", {"file": "/tmp/x", "content": b"A=1\n"})

        assert await host.guests.ask(vm, "file-read", {"file": "/tmp/x"}) == {"content": "A=1\n", "bytes-read": 4}
        with pytest.raises(GuestFault, match=r"failed to open file '/nowhere/x' \(mode: 'wb'\)"):
            await host.guests.ask(vm, "file-write", {"file": "/nowhere/x", "content": b"x"})
