"""What a killed program held counts until the driver has it back: a real one needs a moment to take a context down."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from native.core_guests import GIB, a_slice, guests
from native.hook_guests import MIB, Slice, make_slice

from labspawner.gpu import region
from labspawner.testing.waiting import eventually_sync

LIMIT = 600 * MIB
OUT_OF_MEMORY = 2
NO_ROOM = -12
NEVER = "600000"

PROGRAM = """
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
context, address = ctypes.c_void_p(), ctypes.c_uint64()
assert cuda.cuInit(0) == 0
assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
assert cuda.cuCtxSetCurrent(context) == 0
print("ready", flush=True)
for line in sys.stdin:
    print(cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(int(line))), flush=True)
"""
"""Takes as much memory as each line of its stdin says, and says what the driver answered."""


class Program:
    def __init__(self, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready"

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def take(self, size: int) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{size}\n")
        self.process.stdin.flush()
        return int(self._answer())

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def programs(environment: dict[str, str]) -> Iterator[Callable[[], Program]]:
    """Start programs in a slice; all are gone at the end."""
    with ExitStack() as stack:

        def start() -> Program:
            program = Program(environment)
            stack.callback(program.kill)
            return program

        yield start


@pytest.fixture
def slice_on(native, stub_state, tmp_path: Path) -> Callable[[str], Slice]:
    """A slice on a card that needs so many milliseconds to take a killed program's memory back."""

    def make(teardown_ms: str) -> Slice:
        return make_slice(native, {**stub_state, "STUB_CUDA_TEARDOWN_MS": teardown_ms}, tmp_path / "slice", LIMIT)

    return make


def without_nvml(a_slice: Slice, folder: Path) -> dict[str, str]:
    """The environment of a program in the slice, on a machine whose driver came without NVML."""
    folder.mkdir()
    (folder / "libcuda.so.1").symlink_to(a_slice.native.stub / "libcuda.so.1")
    return {**a_slice.inside, "LD_LIBRARY_PATH": str(folder)}


def test_what_a_killed_program_held_is_refused_while_the_driver_still_has_it(slice_on):
    on_a_slow_card = slice_on(NEVER)
    with programs(on_a_slow_card.inside) as start:
        victim, neighbour = start(), start()
        assert victim.take(400 * MIB) == 0

        victim.kill()

        assert neighbour.take(500 * MIB) == OUT_OF_MEMORY
        assert neighbour.take(200 * MIB) == 0
        assert neighbour.take(2 * MIB) == OUT_OF_MEMORY
        assert on_a_slow_card.card()["peak"] == LIMIT


def test_a_program_that_starts_now_does_not_get_it_either(slice_on):
    on_a_slow_card = slice_on(NEVER)
    with programs(on_a_slow_card.inside) as start:
        victim = start()
        assert victim.take(400 * MIB) == 0

        victim.kill()
        late = [start(), start()]

        assert late[0].take(500 * MIB) == OUT_OF_MEMORY
        assert late[1].take(200 * MIB) == 0
        assert on_a_slow_card.card()["peak"] == LIMIT


def test_it_is_given_as_soon_as_the_driver_has_it(slice_on):
    on_a_card = slice_on("300")
    with programs(on_a_card.inside) as start:
        victim, neighbour = start(), start()
        assert victim.take(400 * MIB) == 0

        victim.kill()

        eventually_sync(lambda: neighbour.take(500 * MIB) == 0, 60, "the neighbour has what the dead one held")
        assert on_a_card.card()["peak"] <= LIMIT


def test_a_driver_that_needs_a_moment_is_waited_for(slice_on):
    on_a_card = slice_on("2")
    with programs(on_a_card.inside) as start:
        for _ in range(10):
            victim, neighbour = start(), start()
            assert victim.take(400 * MIB) == 0

            victim.kill()

            assert neighbour.take(500 * MIB) == 0
            neighbour.kill()
        assert on_a_card.card()["peak"] <= LIMIT


def test_who_found_the_debt_may_be_killed_too(slice_on):
    on_a_card = slice_on("300")
    with programs(on_a_card.inside) as start:
        victim, finder, neighbour = start(), start(), start()
        assert victim.take(400 * MIB) == 0

        victim.kill()
        finder.take(500 * MIB)
        finder.kill()

        eventually_sync(lambda: neighbour.take(550 * MIB) == 0, 60, "the neighbour has what both held")
        assert on_a_card.card()["peak"] <= LIMIT


