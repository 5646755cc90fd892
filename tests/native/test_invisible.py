"""A program that never touches CUDA never notices: symbols, threads, sanitizers, bad settings."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from native.hook_guests import environment_without_slices, run

BAD_SETTINGS = {"CUDA_DEVICE_MEMORY_LIMIT": "4GB", "LABSPAWNER_GPU_LIMITS": "/no/such/file"}
SOURCES = Path(__file__).resolve().parents[2] / "native"


@pytest.fixture
def preloaded(native) -> dict[str, str]:
    return {**environment_without_slices(), "LD_PRELOAD": str(native.libvgpu)}


def hooked_names() -> set[str]:
    lists = (path.read_text() for path in (SOURCES / "src").glob("hooks_*.def"))
    return {name for text in lists for name in re.findall(r"^X\((\w+)\)", text, re.MULTILINE)}


def test_the_library_exports_its_hooks_and_dlsym_and_dlvsym_and_nothing_else(native):
    done = subprocess.run(["nm", "-D", "--defined-only", native.libvgpu], capture_output=True, text=True, check=True)

    exported = {line.split()[-1] for line in done.stdout.splitlines()}
    assert exported == hooked_names() | {"dlsym", "dlvsym"}


def test_the_library_needs_nothing_of_the_driver(native):
    done = subprocess.run(["readelf", "-d", native.libvgpu], capture_output=True, text=True, check=True)

    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", done.stdout)
    assert needed
    assert all(name.startswith(("libc.so", "ld-linux", "libdl.so", "libpthread.so")) for name in needed), needed


def test_the_library_has_no_tables_that_every_exec_relocates(native):
    done = subprocess.run(["readelf", "-rW", native.libvgpu], capture_output=True, text=True, check=True)

    assert done.stdout.count("_RELATIVE") < 20  # it had 435, which were a third of what it adds to each exec


@pytest.mark.parametrize("question", ["wrapper", "other"])
def test_lookups_of_other_libraries_are_answered_as_without_us(native, preloaded, question):
    library = native.folder / f"tests/libhook_{question}.so"
    bare = {name: value for name, value in preloaded.items() if name != "LD_PRELOAD"}

    without = run(native.program("hook_lookup"), question, library, environment=bare)
    with_us = run(native.program("hook_lookup"), question, library, environment=preloaded)

    assert (without.stdout, without.returncode) == ("ok\n", 0)
    assert (with_us.stdout, with_us.stderr, with_us.returncode) == ("ok\n", "", 0)


@pytest.mark.parametrize("settings", [{}, BAD_SETTINGS], ids=["no settings", "bad settings"])
def test_a_program_without_cuda_runs_and_hears_nothing_whatever_the_settings_are(native, preloaded, settings):
    done = run(native.program("hook_plain"), environment={**preloaded, **settings})

    assert (done.stdout, done.stderr, done.returncode) == ("fine\n", "", 0)


def test_an_openmp_program_runs(native, preloaded):
    if not native.program("hook_openmp").exists():
        pytest.skip("this compiler has no OpenMP")

    done = run(native.program("hook_openmp"), environment={**preloaded, **BAD_SETTINGS})

    assert (done.stdout, done.stderr, done.returncode) == ("500500\n", "", 0)


@pytest.mark.parametrize("sanitizer", ["address", "undefined", "thread"])
def test_a_sanitized_program_runs(native, preloaded, tmp_path, sanitizer):
    compiler = shutil.which("clang")
    if compiler is None:
        pytest.skip("no clang here: `apt install clang libclang-rt-14-dev`")
    program = tmp_path / "plain"
    made = subprocess.run(
        [
            compiler,
            "-g",
            "-D_GNU_SOURCE",
            "-pthread",
            f"-fsanitize={sanitizer}",
            SOURCES / "tests/hook_plain.c",
            "-o",
            program,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"no runtime of this sanitizer here: {made.stderr.splitlines()[-1]}")

    done = run(program, environment={**preloaded, **BAD_SETTINGS})

    assert (done.stdout, done.stderr, done.returncode) == ("fine\n", "", 0)


def test_a_program_without_cuda_opens_no_file_of_ours(native, preloaded, tmp_path):
    limits = tmp_path / "limits"
    limits.write_text("half writ")
    limits.chmod(0o000)

    done = run("/bin/sh", "-c", "ls -l /proc/self/fd | wc -l; exec cat /proc/self/maps",
               environment={**preloaded, "LABSPAWNER_GPU_LIMITS": str(limits)})  # fmt: skip
    without = run("/bin/sh", "-c", "ls -l /proc/self/fd | wc -l", environment=environment_without_slices())

    assert done.stderr == ""
    assert done.stdout.splitlines()[0] == without.stdout.strip()
    assert "libvgpu.so" in done.stdout
    assert "/region" not in done.stdout


def test_exit_status_and_signals_are_the_programs_own(preloaded):
    done = run("/bin/sh", "-c", "exit 7", environment=preloaded)
    killed = run("/bin/sh", "-c", "kill -TERM $$", environment=preloaded)

    assert (done.returncode, killed.returncode) == (7, -15)
