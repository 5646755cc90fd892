"""clang-tidy finds no mistake in the sources of library and stub; native/.clang-tidy says what it looks for."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

NATIVE = Path(__file__).resolve().parents[2] / "native"


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "source", [f"{part}/{path.name}" for part in ("src", "stub") for path in sorted((NATIVE / part).glob("*.c"))]
)
def test_clang_tidy_finds_nothing(native, source):
    tidy = shutil.which("clang-tidy")
    if tidy is None:
        pytest.skip("no clang-tidy here: `apt install clang-tidy`")
    known = (native.folder / "compile_commands.json").read_text(encoding="utf-8")
    if f"/{source}" not in known:
        pytest.skip("not part of the build")

    done = subprocess.run(
        [tidy, "-p", native.folder, "--quiet", NATIVE / source], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout
