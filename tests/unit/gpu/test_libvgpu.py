"""Where library and pretended driver are found, and what is said of those that are of no use."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from labspawner.errors import SetupError
from labspawner.gpu.libvgpu import LIBRARY_ENV, find_library
from labspawner.gpu.pretend import PRETEND_ENV, Pretended, find_driver, parse_cards
from labspawner.units import UnitError

COMPILER = shutil.which("cc")


@pytest.fixture
def library(tmp_path: Path) -> Path:
    if COMPILER is None:
        pytest.skip("no C compiler here")
    built = tmp_path / "libvgpu.so"
    source = tmp_path / "a.c"
    source.write_text('__attribute__((used)) static const char version[] = "labspawner-libvgpu 1.2.3";\n')
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", str(built), str(source)], check=True)
    return built


def test_a_library_that_is_named_is_taken_and_says_its_version(library: Path):
    found = find_library({LIBRARY_ENV: str(library)})

    assert (found.path, found.version) == (library, "1.2.3")


def test_a_named_library_that_is_not_there_is_said(tmp_path: Path):
    with pytest.raises(SetupError, match="No such file"):
        find_library({LIBRARY_ENV: str(tmp_path / "libvgpu.so")})


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n" * 10, b"\x7fELF" + bytes(60)], ids=["empty", "script", "cut"])
def test_what_is_no_shared_library_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "libvgpu.so").write_bytes(content)

    with pytest.raises(SetupError, match="no shared library"):
        find_library({LIBRARY_ENV: str(tmp_path / "libvgpu.so")})


@pytest.mark.skipif(platform.machine() not in {"x86_64", "aarch64"}, reason="the library is for these two")
def test_a_library_for_another_processor_is_refused(library: Path):
    content = bytearray(library.read_bytes())
    content[18:20] = (243).to_bytes(2, "little")  # EM_RISCV
    library.write_bytes(content)

    with pytest.raises(SetupError, match="another processor"):
        find_library({LIBRARY_ENV: str(library)})


def test_a_driver_that_was_not_built_is_a_sentence(tmp_path: Path):
    with pytest.raises(SetupError, match="libcuda"):
        find_driver({PRETEND_ENV: str(tmp_path)})


def test_a_process_finds_the_pretended_driver_before_its_own_libraries(tmp_path: Path):
    pretended = Pretended(folder=tmp_path, state=tmp_path / "state", cards="2x1024MiB")

    assert pretended.environment({"LD_LIBRARY_PATH": "/opt/lib", "HOME": "/"}) == {
        "LD_LIBRARY_PATH": f"{tmp_path}:/opt/lib",
        "STUB_CUDA_STATE": str(tmp_path / "state"),
        "STUB_CUDA_DEVICES": "2x1024MiB",
    }


@pytest.mark.parametrize(
    ("text", "cards"), [("2x24GiB", "2x24576MiB"), ("24564MiB", "1x24564MiB"), (" 16 x 1 GiB ", "16x1024MiB")]
)
def test_cards_are_read_with_their_units(text: str, cards: str):
    assert parse_cards(text) == cards


@pytest.mark.parametrize("text", ["", "2x", "2x24", "2x24GB", "0x1GiB", "17x1GiB", "x1GiB", "-1x1GiB", "1KiB", "four"])
def test_other_cards_are_refused_in_words(text: str):
    with pytest.raises(UnitError):
        parse_cards(text)
