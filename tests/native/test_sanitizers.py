"""Library, stub driver and test programs under AddressSanitizer with UBSan, and under ThreadSanitizer: not a word from them.

These are short runs of the programs that other tests run plain; LABSPAWNER_LONG=1 makes them long.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from native.core_guests import GIB, Guest
from native.core_guests import a_slice as slice_files
from native.hook_guests import MIB, Slice, environment_without_slices, make_slice

from labspawner.testing.slices import PretendCard, Tools

LONG = os.environ.get("LABSPAWNER_LONG", "") not in {"", "0"}
TIMES = 20 if LONG else 1
LIMIT = 600 * MIB


@dataclass(frozen=True, slots=True)
class Sanitized:
    """A build with sanitizers, and where its programs write what they find."""

    native: Any
    reports: Path

    @property
    def options(self) -> dict[str, str]:
        """Every find goes to a file, so that one in a process nobody listens to is not lost."""
        places = "symbolize=0:strip_path_prefix=:stack_trace_format='    #%n @%m@%o@'"
        common = f"log_path={self.reports}/found:log_exe_name=1:handle_abort=1:{places}"
        return {
            "ASAN_OPTIONS": f"{common}:detect_leaks=1",
            "LSAN_OPTIONS": common,
            "UBSAN_OPTIONS": f"{common}:print_stacktrace=1:halt_on_error=1",
            "TSAN_OPTIONS": f"{common}:second_deadlock_stack=1",
        }

    def run(self, *command: object, environment: dict[str, str], ends: int = 0) -> str:
        """What a program printed. It must end with `ends`, and no sanitizer may have found a thing."""
        done = subprocess.run(
            [str(word) for word in command],
            env={**environment, **self.options},
            capture_output=True,
            text=True,
            timeout=800 if LONG else 600,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert self.found() == ""
        assert (done.returncode, done.stderr) == (ends, "")
        return done.stdout

    def found(self) -> str:
        """All reports, with the lines of the source that they mean."""
        return "".join(
            _PLACE.sub(_line, report.read_text(errors="replace")) for report in sorted(self.reports.iterdir())
        )


_PLACE = re.compile(r"@(/[^@]+)@(0x[0-9a-f]+)@")


def _line(place: re.Match[str]) -> str:
    """The sanitizers would start a symbolizer with our preload in its environment: we ask one ourselves."""
    done = subprocess.run(["addr2line", "-fpse", place[1], place[2]], capture_output=True, text=True, check=False)
    return done.stdout.strip() or f"{place[1]}+{place[2]}"


@pytest.fixture(scope="module", params=["address,undefined", "thread"])
def build(request: pytest.FixtureRequest, native_build: Callable[[str], Any]) -> Any:
    """A build with these sanitizers."""
    return native_build(request.param)


@pytest.fixture
def sanitized(build: Any, tmp_path: Path) -> Sanitized:
    reports = tmp_path / "reports"
    reports.mkdir()
    return Sanitized(build, reports)


@pytest.fixture
def a_slice(sanitized: Sanitized, stub_state: dict[str, str], tmp_path: Path) -> Slice:
    """A slice whose library and driver are sanitized, too."""
    bare = {**stub_state, "LD_LIBRARY_PATH": str(sanitized.native.stub)}
    return make_slice(sanitized.native, bare, tmp_path / "slice", LIMIT)


def test_what_they_find_is_not_overlooked(sanitized, tmp_path):
    """A program that is wrong on purpose: this file would say nothing if reports went elsewhere."""
    wrong = tmp_path / "wrong.c"
    wrong.write_text(
        "#include <pthread.h>\n#include <stdlib.h>\nstatic int shared;\n"
        "static void *add(void *where) { for (int i = 0; i < 1000; i++) shared++; return where; }\n"
        "int main(void) { pthread_t one, two; char *past = malloc(8);\n"
        "pthread_create(&one, 0, add, 0); pthread_create(&two, 0, add, 0); pthread_join(one, 0); pthread_join(two, 0);\n"
        "return past[shared > 0 ? 8 : 0]; }\n"
    )
    kind = "thread" if "thread" in sanitized.native.folder.name else "address"
    subprocess.run(["clang", "-g", f"-fsanitize={kind}", "-pthread", wrong, "-o", tmp_path / "wrong"], check=True)

    subprocess.run([tmp_path / "wrong"], env=sanitized.options, check=False, capture_output=True)

    assert ("data race" if kind == "thread" else "heap-buffer-overflow") in sanitized.found()


@pytest.mark.parametrize("question", ["driver", "closed", "threads", "lookup"])
def test_lookups(sanitized, a_slice, question):
    program = a_slice.native.program("hook_lookup")

    assert sanitized.run(program, question, environment=a_slice.inside) == "ok\n"


@pytest.mark.parametrize("settings", [{}, {"CUDA_DEVICE_MEMORY_LIMIT": "4GB"}], ids=["no settings", "bad settings"])
def test_a_program_without_cuda(sanitized, settings):
    inside = {**environment_without_slices(), "LD_PRELOAD": str(sanitized.native.libvgpu), **settings}

    assert sanitized.run(sanitized.native.program("hook_plain"), environment=inside) == "fine\n"


@pytest.mark.parametrize("way", ["symbols", "table", "lookup0", "lookup2"])
def test_memory_of_all_kinds(sanitized, a_slice, way):
    program = a_slice.native.program("hook_storm")

    for seed in range(1, 1 + TIMES):
        assert '"operations": 3000' in sanitized.run(program, seed, 3000, way, environment=a_slice.inside)
    assert a_slice.used_bytes() == 0


@pytest.mark.parametrize(
    "program",
    [
        "a_capture_holds_what_was_launched_and_nothing_else",
        "another_threads_launches_do_not_break_a_capture",
        "contexts_come_and_go_with_their_events",
        "a_reset_device_can_be_used_again",
        "more_streams_than_lanes_are_served",
        "threads_launch_side_by_side",
        "the_drivers_errors_pass_through",
    ],
)
def test_launches_under_a_core_limit(sanitized, program):
    with PretendCard(Tools(folder=sanitized.native.folder)) as card:
        limited = card.slice("a", 50)

        sanitized.run(card.tools.program("limit_driver"), program, environment=limited.environment)


@pytest.mark.parametrize("case", ["one_block", "random_operations", "threads", "dropped_while_others_work", "forked"])
def test_the_map(sanitized, case):
    sanitized.run(sanitized.native.program("core_map"), case, environment=environment_without_slices())


@pytest.mark.parametrize(
    ("program", "case"),
    [
        ("limit_bucket", "one_caller_closes_each_window_of_use"),
        ("limit_bucket", "a_reservation_is_seen_at_once_and_corrected_later"),
        ("limit_bucket", "lent_shares_never_exceed_the_device"),
        ("limit_node", "an_empty_file_is_made_ready_once"),
        ("limit_node", "rubbish_in_the_file_is_bounded"),
        ("limit_node", "a_file_that_is_cut_short_kills_nobody"),
        ("limit_node", "a_slice_claims_once_however_many_processes_it_has"),
    ],
)
def test_parts_of_the_limiter(sanitized, program, case):
    sanitized.run(sanitized.native.program(program), case, environment=environment_without_slices())


@pytest.mark.parametrize(
    "limits",
    [
        "",
        "labspawner-limits 1\nslice a\n",
        "labspawner-limits 1\n" + "slice " + "x" * 5000 + "\nend\n",
        "device " * 2000,
        "labspawner-limits 1\nslice a\nregion /r\ndevice GPU-1 memory=99999999999999999999999 soft=1 cores=1 weight=1\nend\n",
        "labspawner-limits 1\nslice a\nregion /r\n"
        + "".join(f"device GPU-{i} memory=5 soft=5 cores=1 weight=1\n" for i in range(20))
        + "end\n",
        "\0" * 100,
        "labspawner-limits 1\r\nend",
    ],
    ids=["empty", "half", "long word", "no line end", "huge number", "too many cards", "zeroes", "other line ends"],
)
def test_bad_limits_files_are_read_to_their_end_and_no_further(sanitized, a_slice, limits):
    a_slice.folder.limits.write_text(limits)
    program = a_slice.native.program("stub_threads")

    done = subprocess.run(
        [program, "1", "1"], env={**a_slice.inside, **sanitized.options}, capture_output=True, text=True, check=False
    )

    assert sanitized.found() == ""
    assert done.stderr.startswith("labspawner: ")
    assert "CUDA_ERROR_NO_DEVICE" in done.stderr


def test_a_slice_is_joined_filled_resized_and_left(sanitized, tmp_path):
    folder = slice_files(tmp_path / "ada", memory_bytes=GIB)
    command = [str(sanitized.native.program("core_account")), str(folder.limits.parent)]
    guest = Guest(command, {**environment_without_slices(), **sanitized.options})
    try:
        guest.join()
        first = guest.ask(f"charge 0 {GIB}")
        second = guest.ask("charge 0 1")
    finally:
        said = guest.kill()

    assert (first, second) == ("0", "-12")
    assert (sanitized.found(), said) == ("", "")


def test_what_a_killed_process_owes_is_noted_and_settled(sanitized, tmp_path):
    folder = slice_files(tmp_path / "ada", memory_bytes=GIB)
    command = [str(sanitized.native.program("core_account")), str(folder.limits.parent)]
    victim, other = (Guest(command, {**environment_without_slices(), **sanitized.options}) for _ in range(2))
    try:
        for guest in (victim, other):
            guest.ask("driver")
            guest.join()
        victim.ask(f"charge 0 {GIB}")
        victim.kill()
        refused, owed = other.ask("charge 0 1"), other.number("owed 0")
        other.ask(f"settle {victim.process.pid}")
        other.ask("settle-unsure")
        other.ask(f"settle {other.process.pid}")
        granted = other.ask(f"charge 0 {GIB}")
    finally:
        said = victim.kill() + other.kill()

    assert (refused, owed, granted) == ("-12", GIB, "0")
    assert (sanitized.found(), said) == ("", "")


def test_many_processes_charge_at_once(sanitized, tmp_path):
    folder = slice_files(tmp_path / "ada", memory_bytes=1_000_000_007)
    numbers = (3, 3, 400 * TIMES, 0)

    said = sanitized.run(
        sanitized.native.program("core_storm"), folder.limits.parent, tmp_path / "ledger", *numbers,
        environment=environment_without_slices(),
    )  # fmt: skip

    assert '"violations": 0' in said
