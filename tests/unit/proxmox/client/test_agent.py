"""Guest agents: few calls at a time, and each end told once."""

from __future__ import annotations

import asyncio
import threading

import pytest
from unit.proxmox.client.scripted import Reply, refusal

from labspawner.providers.proxmox.agent import MOST_STDIN_BYTES, GuestAgent, Interface, Ran
from labspawner.providers.proxmox.answers import Fault, PveRefused, PveSilent
from labspawner.providers.proxmox.pace import Pace
from labspawner.providers.proxmox.turns import Turns
from labspawner.testing.waiting import eventually

VM = "/nodes/pve1/qemu/101/agent"
DOWN = refusal(500, "QEMU guest agent is not running")
BROKEN = Reply(status=596, reason="Broken pipe", raw=b"")
HELPER = ["/usr/local/sbin/labspawner-guest", "status"]
LONG_S = 1_000_000.0


@pytest.fixture
def agent(pve, a_client):
    return GuestAgent(a_client(pve), pace=Pace(1000))


async def test_an_agent_that_answers_is_up(pve, agent):
    pve.on("POST", f"{VM}/ping", {"result": {}})

    assert await agent.ping("pve1", 101)


@pytest.mark.parametrize("reply", [DOWN, BROKEN])
async def test_an_agent_that_does_not_answer_is_not_up_yet(pve, agent, reply):
    pve.on("POST", f"{VM}/ping", reply)

    assert not await agent.ping("pve1", 101)


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        (refusal(500, "VM 101 is not running"), Fault.NOT_RUNNING),
        (refusal(500, "No QEMU guest agent configured"), Fault.AGENT_OFF),
        (refusal(403, "Permission check failed (/vms/101, VM.Monitor)"), Fault.GONE_OR_FORBIDDEN),
        (refusal(500, "Configuration file 'nodes/pve1/qemu-server/101.conf' does not exist"), Fault.MOVED),
    ],
)
async def test_what_is_wrong_with_the_vm_itself_is_told(pve, agent, reply, fault):
    pve.on("POST", f"{VM}/ping", reply)

    with pytest.raises(PveRefused) as caught:
        await agent.ping("pve1", 101)

    assert caught.value.fault is fault


async def test_a_program_runs_to_its_end_with_words_and_stdin_as_they_were_given(pve, agent):
    pve.on("POST", f"{VM}/exec", {"pid": 451})
    out = {"exited": 1, "exitcode": 3, "out-data": "out\n", "err-data": "err\n", "out-truncated": 0, "err-truncated": 0}
    pve.on("GET", f"{VM}/exec-status", {"exited": 0}, {"exited": "0"}, {"exited": False}, out)

    ran = await agent.run("pve1", 101, [*HELPER, "two words"], stdin='{"a": "ü=&"}\n', within_s=LONG_S)

    assert ran == Ran(exitcode=3, signal=None, out="out\n", err="err\n", truncated=False)
    assert not ran.ok
    assert pve.asked[0].form == {"command": [*HELPER, "two words"], "input-data": ['{"a": "ü=&"}\n']}
    assert pve.asked[1].query == {"pid": ["451"]}


async def test_the_end_is_read_once(pve, agent):
    pve.on("POST", f"{VM}/exec", {"pid": 451})
    pve.on(
        "GET", f"{VM}/exec-status", {"exited": 1, "exitcode": 0}, refusal(500, "Agent error: Invalid parameter 'pid'")
    )

    assert (await agent.run("pve1", 101, HELPER, within_s=LONG_S)).ok

    assert pve.count(f"{VM}/exec-status") == 1


async def test_a_program_that_a_signal_ended_has_no_exit_code(pve, agent):
    pve.on("POST", f"{VM}/exec", {"pid": 466})
    pve.on("GET", f"{VM}/exec-status", {"signal": 9, "exited": 1})

    ran = await agent.run("pve1", 101, HELPER, within_s=LONG_S)

    assert (ran.exitcode, ran.signal, ran.ok) == (None, 9, False)


async def test_output_that_was_cut_says_so(pve, agent):
    pve.on("POST", f"{VM}/exec", {"pid": 1})
    pve.on("GET", f"{VM}/exec-status", {"exited": 1, "exitcode": 0, "out-data": "x", "out-truncated": 1})

    assert (await agent.run("pve1", 101, HELPER, within_s=LONG_S)).truncated


async def test_a_missing_program_is_told_from_a_broken_daemon_by_a_ping(pve, agent):
    pve.on("POST", f"{VM}/exec", BROKEN)
    pve.on("POST", f"{VM}/ping", {"result": {}})

    with pytest.raises(PveRefused) as caught:
        await agent.run("pve1", 101, HELPER, within_s=LONG_S)

    assert caught.value.fault is Fault.HELPER_MISSING
    assert HELPER[0] in str(caught.value)


async def test_a_broken_answer_of_a_vm_whose_agent_is_away_may_have_been_done(pve, agent):
    pve.on("POST", f"{VM}/exec", BROKEN)
    pve.on("POST", f"{VM}/ping", DOWN)

    with pytest.raises(PveSilent) as caught:
        await agent.run("pve1", 101, HELPER, within_s=LONG_S)

    assert caught.value.sent


async def test_an_end_that_was_told_and_lost_on_the_way_is_unknown(pve, agent):
    pve.on("POST", f"{VM}/exec", {"pid": 451})
    pve.on("GET", f"{VM}/exec-status", Reply(drop=True), refusal(500, "Agent error: Invalid parameter 'pid'"))

    with pytest.raises(PveSilent, match="lost") as caught:
        await agent.run("pve1", 101, HELPER, within_s=LONG_S)

    assert caught.value.sent


