"""The region's file: made whole, checked before it is trusted, and never a crash where it is bad or there is no room."""

from __future__ import annotations

import os
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from native.core_guests import GIB, NOWHERE, a_slice, clean_environment, guests

from labspawner.gpu import region

NO_ROOM = -12
REFUSED = -22


@pytest.fixture
def program(native) -> Path:
    return native.program("core_account")


@pytest.fixture
def invite(program):
    with guests(program) as inviting:
        yield inviting


@pytest.fixture
def folder(tmp_path: Path):
    return a_slice(tmp_path / "slice")


def hami(cache: Path, memory: str = "4096m") -> dict[str, str]:
    return {"CUDA_DEVICE_MEMORY_LIMIT_0": memory, "CUDA_DEVICE_MEMORY_SHARED_CACHE": str(cache)}


def overwrite(path: Path, at: int, value: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(value)


def spoil(path: Path, how: str) -> None:
    match how:
        case "empty":
            os.truncate(path, 0)
        case "cut short":
            os.truncate(path, region.SIZE - 1)
        case "too long":
            os.truncate(path, region.SIZE + 1)
        case "wrong magic":
            overwrite(path, region.Header.magic.offset, b"\0" * 8)
        case "another version":
            overwrite(path, region.Header.version.offset, struct.pack("<I", region.VERSION + 1))
        case "another size inside":
            overwrite(path, region.Header.size.offset, struct.pack("<Q", 4096))


@pytest.mark.parametrize(
    "how", ["empty", "cut short", "too long", "wrong magic", "another version", "another size inside"]
)
def test_a_region_that_is_none_is_refused_in_one_line(invite, folder, how):
    spoil(folder.region, how)
    guest = invite(folder)

    assert guest.number("start") == REFUSED
    assert guest.number("start") == REFUSED
    assert guest.number("charge 0 1") == NO_ROOM
    said = guest.kill()
    assert said == (
        f"labspawner: no GPU: {folder.region} is not a region of this version (size, magic or version): "
        "make the slice anew\n"
    )


def test_a_region_that_is_missing_is_refused_and_not_made(invite, folder):
    folder.region.unlink()
    guest = invite(folder)

    assert guest.number("start") == REFUSED
    assert "No such file" in guest.kill()
    assert not folder.region.exists()


def test_a_folder_in_place_of_the_region_is_refused(invite, folder):
    folder.region.unlink()
    folder.region.mkdir()

    assert invite(folder).number("start") == REFUSED


def test_rubbish_in_the_words_is_bounded(invite, folder):
    overwrite(folder.region, region.Header.slots_high.offset, struct.pack("<I", 2**32 - 1))
    overwrite(folder.region, region.Header.device_count.offset, struct.pack("<I", 2**32 - 1))
    guest = invite(folder).join()

    assert guest.number("charge 0 5") == 0
    guest.ask("tidy")
    assert guest.number("used 0") == 5


def test_under_hami_the_first_process_makes_the_region_and_all_find_it(invite, tmp_path):
    environment = hami(tmp_path / "x.cache")

    one = invite(environment=environment).join()
    other = invite(environment=environment).join()

    made = tmp_path / "x.cache.labspawner"
    assert made.stat().st_mode & 0o777 == 0o666
    assert made.stat().st_size == region.SIZE
    assert [path.name for path in tmp_path.iterdir()] == [made.name]
    assert one.number(f"charge 0 {4 * GIB}") == 0
    assert other.number("charge 0 1") == NO_ROOM
    assert [process.slot for process in region.read(made).processes] == [0, 1]


def test_processes_that_make_the_region_at_the_same_time_share_one(invite, tmp_path):
    everyone = [invite(environment=hami(tmp_path / "x.cache")) for _ in range(12)]

    with ThreadPoolExecutor(len(everyone)) as pool:
        started = list(pool.map(lambda guest: guest.ask("start"), everyone))

    assert started == ["0"] * len(everyone)
    assert sorted(guest.number("slot") for guest in everyone) == list(range(len(everyone)))
    assert len(list(tmp_path.iterdir())) == 1


def test_under_hami_a_link_in_place_of_the_region_is_not_followed(invite, tmp_path):
    (tmp_path / "x.cache.labspawner").symlink_to(tmp_path / "elsewhere")

    assert invite(environment=hami(tmp_path / "x.cache")).number("start") == REFUSED
    assert not (tmp_path / "elsewhere").exists()


def test_under_hami_a_folder_that_is_missing_is_refused_in_one_line(invite, tmp_path):
    guest = invite(environment=hami(tmp_path / "none" / "x.cache"))

    assert guest.number("start") == REFUSED
    assert guest.kill().count("\n") == 1


def test_another_file_in_its_place_does_not_free_what_the_living_hold(invite, folder):
    """Who is refused opens the region anew to find the dead: never another file that somebody put there."""
    one, other = invite(folder).join(), invite(folder).join()
    one.ask(f"charge 0 {6 * GIB}")
    copy = folder.region.with_name("copy")
    copy.write_bytes(folder.region.read_bytes())
    copy.replace(folder.region)

    assert other.number("charge 0 1") == NO_ROOM
    other.ask("tidy")
    assert other.number("used 0") == 6 * GIB


def test_a_region_that_cannot_be_opened_again_only_keeps_what_the_dead_held(invite, folder):
    one, other = invite(folder).join(), invite(folder).join()
    one.ask(f"charge 0 {4 * GIB}")
    folder.region.unlink()
    one.kill()

    assert other.number(f"charge 0 {4 * GIB}") == NO_ROOM
    assert other.number(f"charge 0 {2 * GIB}") == 0


def on_a_full_file_system(program: Path, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `script` and then the program's commands with a tmpfs of 64 KiB at /mnt, in a mount namespace of its own."""
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    mount = "mount -t tmpfs -o size=64k tmpfs /mnt"
    if subprocess.run([*unshare, "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces for this user")
    return subprocess.run(
        [*unshare, "sh", "-c", f"{mount} && {script} && exec {program} {NOWHERE}"],
        env=clean_environment(**environment), input="start\ncharge 0 1\n", capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_full_file_system_is_said_in_one_line_and_kills_nobody(program):
    done = on_a_full_file_system(program, "head -c 60k /dev/zero > /mnt/full", **hami(Path("/mnt/x.cache")))

    assert done.returncode == 0
    assert done.stdout.split() == ["ready", str(REFUSED), str(NO_ROOM)]
    assert done.stderr == "labspawner: no GPU: /mnt/x.cache.labspawner has no room: the file system is full\n"


def test_a_region_whose_pages_were_never_reserved_is_no_trap_on_a_full_file_system(program, tmp_path):
    header = tmp_path / "header"
    header.write_bytes(
        bytes(region.Header(magic=region.MAGIC, version=region.VERSION, device_count=1, size=region.SIZE))
    )
    script = (
        f"cp {header} /mnt/x.cache.labspawner && truncate -s {region.SIZE} /mnt/x.cache.labspawner "
        "&& head -c 60k /dev/zero > /mnt/full"
    )
    done = on_a_full_file_system(program, script, **hami(Path("/mnt/x.cache")))

    assert done.returncode == 0
    assert done.stdout.split() == ["ready", str(REFUSED), str(NO_ROOM)]
    assert "the file system is full" in done.stderr
