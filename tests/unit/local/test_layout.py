"""What a sandbox shows, by looking at it from inside a real one."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from labspawner.providers.local import warm
from labspawner.providers.local.confinement import Account, Bind, Confinement, Network
from labspawner.providers.local.etc import files_for, write_etc
from labspawner.providers.local.layout import HOLDER, HostView, layout, look_at_host, visible
from labspawner.testing.waiting import eventually_sync

ROOT = os.geteuid() == 0
UID = 350123 if ROOT else os.geteuid()
GID = 350123 if ROOT else os.getegid()
HOME = "/home/ann"
WARM = Path(warm.__file__).parent
ENTER = """
import os, sys
sys.path.insert(0, sys.argv[1])
import linux
pid, uid, gid = map(int, sys.argv[2:5])
inside = linux.Namespaces(pid)
inside.enter("pid")
child = os.fork()
if child == 0:
    inside.enter("cgroup", "ipc", "uts", "net", "mnt", "user")
    linux.drop_bounding_set()
    if os.geteuid() == 0 and uid != 0:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    linux.drop_capabilities()
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    os.chdir("/")
    os.execv("/bin/sh", ["sh", "-c", sys.argv[5]])
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
"""Become a process of the student's in the sandbox, as the keeper's fork does."""
Look = Callable[..., "subprocess.CompletedProcess[str]"]


class Box:
    """A sandbox that stands while the test runs, held as the provider holds one: by a pipe."""

    def __init__(self, confinement: Confinement, etc: Path, *, hidden: tuple[str, ...] = ()) -> None:
        told, telling = os.pipe()
        self._hold_r, self._hold = os.pipe()
        words = layout(confinement, host=look_at_host(), etc=str(etc), hidden=hidden)
        self.process = subprocess.Popen(
            [words[0], "--info-fd", str(telling), *words[1:], "--", *HOLDER[:2], f"echo up; {HOLDER[2]}"],
            stdin=self._hold_r,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[telling],
            text=True,
            env={"PATH": "/usr/bin:/bin"},
        )
        os.close(telling)
        with os.fdopen(told) as info:
            text = info.read()
        assert self.process.stdout is not None
        self.up = self.process.stdout.readline() == "up\n"
        self.inner = int(json.loads(text)["child-pid"]) if self.up else 0

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """What a shell of the student, with no more rights than the student has, says to `script`."""
        return subprocess.run(
            [sys.executable, "-I", "-c", ENTER, str(WARM), str(self.inner), str(UID), str(GID), script],
            check=False,
            capture_output=True,
            text=True,
            env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": HOME},
        )

    def close(self) -> str:
        """End it as the keeper's death would."""
        os.close(self._hold_r)
        os.close(self._hold)
        _, said = self.process.communicate(timeout=120)
        return said


def a_confinement(tmp_path: Path, **changes: Any) -> Confinement:
    for name in ("home", "run"):
        (tmp_path / name).mkdir(mode=0o700, exist_ok=True)
        os.chown(tmp_path / name, UID, GID)
    account = Account(uid=UID, gid=GID, name="ann")
    values: dict[str, Any] = {
        "account": account,
        "user_namespace": not ROOT,
        "home": str(tmp_path / "home"),
        "home_inside": HOME,
        "run_dir": str(tmp_path / "run"),
        "hostname": "lab-ann",
        "network": Network.NONE,
        "tmp_bytes": 2**20,
    }
    write_etc(tmp_path / "etc", files_for(account, home=HOME, hostname="lab-ann"))
    return Confinement(**{**values, **changes})


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Callable[..., Box]]:
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    made: list[Box] = []

    def make(*, hidden: tuple[str, ...] = (), **changes: Any) -> Box:
        one = Box(a_confinement(tmp_path, **changes), tmp_path / "etc", hidden=hidden)
        made.append(one)
        if not one.up:
            pytest.skip(f"bubblewrap does not run here: {one.process.stderr.read() if one.process.stderr else ''}")
        return one

    yield make
    for one in made:
        if one.process.poll() is None:
            one.close()


def test_inside_one_is_oneself_in_ones_home_and_alone(box: Callable[..., Box], tmp_path: Path) -> None:
    one = box()

    said = one.run("id -un; id -gn; hostname; cd; pwd; ls /proc | grep -c '^[0-9]'; echo mine > note; ls /home /root")

    assert said.stdout.split()[:4] == ["ann", "ann", "lab-ann", HOME]
    assert int(said.stdout.split()[4]) < 10
    assert said.stdout.split()[5:] == ["/home:", "ann"]
    assert (tmp_path / "home" / "note").read_text() == "mine\n"
    assert (tmp_path / "home" / "note").stat().st_uid == UID


def test_nothing_of_the_host_that_is_not_named_exists(box: Callable[..., Box], tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hub's own")
    one = box()

    said = one.run(
        f"ls -A /; ls -A /var /srv /root /mnt /boot; cat {tmp_path}/secret /etc/shadow /etc/ssh/* /etc/cron.d/*"
    )

    assert {"srv", "root", "mnt", "boot", "media"}.isdisjoint(said.stdout.split())
    assert "secret" not in said.stdout
    assert said.stderr.count("No such file") >= 6


def test_only_home_and_tmp_can_be_written_to(box: Callable[..., Box]) -> None:
    one = box()
    places = "/ /etc /usr /opt /dev /home /run /run/labspawner /var /proc /proc/sys/kernel /sys/devices/system/cpu"

    closed = one.run(
        f"for d in {places}; do (echo x > $d/x) 2>/dev/null && echo $d; done; echo x >> /etc/ld.so.preload"
    )
    opened = one.run(f"for d in {HOME} /tmp /var/tmp /dev/shm; do echo x > $d/x && echo $d; done")

    assert closed.stdout == ""
    assert closed.returncode != 0
    assert opened.stdout.split() == [HOME, "/tmp", "/var/tmp", "/dev/shm"]


def test_tmp_ends_at_its_size(box: Callable[..., Box]) -> None:
    said = box().run("head -c 3000000 /dev/zero > /tmp/big; head -c 3000000 /dev/zero > /dev/shm/big; wc -c < /tmp/big")

    assert int(said.stdout) <= 2**20
    assert said.stderr.count("No space left") == 2


def test_no_mount_honours_setuid_or_a_device_node_of_the_home(box: Callable[..., Box], tmp_path: Path) -> None:
    mounts = [line.split() for line in box().run("cat /proc/mounts").stdout.splitlines()]

    assert [fields[1] for fields in mounts if "nosuid" not in fields[3].split(",")] == []
    lacking = [fields[1] for fields in mounts if "nodev" not in fields[3].split(",")]
    assert [path for path in lacking if not path.startswith("/dev/")] == []


def test_a_student_has_no_capability_and_gets_none(box: Callable[..., Box]) -> None:
    said = box().run("grep -E '^(Cap|NoNewPrivs)' /proc/self/status; su -c id; mount -t tmpfs x /tmp; chown 0 /tmp")

    assert "uid=0" not in said.stdout
    effective = [line.split()[1] for line in said.stdout.splitlines() if line.startswith("CapEff")]
    assert effective == ["0" * 16]


def test_a_terminal_can_be_opened(box: Callable[..., Box]) -> None:
    said = box().run("""/usr/bin/python3 -c 'import pty; pty.spawn(["tty"])'""")

    assert said.stdout.strip().startswith("/dev/pts/")


def test_folders_made_for_a_bind_can_be_entered_also_below_tmp_and_root(
    box: Callable[..., Box], tmp_path: Path
) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "data").write_text("course data")
    root = os.path.expanduser("~root")
    binds = (Bind(source=str(deep), target=f"{root}/x/y"), Bind(source=str(deep), target=str(deep)))

    said = box(binds=binds).run(
        f"cat {root}/x/y/data {deep}/data; stat -c %a {root} {root}/x {tmp_path}; touch {deep}/new"
    )

    assert said.stdout == "course datacourse data755\n755\n755\n"
    assert "Read-only" in said.stderr


def test_what_is_optional_and_missing_is_left_out(box: Callable[..., Box]) -> None:
    said = box(binds=(Bind(source="/no/such", target="/no/such", optional=True),)).run("ls /no/such")

    assert said.returncode != 0


def test_a_hidden_folder_below_one_that_is_seen_is_empty_but_for_what_is_named(
    box: Callable[..., Box], tmp_path: Path
) -> None:
    app = tmp_path / "app"
    for name in ("venv", "data/homes", "lib"):
        (app / name).mkdir(parents=True)
        (app / name / "file").write_text(name)
    (app / "data" / "venv").mkdir()
    binds = tuple(Bind(source=str(path), target=str(path)) for path in (app, app / "data" / "venv"))

    said = box(binds=binds, hidden=(str(app / "data"), "/elsewhere")).run(
        f"ls {app} {app}/data; cat {app}/lib/file; touch {app}/data/x"
    )

    assert "homes" not in said.stdout
    assert said.stdout.splitlines()[-2:] == ["venv", "lib"]
    assert "Read-only" in said.stderr


def test_a_preload_file_stands_where_the_loader_looks_and_cannot_be_removed(
    box: Callable[..., Box], tmp_path: Path
) -> None:
    (tmp_path / "preload").write_text("/usr/lib/no-such.so\n")

    one = box(preload=str(tmp_path / "preload"))

    assert one.run("cat /etc/ld.so.preload").stdout == "/usr/lib/no-such.so\n"
    assert one.run("rm /etc/ld.so.preload").returncode != 0
    assert "no-such.so" in one.run("env -i /bin/true").stderr


