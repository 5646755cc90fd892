"""What the native tests share: native/ built once per run, whatever number of test processes there is.

`native` gives the paths of a plain build; `native_build("address,undefined")` gives another one, built when first asked for.
Builds lie out of tree in a folder that is kept between runs, so only what changed is compiled again.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from labspawner.testing.slices import PretendCard, Tools

SOURCES = Path(__file__).resolve().parents[2] / "native"


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeBuild:
    """Paths of one build of native/."""

    folder: Path

    @property
    def libvgpu(self) -> Path:
        """libvgpu.so."""
        return self.folder / "src/libvgpu.so"

    @property
    def stub(self) -> Path:
        """The folder with the stub's libcuda.so.1 and libnvidia-ml.so.1, for LD_LIBRARY_PATH."""
        return self.folder / "stub"

    @property
    def stubctl(self) -> Path:
        return self.folder / "stub/stubctl"

    def program(self, name: str) -> Path:
        """A test program of native/tests."""
        return self.folder / "tests" / name

    def sibling(self, name: str, *options: str, compiler: str, targets: tuple[str, ...]) -> NativeBuild:
        """Another build, of some targets only: for another processor."""
        return _build(name, *options, compiler=compiler, targets=targets)

    def bench(self, name: str) -> Path:
        """A program of native/bench."""
        return self.folder / "bench" / name


def _tool(name: str) -> str | None:
    """A build tool of this environment or of the PATH."""
    near = Path(sysconfig.get_path("scripts")) / name
    return str(near) if near.is_file() else shutil.which(name)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{' '.join(command)}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}", pytrace=False)


def _build(name: str, *options: str, compiler: str = "cc", targets: tuple[str, ...] = ()) -> NativeBuild:
    cmake = _tool("cmake")
    if cmake is None:
        pytest.skip("no cmake here: `apt install cmake`, or the one of PyPI")
    if shutil.which(compiler) is None:
        pytest.skip(f"no C compiler here ({compiler}): `apt install gcc clang`")
    folder = _builds() / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{name}.lock").open(
        "w"
    ) as lock:  # one test process builds, the others wait and find it done
        fcntl.flock(lock, fcntl.LOCK_EX)
        ninja = _tool("ninja")
        if not (folder / "CMakeCache.txt").exists():
            generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
            _run(cmake, "-S", str(SOURCES), "-B", str(folder), *generator, "-DLABSPAWNER_TESTS=ON",
                 f"-DCMAKE_C_COMPILER={compiler}", *options)  # fmt: skip
        wanted = ["--target", *targets] if targets else []
        _run(cmake, "--build", str(folder), "--parallel", "2", *wanted)
    return NativeBuild(folder=folder)


@functools.cache
def _cannot_sanitize(sanitize: str) -> str:
    """Why programs with these sanitizers cannot be made or run here; "" when they can."""
    if shutil.which("clang") is None:
        return "no clang here: `apt install clang libclang-rt-dev`"
    with tempfile.TemporaryDirectory() as folder:
        program, source = Path(folder, "probe"), Path(folder, "probe.c")
        source.write_text("int main(void) { return 0; }\n")
        command = ["clang", f"-fsanitize={sanitize}", str(source), "-o", str(program)]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            return f"clang has no runtime of {sanitize} here (`apt install libclang-rt-dev`): {made.stderr[-300:]}"
        ran = subprocess.run([program], capture_output=True, text=True, check=False)
    return f"this machine runs no program with {sanitize}: {ran.stderr[:300]}" if ran.returncode else ""


def _builds() -> Path:
    """Where builds are kept: a folder per checkout and user, beside the other temporary files."""
    tag = f"{os.getuid()}-{abs(hash_of(str(SOURCES))):x}"
    return Path(tempfile.gettempdir()) / f"labspawner-native-{tag}"


def hash_of(text: str) -> int:
    """A number for a text, the same in every process."""
    value = 5381
    for byte in text.encode():
        value = (value * 33 + byte) & 0xFFFFFFFF
    return value


@pytest.fixture(scope="session")
def native() -> NativeBuild:
    """The plain build: library, stub driver, test programs."""
    if sys.platform != "linux":
        pytest.skip("the library is for Linux")
    if ready := os.environ.get("LABSPAWNER_NATIVE_BUILD"):  # a build of yours, as it is
        return NativeBuild(folder=Path(ready))
    return _build("plain")


@pytest.fixture(scope="session")
def native_build() -> Callable[[str], NativeBuild]:
    """A build with sanitizers, by what -fsanitize= takes: `native_build("thread")`. Compiled with clang; skips where it
    has no runtime for them, or where this machine does not run such programs."""

    def build(sanitize: str) -> NativeBuild:
        if why := _cannot_sanitize(sanitize):
            pytest.skip(why)
        return _build(sanitize.replace(",", "-"), f"-DLABSPAWNER_SANITIZE={sanitize}", compiler="clang")

    return build


@pytest.fixture
def stub_state(native: NativeBuild, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Environment of a process that uses the stub driver, with cards of its own: 1 card of 24564 MiB."""
    folder = Path(tempfile.mkdtemp(prefix="stub-", dir="/dev/shm" if Path("/dev/shm").is_dir() else tmp_path))
    environment = dict(os.environ)
    for name in [n for n in environment if n.startswith(("STUB_", "CUDA_", "NVIDIA_", "LABSPAWNER_GPU"))]:
        del environment[name]
    environment |= {
        "LD_LIBRARY_PATH": str(native.stub),
        "STUB_CUDA_STATE": str(folder / "state"),
        "STUB_CUDA_DEVICES": "1x24564MiB",
    }
    yield environment
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def card(native: NativeBuild) -> Iterator[PretendCard]:
    """A pretend card of 24 GiB; what runs on it ends with the test."""
    with PretendCard(Tools(folder=native.folder)) as card:
        yield card
