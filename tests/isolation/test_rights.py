"""Whether a student can get a right that was not given: setuid programs, namespaces, devices, mounts, keys, terminals."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from isolation.students import Enter, Lab, Student

from labspawner.testing.waiting import eventually_sync

REFUSED = {"EPERM", "EACCES", "ENOSYS"}


def test_there_are_no_capabilities_and_no_way_to_new_ones(ann: Student) -> None:
    status = dict(
        line.split(":\t", 1)
        for line in ann.does("answer = open('/proc/self/status').read().splitlines()")
        if ":\t" in line
    )

    assert {name: int(value, 16) for name, value in status.items() if name.startswith("Cap")} == {
        "CapInh": 0,
        "CapPrm": 0,
        "CapEff": 0,
        "CapBnd": 0,
        "CapAmb": 0,
    }
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert len({*status["Uid"].split(), *status["Gid"].split()}) == 1
    assert status["Groups"].split() in ([], [status["Gid"].split()[0]], ["65534"])


def test_no_setuid_program_gives_a_right(ann: Student) -> None:
    said = ann.does(
        "import shutil\n"
        "programs = [path for path in map(shutil.which, ('su', 'mount', 'passwd', 'ping', 'sudo', 'newuidmap')) if path]\n"
        "answer = [path for path in programs if os.stat(path).st_mode & stat.S_ISUID\n"
        "          and not os.statvfs(path).f_flag & os.ST_NOSUID]"
    )

    assert said == []


def test_a_setuid_copy_in_the_home_or_in_tmp_stays_the_students(ann: Student) -> None:
    said = ann.does(
        "import shutil\n"
        "answer = []\n"
        "for place in ('/home/ann/id', '/tmp/id'):\n"
        "    shutil.copy('/usr/bin/id', place)\n"
        "    os.chmod(place, 0o6755)\n"
        "    answer.append([subprocess.run([place, '-u'], capture_output=True, text=True).stdout.strip(), str(os.getuid()),\n"
        "                   bool(os.statvfs(place).f_flag & os.ST_NOSUID)])"
    )

    assert all(seen == own and nosuid for seen, own, nosuid in said)


def test_nobody_becomes_anybody_else(ann: Student) -> None:
    said = ann.does(
        "answer = [tried(os.setuid, 0), tried(os.setgid, 0), tried(os.setgroups, [0]), tried(os.chroot, '/tmp'),\n"
        "          tried(os.chown, '/home/ann', 0, 0)]"
    )

    assert {*said} <= {"EPERM", "EINVAL"}


@pytest.mark.parametrize("space", ["user", "mnt", "net", "pid"])
def test_a_student_makes_no_namespace(ann: Student, space: str) -> None:
    flag = {"user": 0x10000000, "mnt": 0x00020000, "net": 0x40000000, "pid": 0x20000000}[space]

    said = ann.does(
        f"answer = [kernel('unshare', {flag}), kernel('unshare', 0x10000000 | {flag})]\n"
        f"answer.append(kernel('setns', os.open('/proc/1/ns/{space}', os.O_RDONLY), 0)\n"
        f"              if not isinstance(tried(os.stat, '/proc/1/ns/{space}'), str) else 'EPERM')"
    )

    assert {*said} <= {*REFUSED, "ENOSPC"}


def test_a_student_makes_no_namespace_by_clone(ann: Student) -> None:
    said = ann.ends(
        "pid = libc.syscall({'x86_64': 56, 'aarch64': 220}[platform.machine()], 0x10000000 | 17, 0, 0, 0, 0)\n"
        "pid == 0 and os._exit(0)\n"
        "sys.exit(3 if pid == -1 else 0)"
    )

    assert said == 3


def test_nothing_can_be_mounted_or_remounted(ann: Student) -> None:
    said = ann.does(
        "answer = [kernel('mount', b'none', b'/tmp', b'tmpfs', 0, None),\n"
        "          kernel('mount', None, b'/usr', None, 0x20 | 0x1000, None),\n"
        "          kernel('mount', b'/tmp', b'/etc', None, 0x1000, None),\n"
        "          kernel('umount2', b'/etc/ld.so.preload', 2), kernel('pivot_root', b'/', b'/tmp')\n"
        "          if hasattr(libc, 'pivot_root') else 'EPERM']"
    )

    assert {*said} <= REFUSED


def test_what_the_host_lends_cannot_be_written_to(ann: Student) -> None:
    said = ann.does(
        "places = ['/usr/bin/x', '/usr/lib/x', '/etc/x', '/x', '/dev/x', '/opt/x', '/home/x', '/var/x', '/run/x',\n"
        "          '/proc/x', '/sys/x', os.path.dirname(sys.executable) + '/x', sys.prefix + '/x']\n"
        "answer = [tried(open, place, 'w') for place in places] + [tried(os.chmod, '/usr/bin/env', 0o777),\n"
        "          tried(os.utime, '/usr/bin/env'), tried(open, sys.executable, 'r+b')]"
    )

    assert {*said} <= {"EROFS", "EACCES", "ENOENT", "EPERM"}


def test_the_running_interpreter_cannot_be_changed_by_its_link(ann: Student) -> None:
    said = ann.does_here(
        "answer = [tried(os.open, '/proc/self/exe', flags) for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_TRUNC)]"
    )

    assert {*said} <= {"ETXTBSY", "EROFS", "EACCES", "EPERM"}


def test_ld_so_preload_can_be_neither_written_nor_replaced(ann: Student) -> None:
    said = ann.does(
        "path = '/etc/ld.so.preload'\n"
        "answer = [tried(open, path, 'w'), tried(os.unlink, path), tried(os.rename, '/home/ann', '/etc'),\n"
        "          tried(os.link, path, '/etc/other'), tried(os.symlink, '/tmp', '/etc/ld.so.preload.d'), open(path).read()]"
    )

    assert said.pop() == ""
    assert {*said} <= {"EROFS", "EACCES", "EBUSY", "EXDEV", "EPERM", "ENOTEMPTY", "EEXIST"}


def test_no_device_can_be_made_or_is_there(ann: Student) -> None:
    said = ann.does(
        "answer = [tried(os.mknod, f'/home/ann/{name}', stat.S_IFBLK | 0o666, os.makedev(*number))\n"
        "          for name, number in {'sda': (8, 0), 'vda': (254, 0)}.items()]\n"
        "answer.append(tried(os.mknod, '/tmp/mem', stat.S_IFCHR | 0o666, os.makedev(1, 1)))\n"
        "answer.append([name for name in os.listdir('/dev') if name in ('mem', 'kmsg', 'kvm', 'fuse', 'vda', 'vsock')\n"
        "               or name.startswith(('loop', 'nvidia'))])"
    )

    assert said.pop() == []
    assert {*said} == {"EPERM"}


def test_the_kernels_settings_cannot_be_changed(ann: Student) -> None:
    said = ann.does(
        "paths = ['/proc/sys/kernel/core_pattern', '/proc/sys/kernel/hostname', '/proc/sysrq-trigger',\n"
        "         '/proc/sys/vm/overcommit_memory', '/proc/sys/user/max_user_namespaces',\n"
        "         '/sys/kernel/uevent_helper', '/sys/devices/system/cpu/cpu0/online', '/sys/fs/cgroup/release_agent']\n"
        "def write(path):\n"
        "    with open(path, 'r+') as file:\n"
        "        file.write('0')\n"
        "        file.flush()\n"
        "answer = [tried(write, path) for path in paths]\n"
        "answer += [tried(socket.sethostname, 'x'), tried(os.open, '/proc/kcore', 0), tried(os.open, '/dev/kmsg', 0)]"
    )

    assert {*said} <= {"EROFS", "EACCES", "EPERM", "ENOENT"}


def test_control_groups_are_out_of_reach(ann: Student) -> None:
    said = ann.does(
        "answer = {'tree': tried(os.listdir, '/sys/fs/cgroup'), 'mounts': 'cgroup' in open('/proc/self/mounts').read(),\n"
        "          'mine': [line.split(':', 2)[2].strip() for line in open('/proc/self/cgroup')]}"
    )

    assert said["tree"] == "ENOENT"
    assert said["mounts"] is False


def test_a_student_stays_in_the_limited_group(lab: Lab, ann: Student) -> None:
    found = lab.run(lab.provider.machine.found())
    if found.groups is None:
        assert lab.rung == "rlimit"
        return
    inside = found.groups.group(ann.handle.lease_id).pids_inside()

    assert inside
    assert ann.keeper not in inside


def test_keys_of_the_kernel_are_shared_with_nobody(ann: Student, bob: Student) -> None:
    numbers = "{'x86_64': (248, 250), 'aarch64': (217, 219)}[platform.machine()]"
    made = bob.does(
        f"add, keyctl = {numbers}\nanswer = kernel(add, b'user', b'labspawner-test', b'secret', 6, ctypes.c_long(-4))"
    )

    found = ann.does(
        f"add, keyctl = {numbers}\n"
        "buffer = ctypes.create_string_buffer(64)\n"
        "answer = [kernel(keyctl, 10, ctypes.c_long(-n), b'user', b'labspawner-test', 0) for n in (1, 2, 3, 4, 5)]\n"
        "answer.append(kernel(keyctl, 11, ctypes.c_long(-3), buffer, 64))"
    )

    assert {made, *found} <= REFUSED


@pytest.mark.parametrize(
    "call", ["bpf", "perf_event_open", "io_uring_setup", "userfaultfd", "kexec_load", "init_module"]
)
def test_calls_that_only_widen_what_can_be_attacked_are_refused(ann: Student, call: str) -> None:
    numbers = {
        "bpf": (321, 280),
        "perf_event_open": (298, 241),
        "io_uring_setup": (425, 425),
        "userfaultfd": (323, 282),
        "kexec_load": (246, 104),
        "init_module": (175, 105),
    }[call]

    said = ann.does(
        f"number = dict(zip(('x86_64', 'aarch64'), {numbers!r}))[platform.machine()]\n"
        "room = ctypes.create_string_buffer(256)\n"
        "answer = kernel(number, 0, room, 128, 0, 0)"
    )

    assert said in REFUSED


def test_there_is_no_terminal_of_the_hub_to_type_into(ann: Student) -> None:
    said = ann.does_here(
        "import fcntl, termios\n"
        "answer = [tried(os.open, '/dev/tty', os.O_RDWR), os.getsid(0) == os.getpid() or os.getsid(0)]\n"
        "answer += [tried(fcntl.ioctl, number, termios.TIOCSTI, b'x') for number in (0, 1, 2)]"
    )

    assert said[0] in {"ENXIO", "EIO", "EACCES"}
    assert {*said[2:]} <= {"ENOTTY", "EPERM", "EIO", "EACCES", "EBADF"}


def test_the_server_is_no_child_of_its_keeper_inside_and_cannot_stop_it(ann: Student) -> None:
    assert ann.does_here("answer = os.getppid()") == 0

    assert ann.does("answer = tried(os.kill, 0 - 1, 0)") in {None, "ESRCH"}
    assert Path(f"/proc/{ann.keeper}").exists()


def test_a_student_who_kills_everything_they_see_ends_their_own_server_only(enter: Enter, bob: Student) -> None:
    mallory = enter()

    with pytest.raises((OSError, AssertionError)):
        mallory.does("os.kill(-1, signal.SIGKILL)\ntime.sleep(60)")

    eventually_sync(lambda: mallory.state().value == "gone", 10)
    assert bob.works()
    mallory.leave()
    assert not Path(str(mallory.handle.data["run_dir"])).exists()


def test_a_student_who_stops_everything_they_see_can_still_be_released(enter: Enter, bob: Student) -> None:
    mallory = enter()

    with pytest.raises((OSError, AssertionError)):
        mallory.does("os.kill(-1, signal.SIGSTOP)\nos.kill(os.getppid(), signal.SIGSTOP)", deadline_s=2)
    mallory.leave()

    assert mallory.state().value == "gone"
    assert not Path(f"/proc/{mallory.keeper}").exists()
    assert bob.works()


def test_a_foreign_account_on_the_host_gets_nowhere_near_a_server(lab: Lab, ann: Student) -> None:
    run_dir = Path(str(ann.handle.data["run_dir"]))

    assert run_dir.parent.stat().st_mode & 0o077 == 0
    assert run_dir.parent.stat().st_uid == os.geteuid()
    assert (lab.folder / "data" / "logs").stat().st_mode & 0o077 == 0
