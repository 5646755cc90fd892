"""What simulated servers use is what the knobs say."""

from __future__ import annotations

import pytest
from builders import a_request

from labspawner.errors import BadConfig
from labspawner.model import ReleaseMode, Resources

from .conftest import OpenSim, handle_in, launched

GIB = 2**30


async def test_usage_is_told_beside_what_was_promised(open_sim: OpenSim):
    sim = open_sim(uses_memory="1GiB", uses_cpu=0.5, uses_processes=7, uses_disk="3GiB")
    handle = handle_in(await launched(sim, a_request(resources=Resources(cpu=2, memory_bytes=4 * GIB))))

    usage = (await sim.usage([handle]))[handle.lease_id]

    assert (usage.memory_bytes, usage.memory_limit_bytes) == (GIB, 4 * GIB)
    assert usage.cpu_limit == 2
    assert usage.cpu_s >= 0
    assert (usage.processes, usage.disk_bytes) == (7, 3 * GIB)
    assert usage.taken_at.tzinfo is not None


async def test_processor_time_grows_as_the_cores_that_are_kept_busy(open_sim: OpenSim):
    sim = open_sim(uses_cpu=1000)
    handle = handle_in(await launched(sim, a_request()))

    first = (await sim.usage([handle]))[handle.lease_id]
    second = (await sim.usage([handle]))[handle.lease_id]

    grown_s, passed_s = second.cpu_s - first.cpu_s, (second.taken_at - first.taken_at).total_seconds()
    assert grown_s == pytest.approx(1000 * passed_s, abs=0.05)


async def test_the_knobs_can_be_turned_while_servers_run(open_sim: OpenSim):
    sim = open_sim()
    handle = handle_in(await launched(sim, a_request()))
    assert (await sim.usage([handle]))[handle.lease_id].memory_bytes is None

    sim.faults(uses_memory="512MiB")

    assert (await sim.usage([handle]))[handle.lease_id].memory_bytes == 512 * 2**20


async def test_who_is_not_asked_for_parked_or_gone_is_left_out(open_sim: OpenSim):
    sim = open_sim(park=True)
    runs, parked, gone = [handle_in(await launched(sim, a_request(base_url=f"/user/{n}/"))) for n in "abc"]
    await sim.release(parked, ReleaseMode.STOP, grace_s=0)
    await sim.release(gone, ReleaseMode.DESTROY, grace_s=0)

    assert set(await sim.usage([runs, parked, gone])) == {runs.lease_id}
    assert await sim.usage([]) == {}


async def test_a_host_that_does_not_answer_tells_nothing(open_sim: OpenSim):
    sim = open_sim()
    handle = handle_in(await launched(sim, a_request()))
    sim.faults(listing_fails=True)

    assert await sim.usage([handle]) == {}


def test_a_size_without_a_unit_is_refused(open_sim: OpenSim):
    with pytest.raises(BadConfig, match="uses_memory"):
        open_sim(uses_memory="5")