def test_who_held_nothing_owes_nothing(slice_on):
    on_a_slow_card = slice_on(NEVER)
    with programs(on_a_slow_card.inside) as start:
        victim, neighbour = start(), start()

        victim.kill()

        assert neighbour.take(LIMIT) == 0


def test_without_nvml_a_debt_is_believed_for_a_while_and_not_for_ever(slice_on, tmp_path):
    on_a_card = slice_on("100")
    with programs(without_nvml(on_a_card, tmp_path / "driver")) as start:
        victim, neighbour = start(), start()
        assert victim.take(400 * MIB) == 0

        victim.kill()
        assert on_a_card.card()["used"] == 400 * MIB  # who looks first starts the time of the card

        eventually_sync(lambda: neighbour.take(500 * MIB) == 0, 60, "the neighbour has what the dead one held")
        assert on_a_card.card()["peak"] <= LIMIT


@pytest.fixture
def invite(native):
    with guests(native.program("core_account")) as inviting:
        yield inviting


@pytest.fixture
def folder(tmp_path: Path):
    return a_slice(tmp_path / "slice")


def joined(invite, folder):
    guest = invite(folder)
    guest.ask("driver")
    return guest.join()


def overwrite(folder, field, value: int, *, slot: int = 0) -> None:
    """Write a word of a slot."""
    with folder.region.open("r+b") as file:
        file.seek(region.SLOTS_AT + slot * ctypes.sizeof(region.Slot) + field.offset)
        file.write(value.to_bytes(field.size, "little"))


def long_ago(folder) -> None:
    """Let the death of who had the first slot have been noted when the machine started."""
    overwrite(folder, region.Slot.died_boot_ns, 1)


def test_a_debt_stays_while_the_driver_lists_the_dead_and_goes_when_it_does_not(invite, folder):
    victim, other = joined(invite, folder), joined(invite, folder)
    victim.ask(f"charge 0 {4 * GIB}")
    victim.kill()

    assert other.number(f"charge 0 {4 * GIB}") == NO_ROOM
    assert other.number("owed 0") == 4 * GIB
    long_ago(folder)
    other.ask(f"settle {victim.process.pid}")
    assert other.number("owed 0") == 4 * GIB
    other.ask(f"settle {other.process.pid}")
    assert other.number("owed 0") == 0
    assert other.number(f"charge 0 {6 * GIB}") == 0


def test_nobody_joins_on_a_slot_that_owes(invite, folder):
    victim = joined(invite, folder)
    victim.ask(f"charge 0 {4 * GIB}")
    victim.kill()

    late = joined(invite, folder)

    assert (late.number("slot"), late.number("owed 0"), late.number("used 0")) == (1, 4 * GIB, 4 * GIB)
    late.ask("settle 1")
    assert joined(invite, folder).number("slot") == 0


def test_a_debt_in_another_pid_namespace_goes_after_a_while(invite, folder):
    apart = ["unshare", "--pid", "--fork", "--kill-child", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no PID namespaces for this user")
    victim, other = invite(folder, before=apart), joined(invite, folder)
    victim.ask("driver")
    victim.join().ask(f"charge 0 {4 * GIB}")
    victim.kill()
    eventually_sync(lambda: other.ask("tidy") and other.number("owed 0") == 4 * GIB, 60, "the death is noted")

    def settled() -> bool:
        other.ask(f"settle {other.process.pid}")
        return other.number("owed 0") == 0

    eventually_sync(settled, 60, "the debt is forgotten")


def test_where_the_driver_cannot_tell_time_decides(invite, folder):
    victim, other = joined(invite, folder), joined(invite, folder)
    victim.ask(f"charge 0 {4 * GIB}")
    victim.kill()
    assert other.number(f"charge 0 {4 * GIB}") == NO_ROOM

    long_ago(folder)
    other.ask("settle-unsure")

    assert other.number("owed 0") == 0


def test_a_number_that_is_another_process_by_now_owes_nothing(invite, folder):
    other, victim = joined(invite, folder), joined(invite, folder)
    victim.ask(f"charge 0 {4 * GIB}")
    victim.kill()
    assert other.number(f"charge 0 {4 * GIB}") == NO_ROOM

    overwrite(folder, region.Slot.pid, other.process.pid, slot=1)
    other.ask(f"settle {other.process.pid}")  # it began before the one in the slot joined
    assert other.number("owed 0") == 4 * GIB
    overwrite(folder, region.Slot.joined_boot_ns, 1, slot=1)  # long before that one began
    other.ask(f"settle {other.process.pid}")

    assert other.number("owed 0") == 0
