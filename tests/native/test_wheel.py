"""The wheel: what of native/ is in it, that it loads where it was installed, and what a machine without a compiler gets."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from labspawner import __version__

CHECKOUT = Path(__file__).resolve().parents[2]
LIBRARIES = ("libvgpu.so", "pretend/libcuda.so.1", "pretend/libnvidia-ml.so.1")
PROGRAMS = (*LIBRARIES, "pretend/stubctl")
NEWEST_GLIBC = (2, 34)
"""Of Ubuntu 22.04, RHEL 9 and Debian 12: containers with an older C library cannot preload what was built here."""


def pip(*words: str | Path, **more: str) -> None:
    """pip of this environment, without the package index and without another environment for the build."""
    hidden = {n: v for n, v in os.environ.items() if not n.startswith(("PIP_", "LABSPAWNER_", "CMAKE_", "SKBUILD_"))}
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
    near = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"  # cmake and ninja, where they come from PyPI
    done = subprocess.run(
        [sys.executable, "-m", "pip", *quiet, *map(str, words)],
        env={**hidden, "PATH": near, "CMAKE_BUILD_PARALLEL_LEVEL": "2", **more},
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"


@pytest.fixture(scope="module")
def builds(native) -> Path:
    """A folder for the files of builds, kept between runs."""
    if importlib.util.find_spec("scikit_build_core") is None or importlib.util.find_spec("pip") is None:
        pytest.skip("no scikit-build-core or pip here: `pip install scikit-build-core`")
    folder = native.folder.parent / "wheel"
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def only_us(builds: Path) -> Iterator[None]:
    """One test process builds at a time; what the others find done they need not compile again."""
    with (builds / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_wheel(builds: Path, kind: str, folder: Path, **more: str) -> Path:
    built = f"build-dir={builds / kind}"
    with only_us(builds):
        pip("wheel", "--no-deps", "--no-build-isolation", "-C", built, CHECKOUT, "-w", folder, **more)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(builds, tmp_path_factory) -> Path:
    return make_wheel(builds, "plain", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory) -> Path:
    """The wheel's labspawner/lib."""
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder / "labspawner/lib"


class Place:
    """A new environment that sees the libraries of this one, and of labspawner only what is installed into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        venv.create(folder, with_pip=False, symlinks=True)
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        self.packages = folder / "lib" / version / "site-packages"
        others = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        (self.packages / "others.pth").write_text("".join(f"{path}\n" for path in others))

    def install(self, *words: str | Path, **more: str) -> None:
        pip("--python", self.folder / "bin/python", "install", "--no-deps", "--no-index", *words, **more)

    def gpu_check(self) -> tuple[int, dict[str, dict[str, object]]]:
        """Exit status of `labspawner gpu check`, and its steps by name."""
        hidden = {n: v for n, v in os.environ.items() if not n.startswith(("LABSPAWNER_", "PYTHON", "STUB_", "CUDA_"))}
        done = subprocess.run(
            [self.folder / "bin/labspawner", "gpu", "check", "--json", "--pretend-gpu"],
            env=hidden,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=800,
            check=False,
        )
        assert done.stdout.startswith("{"), f"{done.stdout}\n{done.stderr}"
        return done.returncode, {step["what"]: step for step in json.loads(done.stdout)["steps"]}


@pytest.fixture
def place(tmp_path) -> Place:
    return Place(tmp_path / "venv")


def read_elf(*words: str | Path) -> str:
    if shutil.which("readelf") is None:
        pytest.skip("no readelf here: `apt install binutils`")
    return subprocess.run(["readelf", "-W", *words], capture_output=True, text=True, check=True).stdout


def test_the_wheel_has_the_library_and_the_pretended_driver(wheel):
    with zipfile.ZipFile(wheel) as archive:
        modes = {info.filename: info.external_attr >> 16 for info in archive.infolist()}

    assert {name for name in modes if name.startswith("labspawner/lib/")} == {f"labspawner/lib/{n}" for n in PROGRAMS}
    assert modes["labspawner/lib/pretend/stubctl"] & 0o111
    assert not any("CMakeLists" in name or name.endswith((".c", ".h")) for name in modes)


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_is_in_it_is_stripped_and_needs_the_c_library_alone(unpacked, name):
    sections, dynamic = read_elf("-S", unpacked / name), read_elf("-d", unpacked / name)

    assert not re.search(r"\.(symtab|debug_\w+)\s", sections)
    assert "RPATH" not in dynamic
    assert "RUNPATH" not in dynamic
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)
    assert all(n.startswith(("libc.so", "ld-linux", "libdl.so", "libpthread.so")) for n in needed), needed


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_newer_c_library_is_needed_than_that_of_supported_systems(unpacked, name):
    versions = re.findall(r"GLIBC_(\d+)\.(\d+)", read_elf("--version-info", unpacked / name))

    assert versions
    assert max((int(major), int(minor)) for major, minor in versions) <= NEWEST_GLIBC


def test_gpu_check_proves_that_an_installed_library_loads(wheel, place):
    place.install(wheel)

    _, steps = place.gpu_check()

    path = place.packages / "labspawner/lib/libvgpu.so"
    assert steps["library"] == {"what": "library", "ok": True, "detail": f"{path} loads, version {__version__}"}
    assert steps["slice on a PRETENDED GPU"]["ok"], steps


def test_an_editable_install_has_a_library_that_loads(builds, place):
    with only_us(builds):
        place.install("--no-build-isolation", "-C", f"build-dir={builds / 'plain'}", "--editable", CHECKOUT)

    _, steps = place.gpu_check()

    assert steps["library"]["ok"], steps
    assert str(place.packages) in str(steps["library"]["detail"])


def test_without_a_compiler_all_but_slices_is_installed_and_gpu_check_says_so(builds, place, tmp_path):
    wheel = make_wheel(builds, "no-compiler", tmp_path / "dist", CC="/no/such/compiler")
    place.install(wheel)

    status, steps = place.gpu_check()

    assert status == 1
    assert steps["library"]["ok"] is False
    assert "C compiler" in str(steps["library"]["detail"])
    assert list(steps) == ["library"]
    assert (place.packages / "labspawner/share/jupyterhub_config.py").exists()
    assert list((place.folder / "share/jupyter/labextensions").rglob("package.json"))


def test_the_tests_of_native_say_that_they_need_a_compiler(native, tmp_path):
    cmake = shutil.which("cmake", path=f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}")
    command = [str(cmake), "-S", CHECKOUT / "native", "-B", tmp_path, "-DLABSPAWNER_TESTS=ON"]

    done = subprocess.run(
        command, env={**os.environ, "CC": "/no/such/compiler"}, capture_output=True, text=True, check=False
    )

    assert done.returncode != 0
    assert "need a C compiler" in done.stderr
