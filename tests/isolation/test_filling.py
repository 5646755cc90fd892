"""Whether a student can take what others need: memory, processes, disk, names; and what is said about it."""

from __future__ import annotations

import contextlib
import http.client
import os
from pathlib import Path

import psutil
import pytest
from isolation.students import Enter, Lab, Student

from labspawner.model import Resources
from labspawner.testing.waiting import eventually_sync
from labspawner.units import parse_bytes

SMALL = Resources(memory_bytes=parse_bytes("256MiB"), cpu=1.0)


def test_filling_tmp_fills_the_students_own_only(lab: Lab, enter: Enter, bob: Student) -> None:
    mallory = enter(resources=Resources(memory_bytes=parse_bytes("4GiB")))

    sizes = mallory.does(
        "answer = [os.statvfs(path).f_blocks * os.statvfs(path).f_frsize for path in ('/tmp', '/dev/shm')]"
    )
    said = mallory.does(
        "def fill():\n"
        "    with open('/dev/shm/full', 'wb') as file:\n"
        "        for _ in range(64):\n"
        "            os.posix_fallocate(file.fileno(), file.tell(), 2**26)\n"
        "            file.seek(2**26, 1)\n"
        "answer = tried(fill)"
    )

    assert sizes == [lab.provider.settings.tmp_size] * 2
    assert said == "ENOSPC"
    assert bob.does("open('/tmp/mine', 'w').write('x'); answer = open('/tmp/mine').read()") == "x"
    assert not Path("/dev/shm/full").exists()


def test_a_server_that_listens_cannot_fill_the_hubs_run_folder(lab: Lab, ann: Student) -> None:
    said = ann.does("answer = tried(lambda: open('/run/labspawner/full', 'w').write('x'))")

    assert said in {"EACCES", "EROFS"}


def test_a_log_that_is_flooded_stays_small(lab: Lab, enter: Enter) -> None:
    mallory = enter()
    path = Path(str(mallory.handle.data["log"]))

    mallory.does_here(
        "line = b'x' * 65535 + b'\\n'\nfor _ in range(1000):\n    os.write(1, line)\nos.write(1, b'the end\\n')"
    )

    limit = lab.provider.settings.log_limit
    eventually_sync(lambda: lab.run(lab.provider.logs(mallory.handle, 1)) == "the end", 30)
    assert path.stat().st_size <= limit
    assert path.stat().st_blocks * 512 <= 2 * limit


def test_the_log_of_a_server_cannot_be_cut_or_made_endless(lab: Lab, enter: Enter) -> None:
    mallory = enter()

    said = mallory.does_here(
        "import fcntl\n"
        "fcntl.fcntl(1, fcntl.F_SETFL, 0)\n"
        "answer = [tried(os.ftruncate, 1, 2**40), tried(os.lseek, 1, 2**40, 0), 0]"
    )

    assert said[:2] == ["EINVAL", "ESPIPE"]
    assert Path(str(mallory.handle.data["log"])).stat().st_size < 2**20


def test_a_disk_is_filled_as_far_as_the_quota_and_without_one_as_far_as_it_goes(lab: Lab, ann: Student) -> None:
    found = lab.run(lab.provider.machine.found())
    free = ann.does("answer = os.statvfs('/home/ann').f_bavail * os.statvfs('/home/ann').f_frsize")

    if found.quotas is None:  # docs/local.md says so: without a quota the disk is shared by all
        disk = os.statvfs(lab.home("ann"))
        assert free == pytest.approx(disk.f_bavail * disk.f_frsize, rel=0.05)


def test_a_fork_bomb_hurts_its_own_server_only(lab: Lab, enter: Enter, bob: Student) -> None:
    mallory = enter(resources=SMALL)
    bomb = (
        "made = 0\n"
        "why = ''\n"
        "while made < 1000 and not why:\n"
        "    try:\n"
        "        pid = os.fork()\n"
        "    except OSError as exc:\n"
        "        why = errno.errorcode[exc.errno]\n"
        "        break\n"
        "    if pid == 0:\n"
        "        os.closerange(0, 64)\n"
        "        time.sleep(60)\n"
        "        os._exit(0)\n"
        "    made += 1\n"
        "answer = [made, why]\n"
    )

    made, why = mallory.does(bomb)

    assert bob.works()
    assert why == "EAGAIN"
    assert made < lab.provider.settings.max_processes
    mallory.leave()
    assert not [one for one in psutil.process_iter() if _is_of(one, mallory)]


