"""What a student sees of GPU slices, and can do to them: the own one cannot be changed, other ones are not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from gpudouble import NvmlDouble, a_card, a_library
from isolation.students import Lab, Student

from labspawner.gpu.libvgpu import LIBRARY_ENV
from labspawner.model import HeldSlice, Resources, Slice, SliceTest
from labspawner.units import parse_bytes

SLICE = Resources(
    memory_bytes=parse_bytes("512MiB"), cpu=1.0, gpu=Slice(memory_bytes=parse_bytes("6GiB"), compute_pct=25)
)
MAPPED = "answer = sorted({line.split()[-1] for line in open('/proc/self/maps') if 'libvgpu' in line})"


@pytest.fixture(scope="module", params=["cold", "warm"])
def gpus(rung: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab with two cards, and a library that limits nothing."""
    before = os.environ.get(LIBRARY_ENV)
    folder = tmp_path_factory.mktemp("library")
    os.environ[LIBRARY_ENV] = str(a_library(folder))
    nvml = NvmlDouble(cards=[a_card(0), a_card(1)])
    made = Lab(rung, request.param, provider={"open_nvml": nvml.open}, gpu={"pretend": None, "selftest": "off"})
    yield made
    made.close()
    os.environ.pop(LIBRARY_ENV)
    if before is not None:
        os.environ[LIBRARY_ENV] = before


@pytest.fixture(scope="module")
def gina(gpus: Lab) -> Student:
    """Has a slice."""
    return gpus.enter("gina", resources=SLICE)


@pytest.fixture(scope="module")
def carl(gpus: Lab) -> Student:
    """Has none."""
    return gpus.enter("carl")


def test_the_library_is_in_the_server_and_in_all_that_it_starts(gina: Student) -> None:
    in_the_server, in_a_kernel = gina.does_here(MAPPED), gina.does(MAPPED)

    assert in_a_kernel == ["/etc/labspawner/libvgpu.so"]
    assert len(in_the_server) == 1
    assert (in_the_server == in_a_kernel) is (gina.lab.start == "cold")  # a fork has it from its zygote


def test_unset_variables_do_not_help(gina: Student) -> None:
    code = "answer = subprocess.run([sys.executable, '-I', '-c', %r], env={}, capture_output=True, text=True).stdout"

    assert "libvgpu" in gina.does(code % "print([line for line in open('/proc/self/maps') if 'libvgpu' in line])")
    assert gina.does("answer = sorted(name for name in os.environ if name.startswith('LD_PRE'))") == []
    assert gina.does_here("import os; answer = sorted(name for name in os.environ if name.startswith('LD_PRE'))") == []


@pytest.mark.parametrize(
    "path",
    [
        "/etc/ld.so.preload",
        "/etc/labspawner/slice/limits",
        "/etc/labspawner/slice/new",
        "/etc/labspawner/libvgpu.so",
        "/etc/labspawner/new",
    ],
)
def test_nothing_that_decides_can_be_written_renamed_or_covered(gina: Student, path: str) -> None:
    tries = {
        "write": f"open({path!r}, 'a').write('x')",
        "remove": f"os.remove({path!r})",
        "rename": f"os.rename({path!r}, {path + '.old'!r})",
        "chmod": f"os.chmod({path!r}, 0o666)",
    }
    code = "\n".join(
        f"try:\n    {step}\nexcept OSError as exc:\n    answer = answer or None\nelse:\n    answer = {name!r}"
        for name, step in tries.items()
    )
    mount = f"libc.mount(b'/tmp/mine', {path.encode()!r}, None, 4096, None)"

    assert gina.does(f"answer = None\n{code}") is None
    assert gina.does(f"open('/tmp/mine', 'w').close(); answer = {mount}") == -1


def test_the_limits_say_what_was_promised(gina: Student) -> None:
    text = gina.does("answer = open('/etc/labspawner/slice/limits').read()")

    held = HeldSlice.of(gina.handle)
    assert held is not None
    assert f"device {held.card} memory={6 * 2**30} soft={6 * 2**30} cores=25 weight=25\nend\n" in text
    assert f"slice {gina.handle.lease_id}\n" in text


def test_the_region_can_be_written_by_the_students_uid(gina: Student) -> None:
    assert (
        gina.does("descriptor = os.open('/etc/labspawner/region', os.O_RDWR); answer = os.fstat(descriptor).st_size")
        > 0
    )


def test_a_limits_file_that_takes_the_others_place_is_seen_inside(gina: Student, gpus: Lab) -> None:
    folder = Path(gina.handle.data["run_dir"]).parent / "slice" / "slice"
    before = (folder / "limits").read_text()

    def put(text: str) -> None:
        (folder / "new").write_text(text)
        (folder / "new").replace(folder / "limits")

    put(before.replace("memory=6442450944 soft=6442450944", "memory=1 soft=1"))
    try:
        assert "memory=1 soft=1" in gina.does("answer = open('/etc/labspawner/slice/limits').read()")
    finally:  # the student is other tests', too
        put(before)


def test_no_other_students_slice_is_in_sight(gina: Student, gpus: Lab) -> None:
    other = gpus.enter("otto", resources=SLICE)
    seen = gina.does(
        "answer = [path for root in ('/etc/labspawner', '/run', '/dev/shm', '/tmp') for path in glob.glob(root + '/**', "
        f"recursive=True) if {str(other.handle.lease_id)!r} in path]"
    )
    other.leave()

    assert seen == []


def test_a_server_without_a_slice_has_nothing_of_it_and_programs_are_told_that_there_is_no_card(carl: Student) -> None:
    assert carl.does(MAPPED) == []
    assert carl.does_here(MAPPED) == []
    assert carl.does("answer = os.path.exists('/etc/labspawner')") is False
    assert carl.does("answer = open('/etc/ld.so.preload').read()") == ""
    assert carl.does("answer = os.environ['NVIDIA_VISIBLE_DEVICES']") == "none"
    assert carl.does("answer = glob.glob('/dev/nvidia*')") == []


def test_programs_are_told_the_card_of_the_slice(gina: Student) -> None:
    held = HeldSlice.of(gina.handle)
    assert held is not None
    assert gina.does("answer = os.environ['CUDA_VISIBLE_DEVICES']") == held.card
    assert held.tested is SliceTest.OFF


def test_what_a_student_writes_behind_the_regions_end_is_no_ones_memory_for_long(gina: Student, gpus: Lab) -> None:
    region = Path(gina.handle.data["run_dir"]).parent / "slice" / "region"
    size = region.stat().st_size
    gina.does("os.truncate('/etc/labspawner/region', 2 ** 24); answer = None")

    gpus.run(gpus.provider.slices.watch.look())

    assert region.stat().st_size == size


def test_when_the_server_ends_nothing_of_the_slice_is_left(gpus: Lab) -> None:
    student = gpus.enter("lena", resources=SLICE)
    folder = Path(student.handle.data["run_dir"]).parent
    assert folder.is_dir()

    student.leave()

    _, held = gpus.run(gpus.provider.slices.capacity())
    assert not folder.exists()
    assert student.handle.lease_id not in held
