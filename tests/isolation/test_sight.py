"""What one student sees and reaches of the others, of the hub and of the machine."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest
from isolation.students import Lab, Student


def test_anothers_home_is_not_there(lab: Lab, ann: Student, bob: Student) -> None:
    bob.does("open('/home/bob/thesis', 'w').write('mine')")
    theirs = [str(lab.home("bob")), str(lab.home("bob") / "thesis"), "/home/bob", str(lab.folder / "data")]

    seen = ann.does(f"answer = [tried(os.stat, path) for path in {theirs!r}] + [os.listdir('/home')]")

    assert seen[:-1] == ["ENOENT"] * len(theirs)
    assert seen[-1] == ["ann"]
    assert (lab.home("bob") / "thesis").read_text() == "mine"


def test_a_home_is_its_students_alone_on_the_host_too(lab: Lab, ann: Student, bob: Student) -> None:
    homes = [lab.home(name).stat() for name in ("ann", "bob")]

    assert [home.st_mode & 0o777 for home in homes] == [0o700, 0o700]
    if os.geteuid() == 0:
        assert len({home.st_uid for home in homes} | {0}) == 3


def test_the_hubs_data_and_secrets_are_not_there(lab: Lab, ann: Student) -> None:
    secret = lab.folder / "data" / "hub.sqlite"
    secret.write_text("the hub's")
    paths = [
        str(secret),
        "/etc/shadow",
        "/etc/gshadow",
        "/etc/ssl/private",
        os.path.expanduser("~root/.ssh"),
        "/var/log",
        "/srv",
        "/run/..",
    ]

    seen = ann.does(
        f"answer = [tried(lambda p: os.listdir(p) if os.path.isdir(p) else open(p).read(), p) for p in {paths!r}]"
    )

    assert seen[:7] == ["ENOENT"] * 7
    assert "home" in seen[7]


def test_no_process_of_others_or_of_the_machine_is_seen(ann: Student, bob: Student) -> None:
    outside = [os.getpid(), bob.keeper, ann.keeper, os.getppid()]

    seen = ann.does(
        "names = [open(f'/proc/{pid}/cmdline', 'rb').read().decode(errors='replace') for pid in pids()]\n"
        "answer = [len(names), ' '.join(names), os.getpid() < 100_000]"
    )

    assert seen[0] < 12
    assert "bob" not in seen[1]
    assert "keeper" not in seen[1]
    assert all(str(pid) not in seen[1].split() for pid in outside)


def test_no_process_outside_can_be_signalled_or_traced(ann: Student, bob: Student) -> None:
    outside = [bob.keeper, ann.keeper, os.getpid()]

    said = ann.does(
        "inside = set(pids())\n"
        f"others = [pid for pid in {outside!r} if pid not in inside]\n"
        "answer = [[tried(os.kill, pid, 0), kernel('ptrace', 16, pid, 0, 0)] for pid in others]"
    )

    assert said == [["ESRCH", "ESRCH"]] * len(said)
    assert bob.works()


def test_process_1_which_holds_the_sandbox_cannot_be_traced_read_or_ended(ann: Student) -> None:
    said = ann.does(
        "answer = {'attach': kernel('ptrace', 16, 1, 0, 0), 'memory': tried(open, '/proc/1/mem', 'rb+'),"
        " 'environ': tried(lambda: open('/proc/1/environ').read()), 'stdin': tried(os.readlink, '/proc/1/fd/0'),"
        " 'root': tried(os.listdir, '/proc/1/root'), 'exe': tried(os.readlink, '/proc/1/exe')}\n"
        "tried(os.kill, 1, signal.SIGKILL)\n"
        "answer['lives'] = os.path.exists('/proc/1')"
    )

    assert said.pop("lives") is True
    assert said == dict.fromkeys(said, "EACCES") | {"attach": "EPERM"}


def test_no_secret_of_others_is_in_what_a_server_can_read(ann: Student, bob: Student) -> None:
    find = f"""
found = []
def look(place, data):
    if {bob.token[:12]!r}.encode() + {bob.token[12:]!r}.encode() in data:
        found.append(place)
for pid in pids():
    for name in ("environ", "cmdline"):
        text = tried(lambda: open(f"/proc/{{pid}}/{{name}}", "rb").read())
        if isinstance(text, bytes):
            look(f"{{pid}}/{{name}}", text)
with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
    for line in maps:
        span, rights = line.split()[:2]
        if rights[0] != "r" or "[v" in line:
            continue
        start, end = (int(part, 16) for part in span.split("-"))
        try:
            memory.seek(start)
            look(line.strip(), memory.read(min(end - start, 2**27)))
        except (OSError, ValueError, OverflowError):
            continue
