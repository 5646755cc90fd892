"""The limit of device memory: what is refused, what is given back, and what a program sees of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from native.hook_guests import GUEST, MIB, Slice, make_slice, run

from labspawner.gpu.folder import LIMITS_ENV
from labspawner.testing.waiting import eventually_sync

LIMIT = 1024 * MIB
OUT_OF_MEMORY, NO_DEVICE = 2, 100
STRACE = shutil.which("strace")
INSIDE = ("LD_PRELOAD", LIMITS_ENV)
CARD = 24564 * MIB


@pytest.fixture
def a_slice(native, stub_state, tmp_path: Path) -> Slice:
    return make_slice(native, stub_state, tmp_path / "slice", LIMIT)


def test_the_whole_slice_can_be_had_and_not_one_byte_more(a_slice):
    found = a_slice.ask("limit", str(LIMIT))

    assert found == {"full": [0, LIMIT], "more": OUT_OF_MEMORY, "again": 0, "empty": [LIMIT, LIMIT]}
    assert a_slice.card()["peak"] == LIMIT


def test_the_driver_reports_the_slice(a_slice):
    assert a_slice.ask("total") == {"total": LIMIT, "info": [LIMIT, LIMIT]}


def test_free_memory_is_never_more_than_the_card_has(a_slice, native, stub_state, tmp_path):
    other = make_slice(native, stub_state, tmp_path / "other", CARD - 512 * MIB, name="bob")
    taken = [sys.executable, GUEST, "holds", str(CARD - 512 * MIB)]
    with subprocess.Popen(
        taken, env=other.inside, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as neighbour:
        assert neighbour.stdout.readline() == "holding\n"

        found = a_slice.ask("total")
        neighbour.kill()

    assert found["info"] == [512 * MIB, LIMIT]


def test_a_refusal_is_noted_with_what_was_asked_and_by_whom(a_slice):
    assert a_slice.ask("refused", str(LIMIT + 1)) == OUT_OF_MEMORY

    (refusal,) = a_slice.reading().refusals
    assert refusal.asked_bytes == LIMIT + 2 * MIB
    assert (refusal.used_bytes, refusal.limit_bytes, refusal.api) == (0, LIMIT, "cuMemAlloc_v2")
    assert refusal.command.startswith("python")


def test_memory_goes_with_its_context(a_slice):
    found = a_slice.ask("contexts", str(100 * MIB))

    assert found["during"] == LIMIT - 100 * MIB
    assert found["destroyed"] == found["reset"] == found["released"] == [LIMIT, LIMIT]


def test_wrong_frees_are_answered_by_the_driver_and_give_nothing_back(a_slice, stub_state):
    bare = run(sys.executable, GUEST, "bad_frees", environment=stub_state)

    found = a_slice.ask("bad_frees")

    assert f'"codes": {found["codes"]}' in bare.stdout
    assert found["same"]
    assert found["free"] == [LIMIT, LIMIT]


def test_a_failure_of_the_driver_comes_through_and_leaves_nothing_charged(a_slice):
    a_slice.stubctl("fault", "cuMemAlloc_v2", "1", "719")

    found = a_slice.ask("faulty", str(64 * MIB))

    assert found == {"code": 719, "free": [LIMIT, LIMIT], "after": 0}


def test_a_forked_child_hears_what_the_driver_says_and_its_parents_memory_stays_charged(a_slice, stub_state):
    bare = run(sys.executable, GUEST, "forked", str(100 * MIB), environment=stub_state)

    found = a_slice.ask("forked", str(100 * MIB))

    assert f'"child": {found["child"]}' in bare.stdout
    assert found["child"] != 0
    assert found["free"] == LIMIT - 100 * MIB


def test_a_child_that_was_forked_before_the_driver_started_has_the_same_limit(a_slice):
    assert a_slice.ask("forked_before", str(600 * MIB)) == {"status": 0, "code": 0}


def test_what_a_killed_process_held_can_be_had_at_once(a_slice):
    held = [sys.executable, GUEST, "holds", str(LIMIT)]
    with subprocess.Popen(
        held, env=a_slice.inside, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "holding\n"
        assert a_slice.ask("refused", str(MIB)) == OUT_OF_MEMORY

        process.kill()
        process.wait()

    assert a_slice.ask("limit", str(LIMIT))["again"] == 0


def test_limits_that_are_raised_help_a_running_process(a_slice):
    held = [sys.executable, GUEST, "holds", str(LIMIT)]
    with subprocess.Popen(
        held, env=a_slice.inside, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "holding\n"
        a_slice.resize(2 * LIMIT)

        assert a_slice.ask("refused", str(LIMIT)) == 0
        process.kill()


def test_each_card_has_its_own_limit_whatever_order_the_program_makes_of_them(native, stub_state, tmp_path):
    bare = {**stub_state, "STUB_CUDA_DEVICES": "2x8192MiB"}
    both = make_slice(native, bare, tmp_path / "slice", 256 * MIB, 512 * MIB)

    assert both.ask("total")["total"] == 256 * MIB
    assert both.ask("second_card", str(512 * MIB)) == 0
    assert both.ask("second_card", str(512 * MIB + 1)) == OUT_OF_MEMORY
    assert [both.card(0)["peak"], both.card(1)["peak"]] == [0, 512 * MIB]


def test_a_card_outside_the_slice_gives_nothing(native, stub_state, tmp_path):
    one = make_slice(native, {**stub_state, "STUB_CUDA_DEVICES": "2x8192MiB"}, tmp_path / "slice", LIMIT)

    assert one.ask("second_card", "512") == OUT_OF_MEMORY
    assert one.card(1)["peak"] == 0


@pytest.mark.parametrize(
    ("text", "named"),
    [("half writ", "limits"), ("labspawner-limits 1\nslice a\n", "limits"), (None, "limits")],
    ids=["rubbish", "half written", "missing"],
)
def test_settings_that_cannot_be_read_mean_no_gpu_and_one_line(a_slice, text, named):
    a_slice.folder.limits.unlink()
    if text is not None:
        a_slice.folder.limits.write_text(text)

    done = a_slice.run(sys.executable, GUEST, "init")

    assert done.stdout == f"{NO_DEVICE}\n"
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("labspawner: ")
    assert named in done.stderr


@pytest.mark.parametrize("value", ["4GB", "4.5G", "-1", "four"])
def test_bad_environment_means_no_gpu_and_one_line(native, stub_state, tmp_path, value):
    inside = {
        **stub_state,
        "LD_PRELOAD": str(native.libvgpu),
        "CUDA_DEVICE_MEMORY_LIMIT": value,
        "CUDA_DEVICE_MEMORY_SHARED_CACHE": str(tmp_path / "cache"),
    }

    done = run(sys.executable, GUEST, "init", environment=inside)

    assert done.stdout == f"{NO_DEVICE}\n"
    assert done.stderr.count("\n") == 1
    assert value in done.stderr


def test_a_region_of_another_size_means_no_gpu_and_one_line(a_slice):
    a_slice.folder.region.write_bytes(b"x" * 100)

    done = a_slice.run(sys.executable, GUEST, "init")

    assert done.stdout == f"{NO_DEVICE}\n"
    assert done.stderr.count("\n") == 1


def test_without_settings_the_card_is_the_programs(native, stub_state):
    inside = {**stub_state, "LD_PRELOAD": str(native.libvgpu)}

    done = run(sys.executable, GUEST, "total", environment=inside)

    assert done.stderr == ""
    assert done.stdout == f'{{"total": {CARD}, "info": [{CARD}, {CARD}]}}\n'


def test_with_oversubscription_what_is_above_the_limit_is_managed_memory(native, stub_state, tmp_path):
    over = make_slice(native, stub_state, tmp_path / "slice", LIMIT, oversubscribe=True)

    found = over.ask("oversubscribe", str(400 * MIB))

    assert found["managed"] == [0, 0, 1, 1]
    assert found["during"] == [LIMIT - 800 * MIB, LIMIT]
    assert found["after"] == [LIMIT, LIMIT]


def test_with_a_soft_limit_what_is_above_that_is_managed_memory(native, stub_state, tmp_path):
    over = make_slice(native, stub_state, tmp_path / "slice", LIMIT, oversubscribe=True, soft_bytes=500 * MIB)

    assert over.ask("oversubscribe", str(400 * MIB))["managed"] == [0, 1, 1, 1]


def test_memory_that_no_hook_sees_is_charged_by_the_truth_check(a_slice):
    found = a_slice.ask("unseen", str(MIB), STUB_CUDA_CONTEXT_MIB="300")

    assert found == {"left": LIMIT - 300 * MIB, "code": 0, "more": OUT_OF_MEMORY}
    assert a_slice.card()["peak"] == LIMIT


def test_without_nvml_what_is_charged_counts(a_slice, native, tmp_path):
    alone = tmp_path / "driver"
    alone.mkdir()
    (alone / "libcuda.so.1").symlink_to(native.stub / "libcuda.so.1")

    found = a_slice.ask("limit", str(LIMIT), LD_LIBRARY_PATH=str(alone))

    assert found["more"] == OUT_OF_MEMORY


@pytest.mark.parametrize("killer", [True, False])
def test_the_oom_killer_ends_the_process_that_holds_most_of_its_own_slice_and_no_other(
    native, stub_state, tmp_path, killer
):
    a_slice = make_slice(native, stub_state, tmp_path / "slice", LIMIT, oom_killer=killer)
    words = [sys.executable, GUEST, "holds"]
    options = {"env": a_slice.inside, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with (
        subprocess.Popen([*words, str(300 * MIB)], **options) as small,
        subprocess.Popen([*words, str(600 * MIB)], **options) as large,
    ):
        for process in (small, large):
            assert process.stdout.readline() == b"holding\n"
        a_slice.resize(500 * MIB)
        small.stdin.close()
        large.stdin.close()

        if killer:
            eventually_sync(lambda: large.poll() is not None, 20, "the largest process has ended")
            assert large.returncode == -signal.SIGKILL
            assert b"ACTIVE_OOM_KILLER" in large.stderr.read()
        else:
            eventually_sync(lambda: a_slice.reading().devices[0].refusals > 20, 20, "both go on and are refused")
            assert large.poll() is None
        assert small.poll() is None
        for process in (small, large):
            process.kill()


@pytest.mark.skipif(STRACE is None, reason="strace is not installed (Debian: apt-get install strace)")
def test_the_oom_killer_takes_nobody_for_alive_who_has_just_died(native, stub_state, tmp_path):
    a_slice = make_slice(native, stub_state, tmp_path / "slice", LIMIT, oom_killer=True)
    words = [sys.executable, GUEST, "holds"]
    # Each look for the dead begins by opening the region: this one's begins late, after the other has died.
    late = [STRACE, "-f", "-qq", "-o", tmp_path / "trace", "-P", a_slice.folder.region, "-e", "trace=openat"]
    late += ["-e", "inject=openat:delay_enter=60000", "env", *(f"{name}={a_slice.inside[name]}" for name in INSIDE)]
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "start_new_session": True}
    with (
        subprocess.Popen([*late, *words, str(300 * MIB)], env=a_slice.bare, **options) as small,
        subprocess.Popen([*words, str(600 * MIB)], env=a_slice.inside, **options) as large,
    ):
        try:
            if small.stdout.readline() != b"holding\n":
                pytest.skip("strace may trace nothing here")
            assert large.stdout.readline() == b"holding\n"
            a_slice.resize(500 * MIB)
            small.stdin.close()
            time.sleep(0.09)
            large.stdin.close()

            eventually_sync(lambda: large.poll() is not None, 20, "the largest process has ended")
            eventually_sync(lambda: a_slice.used_bytes() < 400 * MIB, 20, "what it held is given back")
            time.sleep(0.3)
            assert small.poll() is None
        finally:
            for process in (small, large):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