def test_an_allocation_of_100_gb_ends_the_program_and_not_the_server(lab: Lab, enter: Enter, bob: Student) -> None:
    mallory = enter(resources=SMALL)

    code = mallory.ends(
        "import mmap\n"
        "try:\n"
        "    room = mmap.mmap(-1, 100 * 2**30)\n"
        "except OSError as exc:\n"
        "    sys.exit(12)\n"
        "for at in range(0, len(room), 4096):\n"
        "    room[at] = 1\n"
    )

    assert code in {-9, 12} if lab.rung != "rlimit" else code == 12
    assert mallory.works()
    assert bob.works()


def test_memory_taken_step_by_step_ends_at_the_limit(lab: Lab, enter: Enter, bob: Student) -> None:
    mallory = enter(resources=SMALL)

    code = mallory.ends(
        "held = []\n"
        "try:\n"
        "    while len(held) < 200:\n"
        "        held.append(b'x' * 2**25)\n"
        "except MemoryError:\n"
        "    sys.exit(12)\n"
    )

    assert code == (12 if lab.rung == "rlimit" else -9)
    assert mallory.works()
    assert bob.works()


def test_what_lies_in_tmp_counts_as_the_servers_memory_where_there_is_a_group(
    lab: Lab, enter: Enter, bob: Student
) -> None:
    mallory = enter(resources=SMALL)

    fill = "with open('/dev/shm/x', 'wb') as file:\n    [file.write(b'x' * 2**20) for _ in range(600)]\n"
    if lab.rung == "rlimit":  # docs/local.md says so: what is in /tmp is bounded by its size alone
        assert mallory.ends(fill) == 0
        assert mallory.works()
    else:  # the end of the program frees nothing, so the kernel goes on to the server, whose end does
        with contextlib.suppress(OSError, http.client.HTTPException):  # the server may end in the middle of its answer
            assert mallory.ends(fill) == -9
        usage = lab.run(lab.provider.usage([mallory.handle]))
        assert all((one.memory_bytes or 0) <= 2**28 for one in usage.values())
    assert bob.works()


def test_many_watches_and_descriptors_are_bounded(ann: Student, bob: Student) -> None:
    files = ann.does(
        "resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)\n"
        "held = []\n"
        "def take():\n"
        "    while len(held) < 100_000:\n"
        "        held.append(os.open('/dev/null', 0))\n"
        "answer = [tried(take), len(held) <= 65536, resource.getrlimit(resource.RLIMIT_CORE)]"
    )

    assert files == ["EMFILE", True, [0, 0]]
    assert bob.works()


def test_a_priority_cannot_be_raised(ann: Student) -> None:
    said = ann.does(
        "answer = [tried(os.setpriority, os.PRIO_PROCESS, 0, -10),\n"
        "          tried(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(10))]\n"
        "try:\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (2**20, 2**20))\n"
        "except (ValueError, OSError):\n"
        "    answer.append('no')"
    )

    assert said[0] in {"EACCES", "EPERM"}
    assert said[1:] == ["EPERM", "no"]


def test_nobody_is_less_likely_to_be_killed_than_they_are(ann: Student) -> None:
    said = ann.does(
        "def write():\n"
        "    with open('/proc/self/oom_score_adj', 'w') as file:\n"
        "        file.write('-1000')\n"
        "answer = tried(write)"
    )

    assert said == "EACCES"


def _is_of(process: psutil.Process, student: Student) -> bool:
    try:
        return process.environ().get("LABSPAWNER_LEASE_ID") == student.handle.lease_id
    except psutil.Error:
        return False