answer = [place for place in found]
"""
    hits = ann.does_here(find)

    assert all("[heap]" in hit or "/" not in hit for hit in hits)  # the very words of this question, and nothing else
    assert not any("environ" in hit or "cmdline" in hit for hit in hits)


def test_a_server_shows_only_its_own_marks_and_command(ann: Student) -> None:
    shown = ann.does_here("answer = open('/proc/self/environ').read() + open('/proc/self/cmdline').read()")

    assert "LABSPAWNER_LEASE_ID" in shown
    assert "bob" not in shown
    assert "labspawner-zygote" not in shown


def test_no_descriptor_is_inherited_but_three(ann: Student) -> None:
    seen = ann.does_here(
        "answer = {name: tried(os.readlink, f'/proc/self/fd/{name}') for name in os.listdir('/proc/self/fd')}"
    )

    kinds = {name: target for name, target in seen.items() if "socket:" not in target and "/proc/" not in target}
    assert {name: target for name, target in kinds.items() if target != "ENOENT"}.keys() == {"0", "1", "2"}
    assert seen["0"] == "/dev/null"


def test_no_socket_of_the_hub_or_the_keeper_is_inherited(ann: Student) -> None:
    seen = ann.does_here(
        "mine = {line.split()[9] for name in ('tcp', 'tcp6') for line in open(f'/proc/self/net/{name}').readlines()[1:]}\n"
        "answer = [target for name in os.listdir('/proc/self/fd')\n"
        "          for target in [tried(os.readlink, f'/proc/self/fd/{name}')]\n"
        "          if target.startswith('socket:') and target[8:-1] not in mine]"
    )

    assert seen == []


def test_nothing_of_the_machines_network_is_reached(ann: Student) -> None:
    with socket.socket() as service:
        service.bind(("0.0.0.0", 0))
        service.listen()
        port = service.getsockname()[1]
        addresses = ["127.0.0.1", "10.0.2.2", *_addresses(), "169.254.169.254"]

        reached = ann.does(
            f"answer = [a for a in {addresses!r} for p in ({port}, 80) if connects(socket.AF_INET, (a, p), 1)]"
        )

    assert reached == []


def test_the_servers_of_others_are_not_reached(ann: Student, bob: Student) -> None:
    port = int(bob.url.rsplit(":", 1)[1])

    assert ann.does(f"answer = connects(socket.AF_INET, ('127.0.0.1', {port}))") is False


def test_abstract_unix_sockets_of_the_machine_are_not_reached(ann: Student, lab: Lab) -> None:
    name = f"\0{lab.hub_id}"
    with socket.socket(socket.AF_UNIX) as service:
        service.bind(name)
        service.listen()

        assert ann.does(f"answer = connects(socket.AF_UNIX, {name!r})") is False


def test_no_other_kind_of_socket_leads_past_the_network_namespace(ann: Student) -> None:
    families = {"vsock": 40, "packet": 17, "alg": 38, "bluetooth": 31, "can": 29, "rds": 21, "tipc": 30, "xdp": 44}

    made = ann.does(
        "def makes(family):\n"
        "    for kind in (1, 2, 3, 5):\n"
        "        try:\n"
        "            socket.socket(family, kind).close()\n"
        "            return True\n"
        "        except OSError:\n"
        "            pass\n"
        f"answer = [name for name, family in {families!r}.items() if makes(family)]"
    )

    assert made == []


def test_nobody_shares_ipc_names_or_control_groups(ann: Student, bob: Student) -> None:
    spaces = ["pid", "ipc", "uts", "net", "mnt"]
    look = f"answer = [os.readlink(f'/proc/self/ns/{{name}}') for name in {spaces!r}]"

    mine, others = ann.does(look), bob.does(look)
    host = [os.readlink(f"/proc/self/ns/{name}") for name in spaces]

    assert not {*mine} & {*others}
    assert not {*mine} & {*host}


def test_the_shared_memory_of_another_is_not_seen(ann: Student, bob: Student) -> None:
    bob.does("open('/dev/shm/secret', 'w').write('x'); open('/tmp/secret', 'w').write('x')")

    assert ann.does("answer = os.listdir('/dev/shm') + [n for n in os.listdir('/tmp') if n == 'secret']") == []
    assert not Path("/dev/shm/secret").exists()


@pytest.mark.parametrize("place", ["/tmp", "/home/ann"])
def test_links_lead_nowhere_on_the_host(ann: Student, place: str) -> None:
    seen = ann.does(
        f"link = {place!r} + '/link'\n"
        "os.path.lexists(link) and os.unlink(link)\n"
        "os.symlink('/etc/shadow', link)\n"
        "answer = tried(open, link)"
    )

    assert seen == "ENOENT"


def _addresses() -> list[str]:
    from labspawner.providers.local.network.egress import host_addresses

    return [address for address in host_addresses() if ":" not in address]


def test_a_flood_of_connections_through_the_keeper_leaves_the_other_student_alone(ann: Student, bob: Student) -> None:
    threads = [threading.Thread(target=ann.works) for _ in range(20)]
    for thread in threads:
        thread.start()

    assert bob.works()
    for thread in threads:
        thread.join()