async def test_an_agent_that_goes_away_for_a_moment_is_asked_again(pve, agent):
    pve.on("POST", f"{VM}/exec", {"pid": 451})
    pve.on("GET", f"{VM}/exec-status", DOWN, {"exited": 1, "exitcode": 0})

    assert (await agent.run("pve1", 101, HELPER, within_s=LONG_S)).ok


async def test_a_vm_that_goes_off_meanwhile_is_told(pve, agent):
    pve.on("POST", f"{VM}/exec", {"pid": 451})
    pve.on("GET", f"{VM}/exec-status", refusal(500, "VM 101 is not running"))

    with pytest.raises(PveRefused) as caught:
        await agent.run("pve1", 101, HELPER, within_s=LONG_S)

    assert caught.value.fault is Fault.NOT_RUNNING


async def test_a_program_that_does_not_end_is_unknown_after_its_time(pve, agent):
    pve.on("POST", f"{VM}/exec", {"pid": 451})
    pve.on("GET", f"{VM}/exec-status", {"exited": 0})

    with pytest.raises(PveSilent, match="still runs") as caught:
        await agent.run("pve1", 101, HELPER, within_s=5.0)

    assert caught.value.sent


async def test_more_than_the_agent_takes_is_refused_before_it_is_sent(pve, agent):
    with pytest.raises(ValueError, match="bytes"):
        await agent.run("pve1", 101, HELPER, stdin="ü" * (MOST_STDIN_BYTES // 2 + 1))

    assert pve.asked == []


async def test_interfaces_are_read_with_and_without_addresses(pve, agent):
    pve.on(
        "GET",
        f"{VM}/network-get-interfaces",
        {
            "result": [
                {"name": "lo", "hardware-address": "00:00:00:00:00:00", "ip-addresses": [{"ip-address": "127.0.0.1"}]},
                {"name": "eth0", "hardware-address": "BC:24:11:F8:83:59", "statistics": {}},
                {"name": "tun0"},
            ]
        },
    )

    assert await agent.interfaces("pve1", 101) == (
        Interface("lo", "00:00:00:00:00:00", ("127.0.0.1",)),
        Interface("eth0", "bc:24:11:f8:83:59", ()),
        Interface("tun0", "", ()),
    )


async def test_the_system_of_a_guest_is_read(pve, agent):
    pve.on("GET", f"{VM}/get-osinfo", {"result": {"id": "debian", "version-id": "12"}})

    assert await agent.osinfo("pve1", 101) == {"id": "debian", "version-id": "12"}


async def test_two_calls_at_a_time_for_all_and_one_for_each_vm(pve, agent):
    lock, full = threading.Lock(), threading.Event()
    busy: list[str] = []
    seen: list[tuple[str, ...]] = []

    def slow(asked):
        with lock:
            busy.append(asked.path)
            seen.append(tuple(busy))
            if len(busy) == 2:
                full.set()
        full.wait(60)
        with lock:
            busy.remove(asked.path)
        return Reply({"result": {}})

    for vmid in range(101, 105):
        pve.routes["POST", f"/nodes/pve1/qemu/{vmid}/agent/ping"] = slow

    await asyncio.gather(*(agent.ping("pve1", vmid) for vmid in range(101, 105) for _ in range(3)))

    assert max(len(each) for each in seen) == 2
    assert all(len(set(each)) == len(each) for each in seen)
    assert agent._busy == {}


async def test_who_stops_waiting_leaves_no_lock_behind(pve, agent, held):
    pve.on("POST", f"{VM}/ping", Reply({"result": {}}, hold=held))
    waiting = [asyncio.ensure_future(agent.ping("pve1", 101)) for _ in range(3)]
    await asyncio.sleep(0)

    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)

    assert agent._busy == {}
    held.set()
    pve.on("POST", f"{VM}/ping", {"result": {}})
    assert await agent.ping("pve1", 101)


async def test_a_program_is_run_before_pings_that_wait(pve, a_client, held):
    agent = GuestAgent(a_client(pve), pace=Pace(1000), at_once=1)
    pve.on("POST", "/nodes/pve1/qemu/100/agent/ping", Reply({"result": {}}, hold=held))
    for vmid in range(102, 106):
        pve.on("POST", f"/nodes/pve1/qemu/{vmid}/agent/ping", {"result": {}})
    pve.on("GET", f"{VM}/get-osinfo", {"result": {"id": "debian"}})
    first = asyncio.ensure_future(agent.ping("pve1", 100))
    await eventually(lambda: len(pve.asked) == 1)

    pings = [asyncio.ensure_future(agent.ping("pve1", vmid)) for vmid in range(102, 106)]
    await asyncio.sleep(0)
    urgent = asyncio.ensure_future(agent.osinfo("pve1", 101))
    await asyncio.sleep(0)
    held.set()
    await asyncio.gather(first, urgent, *pings)

    assert pve.asked[1].path == f"{VM}/get-osinfo"


async def test_a_place_that_comes_to_somebody_who_left_goes_to_the_next():
    turns, order = Turns(1), []

    async def one(name: str, *, urgent: bool) -> None:
        async with turns.one(urgent=urgent):
            order.append(name)
            await asyncio.sleep(0)

    async with turns.one(urgent=True):
        waiting = {name: asyncio.ensure_future(one(name, urgent=name < "c")) for name in "abcd"}
        await asyncio.sleep(0)
    waiting["a"].cancel()  # its place was given to it by now
    await asyncio.gather(*waiting.values(), return_exceptions=True)

    assert order == ["b", "c", "d"]
    async with turns.one(urgent=False):
        order.append("free")