def test_a_device_is_seen_at_its_own_path_and_works(box: Callable[..., Box]) -> None:
    if not Path("/dev/net/tun").exists():
        pytest.skip("there is no /dev/net/tun to show")

    assert box(devices=("/dev/net/tun", "/dev/no-such")).run("ls /dev/net").stdout == "tun\n"
    assert box().run("ls /dev/net").stdout == ""


def test_only_loopback_is_there_and_no_socket_of_the_host(box: Callable[..., Box]) -> None:
    said = box().run("cut -d: -f1 /proc/net/dev | tail -n +3; tail -n +2 /proc/net/unix")

    assert said.stdout.split() == ["lo"]


def test_the_end_of_the_pipe_ends_all_inside_also_what_left_its_parents(box: Callable[..., Box]) -> None:
    one = box()
    one.run("(setsid sleep 1000 >/dev/null 2>&1 &)")
    eventually_sync(lambda: one.run("ps -e -o comm= | grep -c sleep").stdout == "1\n", 10, "it sleeps")

    one.close()

    eventually_sync(lambda: not Path(f"/proc/{one.inner}").exists(), 5, "the sandbox is gone")


def test_orphans_leave_no_zombie(box: Callable[..., Box]) -> None:
    one = box()
    one.run("(sh -c 'exit 0' &); (setsid true &)")

    eventually_sync(lambda: one.run("ps -e -o stat= | grep -c Z").stdout == "0\n", 5, "all are buried")


@pytest.mark.skipif(not ROOT, reason="where the hub is no root, all inside is the student's own")
def test_a_student_cannot_end_the_holder(box: Callable[..., Box]) -> None:
    one = box()

    one.run("kill -9 1; kill 1; kill -9 -1")

    assert one.process.poll() is None
    assert one.run("echo here").stdout == "here\n"


def test_a_server_does_not_end_with_the_hub_and_cannot_reach_more_as_an_ordinary_user(tmp_path: Path) -> None:
    words = layout(a_confinement(tmp_path, user_namespace=True), host=HostView(), etc="/e")

    assert "--die-with-parent" not in words
    assert "--disable-userns" in words
    assert "--cap-drop" not in words
    assert ("--uid", str(UID)) in set(itertools.pairwise(words))


def test_a_root_of_real_folders_is_shown_as_one(tmp_path: Path) -> None:
    for name in ("bin", "lib"):
        (tmp_path / name).mkdir()
    (tmp_path / "sbin").symlink_to("usr/sbin")
    (tmp_path / "usr" / "sbin").mkdir(parents=True)

    host = look_at_host(tmp_path)
    words = " ".join(layout(a_confinement(tmp_path), host=host, etc="/e"))

    assert host == HostView(links=(("sbin", "usr/sbin"),), folders=("bin", "lib"))
    assert "--symlink usr/sbin /sbin" in words
    assert "--ro-bind /lib /lib" in words


def test_paths_that_are_seen_are_known() -> None:
    assert visible("/usr/lib/x", ())
    assert visible("/srv/venv/bin", ("/srv/venv",))
    assert not visible("/srv/venv2", ("/srv/venv",))
    assert not visible("/usr/../root", ())


def test_the_files_of_etc_are_replaced_only_where_they_differ(tmp_path: Path) -> None:
    account = Account(uid=65534, gid=65534, name="ann")
    files = files_for(account, home=HOME, hostname="lab-ann", resolv_conf="nameserver 10.0.2.3\n")
    write_etc(tmp_path / "etc", files)
    before = {path.name: path.stat().st_ino for path in (tmp_path / "etc").iterdir()}

    write_etc(tmp_path / "etc", {**files, "hostname": "lab-bob\n"})

    after = {path.name: path.stat().st_ino for path in (tmp_path / "etc").iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"hostname"}
    assert "nobody" not in files["passwd"]
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in (tmp_path / "etc").iterdir())


def test_files_that_cannot_be_written_leave_no_half(tmp_path: Path) -> None:
    (tmp_path / "etc" / "passwd").mkdir(parents=True)

    with pytest.raises(OSError, match="directory"):
        write_etc(tmp_path / "etc", {"passwd": "x"})

    assert sorted(path.name for path in (tmp_path / "etc").iterdir()) == ["passwd"]


def test_a_python_of_another_place_runs_inside_when_its_folders_are_bound(box: Callable[..., Box]) -> None:
    package = str(Path(replace.__code__.co_filename).parent)
    trees = dict.fromkeys([sys.prefix, sys.base_prefix, package])

    said = box(binds=tuple(Bind(source=tree, target=tree) for tree in trees)).run(
        f"{sys.executable} -I -c 'import json, ssl, sqlite3; print(sum([1, 2]))'"
    )

    assert said.stdout == "3\n", said.stderr
