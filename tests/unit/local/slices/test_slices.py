"""Slices are given out, counted and freed: no card is ever overcommitted, whichever hub process looks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from gpudouble import MEMORY, NvmlDouble, a_card, a_library
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labspawner.errors import NeverFits, NoRoom, SetupError, StartFailed
from labspawner.gpu.libvgpu import LIBRARY_ENV
from labspawner.gpu.limits import CorePolicy, read
from labspawner.model import CardPolicy, LeaseId, Slice, SliceTest
from labspawner.naming import new_lease_id
from labspawner.providers.local.network.rundir import RunDirs
from labspawner.providers.local.slices.options import GpuSettings, GpuVariant
from labspawner.providers.local.slices.slices import Slices
from labspawner.providers.processes import HostProcesses
from labspawner.units import parse_bytes

GIB = 2**30
ANY = GpuVariant()


@pytest.fixture
def nvml() -> NvmlDouble:
    return NvmlDouble()


@pytest.fixture
def run_dirs(tmp_path: Path) -> RunDirs:
    (tmp_path / "run").mkdir(mode=0o700)
    return RunDirs(tmp_path / "run" / "hub")


@pytest_asyncio.fixture
async def host() -> AsyncIterator[HostProcesses]:
    processes = HostProcesses()
    yield processes
    await processes.close()


@pytest.fixture
def open_slices(nvml: NvmlDouble, run_dirs: RunDirs, host: HostProcesses, tmp_path: Path, monkeypatch):
    """`open_slices(provider, **gpu settings)`: as another hub process would."""
    made: list[Slices] = []
    monkeypatch.setenv(LIBRARY_ENV, str(a_library(tmp_path)))

    def opened(provider: str = "local", **gpu: object) -> Slices:
        slices = Slices(
            GpuSettings(**{"pretend": None, **gpu}),
            run_dirs,
            host,
            provider=provider,
            hub_id="hub",
            open_nvml=nvml.open,
            control_groups=tmp_path / "cgroup",
        )
        made.append(slices)
        return slices

    return opened


@pytest_asyncio.fixture
async def slices(open_slices) -> AsyncIterator[Slices]:
    made = open_slices()
    yield made
    await made.close()


def gib(size: float, pct: int = 10) -> Slice:
    return Slice(memory_bytes=round(size * GIB), compute_pct=pct)


async def take(slices: Slices, gpu: Slice, lease_id: LeaseId | None = None, **more) -> LeaseId:
    lease_id = lease_id or new_lease_id()
    await slices.take(lease_id, gpu, more.pop("variant", ANY), sandboxed=more.pop("sandboxed", True))
    return lease_id


async def made(slices: Slices, run_dirs: RunDirs, gpu: Slice, **more) -> LeaseId:
    """A slice with its files."""
    lease_id = new_lease_id()
    held = await slices.take(lease_id, gpu, ANY, sandboxed=True)
    run_dirs.prepare(lease_id)
    slices.make(lease_id, held, more.get("variant", ANY), sandboxed=more.get("sandboxed", True), base={})
    return lease_id


async def free_bytes(slices: Slices, card: int = 0) -> int:
    cards, _ = await slices.capacity()
    return cards[card].memory_free_bytes


async def test_four_slices_of_6_gib_do_not_fit_a_card_that_is_sold_as_24(slices: Slices) -> None:
    for _ in range(3):
        await take(slices, gib(6))

    with pytest.raises(NoRoom) as refused:
        await take(slices, gib(6))

    assert MEMORY < 24 * GIB
    assert "the largest free share is 6132 MiB" in refused.value.message


async def test_a_promise_counts_before_anything_is_made(slices: Slices, run_dirs: RunDirs) -> None:
    lease_id = await take(slices, gib(6))

    cards, counted = await slices.capacity()

    assert cards[0].memory_free_bytes == MEMORY - 6 * GIB
    assert (cards[0].compute_free_pct, cards[0].slots_free) == (90, 9)
    assert counted == {lease_id}
    assert not run_dirs.leases()


async def test_a_later_hub_process_counts_what_an_earlier_one_gave_away(open_slices, run_dirs: RunDirs) -> None:
    first = open_slices()
    lease_id = await made(first, run_dirs, gib(6, 25))
    await first.close()

    later = open_slices()
    cards, counted = await later.capacity()

    assert (cards[0].memory_free_bytes, cards[0].compute_free_pct) == (MEMORY - 6 * GIB, 75)
    assert counted == {lease_id}
    await later.close()


async def test_what_is_freed_can_be_given_again_also_when_another_process_freed_it(
    slices: Slices, run_dirs: RunDirs
) -> None:
    one, two = await made(slices, run_dirs, gib(20)), await take(slices, gib(2))

    run_dirs.remove(one)  # `labspawner down`, beside the hub
    slices.forget(two)

    assert await free_bytes(slices) == MEMORY


async def test_starts_at_once_never_share_the_last_slice(slices: Slices) -> None:
    results = await asyncio.gather(*(take(slices, gib(6)) for _ in range(20)), return_exceptions=True)

    assert sum(isinstance(result, str) for result in results) == 3
    assert sum(isinstance(result, NoRoom) for result in results) == 17


async def test_a_slice_larger_than_any_card_never_fits(slices: Slices) -> None:
    with pytest.raises(NeverFits):
        await take(slices, gib(25))


async def test_the_number_of_slices_on_a_card_is_held(open_slices) -> None:
    slices = open_slices(splits=2)
    for _ in range(2):
        await take(slices, gib(1))

    with pytest.raises(NoRoom):
        await take(slices, gib(1))
    await slices.close()


@pytest.mark.parametrize(("policy", "together"), [(CardPolicy.BINPACK, True), (CardPolicy.SPREAD, False)])
async def test_the_policy_says_which_card(open_slices, nvml: NvmlDouble, policy: CardPolicy, together: bool) -> None:
    nvml.cards = [a_card(0), a_card(1)]
    slices = open_slices(policy=policy)

    held = [await slices.take(new_lease_id(), gib(2), ANY, sandboxed=True) for _ in range(2)]

    assert (held[0].card == held[1].card) is together
    await slices.close()


async def test_only_the_cards_that_were_named_are_shared(open_slices, nvml: NvmlDouble) -> None:
    nvml.cards = [a_card(0), a_card(1)]
    slices = open_slices(cards=[a_card(1).uuid])

    cards, _ = await slices.capacity()

    assert [card.uuid for card in cards] == [a_card(1).uuid]
    await slices.close()


async def test_where_no_card_is_to_be_shared_the_driver_is_not_even_asked(open_slices, nvml: NvmlDouble) -> None:
    slices = open_slices(cards=[])

    assert await slices.capacity() == ((), frozenset())
    assert nvml.looks == 0
    await slices.close()


async def test_without_a_driver_there_are_no_slices_and_a_profile_with_one_says_so(
    slices: Slices, nvml: NvmlDouble
) -> None:
    nvml.broken = True

    assert (await slices.capacity())[0] == ()
    with pytest.raises(SetupError) as refused:
        await take(slices, gib(1))
    assert "needs a GPU, and there is none here" in refused.value.message


async def test_a_card_that_vanishes_takes_its_room_with_it_and_nothing_else(
    open_slices, nvml: NvmlDouble, caplog: pytest.LogCaptureFixture
) -> None:
    nvml.cards = [a_card(0), a_card(1)]
    slices = open_slices()
    await slices.capacity()

    nvml.cards = [a_card(1)]
    slices.cards.look(0.0)
    cards, _ = await slices.capacity()

    assert [card.uuid for card in cards] == [a_card(1).uuid]
    assert "card lost" in caplog.text
    await slices.close()


async def test_a_driver_that_comes_back_is_used_again(slices: Slices, nvml: NvmlDouble) -> None:
    await slices.capacity()
    nvml.broken = True
    slices.cards.look(0.0)
    nvml.broken = False

    slices.cards.look(0.0)

    assert len((await slices.capacity())[0]) == 1


async def test_what_strangers_hold_of_a_card_is_not_free_and_what_servers_hold_is_not_counted_twice(
    slices: Slices, nvml: NvmlDouble
) -> None:
    nvml.held_by(4711, "2GiB")
    nvml.held_by(4712, "5GiB")
    await take(slices, gib(6))

    cards, _ = await slices.capacity(ours=[4712])

    assert cards[0].memory_free_bytes == MEMORY - 8 * GIB


async def test_the_limits_file_says_what_was_promised(slices: Slices, run_dirs: RunDirs) -> None:
    lease_id = await made(slices, run_dirs, gib(6, 25), variant=GpuVariant(policy="force"))

    limits = read(run_dirs.private(lease_id) / "slice" / "slice" / "limits")

    assert (limits.name, limits.policy, limits.region) == (lease_id, CorePolicy.CAP, "/etc/labspawner/region")
    assert (limits.devices[0].memory_bytes, limits.devices[0].cores_pct) == (6 * GIB, 25)


async def test_a_plain_server_is_told_paths_of_the_host(slices: Slices, run_dirs: RunDirs) -> None:
    lease_id = await made(slices, run_dirs, gib(1), sandboxed=False)

    limits = read(run_dirs.private(lease_id) / "slice" / "slice" / "limits")

    assert limits.region == str(run_dirs.private(lease_id) / "slice" / "region")


async def test_a_slice_that_must_hold_is_not_given_without_a_sandbox(slices: Slices) -> None:
    with pytest.raises(SetupError) as refused:
        await take(slices, gib(1), sandboxed=False)

    assert "install bubblewrap, or set gpu.selftest to warn" in refused.value.message


async def test_without_a_sandbox_a_slice_is_a_courtesy_and_says_so(slices: Slices) -> None:
    held = await slices.take(new_lease_id(), gib(1), GpuVariant(selftest="warn"), sandboxed=False)

    assert held.courtesy
    assert held.tested is None


async def test_unreadable_limits_are_logged_and_stop_nobody(
    slices: Slices, run_dirs: RunDirs, caplog: pytest.LogCaptureFixture
) -> None:
    lease_id = await made(slices, run_dirs, gib(6))
    (run_dirs.private(lease_id) / "slice" / "slice" / "limits").write_text("labspawner-limits 1\nhalf")
    slices.forget(lease_id)

    await take(slices, gib(1))

    assert "cannot be read" in caplog.text


async def test_what_all_slices_share_goes_with_the_last_one(slices: Slices, run_dirs: RunDirs) -> None:
    one, two = [await made(slices, run_dirs, gib(1)) for _ in range(2)]
    run_dirs.remove(one)
    slices.forget(one)
    slices.tidy_up()
    after_one = (run_dirs.base / "node").exists()

    run_dirs.remove(two)
    slices.forget(two)
    slices.tidy_up()

    assert after_one
    assert not (run_dirs.base / "node").exists()


async def test_two_providers_of_a_hub_count_all_slices_and_own_only_theirs(open_slices, run_dirs: RunDirs) -> None:
    one, other = open_slices("one"), open_slices("other")
    lease_id = await made(one, run_dirs, gib(6))

    assert await free_bytes(other) == MEMORY - 6 * GIB
    assert set(one.on_disk(own=True)) == {lease_id}
    assert other.on_disk(own=True) == {}
    await one.close()
    await other.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from(["1GiB", "3GiB", "6GiB", "11GiB", "24564MiB"]), st.integers(1, 60)),
        max_size=25,
    ),
    st.sampled_from(list(CardPolicy)),
)
async def test_no_card_is_ever_overcommitted(
    host: HostProcesses, run_dirs: RunDirs, steps: list[tuple[bool, str, int]], policy: CardPolicy
) -> None:
    nvml = NvmlDouble(cards=[a_card(0), a_card(1)])
    slices = Slices(
        GpuSettings(pretend=None, policy=policy), run_dirs, host, provider="local", hub_id="hub", open_nvml=nvml.open
    )
    held = {}
    for give, size, pct in steps:
        lease_id = new_lease_id()
        if not give and held:
            gone = next(iter(held))
            slices.forget(gone)
            del held[gone]
            continue
        try:
            held[lease_id] = await slices.take(
                lease_id, Slice(memory_bytes=parse_bytes(size), compute_pct=pct), ANY, sandboxed=True
            )
        except NoRoom:
            continue
    for card in nvml.cards:
        here = [one for one in held.values() if one.card == card.uuid]
        assert sum(one.memory_bytes for one in here) <= card.memory_total_bytes
        assert sum(one.compute_pct for one in here) <= 100
        assert len(here) <= 10
    await slices.close()


async def test_a_verdict_that_does_not_come_is_no_pass(slices: Slices, run_dirs: RunDirs) -> None:
    lease_id = new_lease_id()
    held = await slices.take(lease_id, gib(1), GpuVariant(selftest="warn"), sandboxed=True)
    run_dirs.prepare(lease_id)
    slices.make(lease_id, held, ANY, sandboxed=True, base={})
    (run_dirs.private(lease_id) / "verdict").write_text('{"begun": true}')

    held = await slices.tried_out(lease_id, held, GpuVariant(selftest="warn"), expected=True, left_s=0.2)

    assert held.tested is SliceTest.UNTESTED
    assert held.why == "the test did not end in time"


async def test_nobody_waits_for_a_test_that_the_servers_program_does_not_have(
    slices: Slices, run_dirs: RunDirs
) -> None:
    lease_id = await made(slices, run_dirs, gib(1))
    held = slices.on_disk()[lease_id]

    held = await slices.tried_out(lease_id, held, GpuVariant(selftest="warn"), expected=False, left_s=600)

    assert (held.tested, held.why) == (SliceTest.UNTESTED, "nothing in this server tests it")


async def test_a_slice_that_has_to_hold_and_is_not_tested_fails_the_start(slices: Slices, run_dirs: RunDirs) -> None:
    lease_id = await made(slices, run_dirs, gib(1))

    with pytest.raises(StartFailed) as refused:
        await slices.tried_out(lease_id, slices.on_disk()[lease_id], ANY, expected=False, left_s=600)

    assert "could not be tried out (nothing in this server tests it)" in refused.value.message


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    """Control groups that limit the memory of the card at 17:00.0; the group of a server below them."""
    (tmp_path / "cgroup" / "ada").mkdir(parents=True)
    (tmp_path / "cgroup" / "cgroup.controllers").write_text("cpu dmem memory pids\n")
    (tmp_path / "cgroup" / "dmem.capacity").write_text(f"drm/0000:17:00.0/vram0 {MEMORY}\n")
    (tmp_path / "cgroup" / "ada" / "dmem.max").write_text(f"drm/0000:17:00.0/vram0 {MEMORY}\n")
    return tmp_path / "cgroup" / "ada"


async def test_the_kernel_refuses_what_the_watchdog_would_end_a_server_for(
    open_slices, nvml: NvmlDouble, kernel: Path
) -> None:
    nvml.cards = [a_card(bus="00000000:17:00.0")]
    slices = open_slices(tolerance="512MiB")
    lease_id = new_lease_id()
    held = await slices.take(lease_id, gib(6), ANY, sandboxed=True)

    assert slices.wall(lease_id, held, kernel)

    assert (kernel / "dmem.max").read_text() == f"drm/0000:17:00.0/vram0 {6 * GIB + 512 * 2**20}\n"
    assert "The kernel itself holds each slice to its memory (dmem)." in [str(line) for line in await slices.describe()]


async def test_where_the_kernel_does_not_limit_a_card_the_library_does_alone(
    open_slices, nvml: NvmlDouble, kernel: Path, caplog
) -> None:
    nvml.cards = [a_card(bus="00000000:65:00.0")]
    other = open_slices()
    lease_id = new_lease_id()
    held = await other.take(lease_id, gib(6), ANY, sandboxed=True)

    assert not other.wall(lease_id, held, kernel)
    assert not other.wall(lease_id, held, None)

    assert "dmem" not in " ".join(str(line) for line in await other.describe())
    assert caplog.text == ""


async def test_a_kernel_that_does_not_take_the_limit_is_said_and_stops_no_start(
    open_slices, nvml: NvmlDouble, kernel: Path, caplog
) -> None:
    nvml.cards = [a_card(bus="00000000:17:00.0")]
    slices = open_slices()
    lease_id = new_lease_id()
    held = await slices.take(lease_id, gib(6), ANY, sandboxed=True)

    assert not slices.wall(lease_id, held, kernel / "gone")

    assert f"the kernel does not hold a slice to its memory lease={lease_id}" in caplog.text
