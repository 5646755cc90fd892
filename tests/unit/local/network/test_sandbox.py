"""From inside a real sandbox: what is reached, and what is not."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from unit.local.network.sandboxes import Student, a_greeter, a_keeper, a_student, a_world, why_not

from labspawner.providers.local.confinement import Network
from labspawner.providers.local.network.address import Address, at_port, at_socket
from labspawner.providers.local.network.egress import denied, find_egress, host_addresses
from labspawner.providers.local.network.plan import network_plan
from labspawner.providers.processes import marks, walk
from labspawner.testing.hub import free_ports, new_hub_id
from labspawner.testing.waiting import eventually_sync

HUB_ID = new_hub_id()


@pytest.fixture(params=["as the hub's user", "as nobody"])
def as_nobody(request: pytest.FixtureRequest) -> bool:
    if reason := why_not(as_nobody=request.param == "as nobody"):
        pytest.skip(reason)
    return bool(request.param == "as nobody")


@pytest.fixture
def student(as_nobody: bool) -> Iterator[Student]:
    with a_student(as_nobody=as_nobody) as student:
        yield student


class Hub:
    """Stands for the hub: it answers each line at `hub.sock` with the same line."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "hub.sock"
        self.fronts = folder / "fronts"
        self.fronts.mkdir()
        self.fronts.chmod(0o777)
        (self.port,) = free_ports(1)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(self.path))
        self._socket.listen(100)
        self.path.chmod(0o666)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            accepted, _ = self._socket.accept()
            with accepted, accepted.makefile("rw") as file:
                line = file.readline()
                if line == "end\n":
                    return
                with contextlib.suppress(OSError):
                    file.write(line)
                    file.flush()

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(str(self.path))
            last.sendall(b"end\n")
            self._thread.join(120)
        self._socket.close()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with tempfile.TemporaryDirectory(prefix="labspawner-", dir="/tmp") as name:
        Path(name).chmod(0o711)
        hub = Hub(Path(name))
        yield hub
        hub.close()


def plan_for(hub: Hub, network: Network = Network.NONE, address: Address | None = None, **changes: Any) -> Any:
    if network is Network.EGRESS:
        egress = find_egress()
        if not egress.available:
            pytest.skip(str(egress.missing))
        changes = {"egress": egress.command, "deny": denied(), **changes}
    marked = marks("l" + "n" * 15, hub_id=HUB_ID, provider="local", user="s")  # type: ignore[arg-type]
    address = address or at_socket(f"{hub.fronts}/{secrets.token_hex(4)}.sock")
    return network_plan(network, address, hub_port=hub.port, hub_socket=hub.path, marks=marked, **changes)


def slirps() -> list[int]:
    return [process.pid for process in walk().marked if process.hub_id == HUB_ID]


ASK_HUB = """
import socket
with socket.create_connection(("127.0.0.1", port), timeout=60) as s:
    s.sendall(b"ping\\n")
    answer = s.makefile().readline()
"""


def test_the_hub_is_reached_at_its_address_and_nothing_else_is(student: Student, hub: Hub, as_nobody: bool) -> None:
    with a_keeper(student, plan_for(hub), as_nobody=as_nobody), a_greeter("127.0.0.1") as secret:
        assert student.run(ASK_HUB, port=hub.port) == "ping\n"
        assert "refused" in student.connect("127.0.0.1", secret)
        for address in host_addresses():
            if ":" not in address:
                assert "unreachable" in student.connect(address, secret).lower()


def test_without_a_keeper_there_is_no_hub(student: Student, hub: Hub, as_nobody: bool) -> None:
    with a_keeper(student, plan_for(hub), as_nobody=as_nobody) as keeper:
        keeper.kill()
        keeper.wait()

        assert "refused" in student.run(ASK_HUB, port=hub.port)


def test_a_server_on_a_port_inside_is_reached_at_the_same_port_outside(
    student: Student, hub: Hub, as_nobody: bool
) -> None:
    (port,) = free_ports(1)
    student.run(
        "import socket, threading\n"
        "s = socket.create_server(('127.0.0.1', port))\n"
        "def serve():\n"
        "    while True:\n"
        "        c, _ = s.accept(); c.sendall(b'from inside\\n'); c.close()\n"
        "threading.Thread(target=serve, daemon=True).start()",
        port=port,
    )
    with (
        a_keeper(student, plan_for(hub, address=at_port(port)), as_nobody=as_nobody),
        socket.create_connection(("127.0.0.1", port), timeout=60) as client,
    ):
        assert client.makefile().readline() == "from inside\n"


def test_a_student_reaches_neither_the_servers_nor_the_abstract_sockets_of_others(
    student: Student, hub: Hub, as_nobody: bool
) -> None:
    (port,) = free_ports(1)
    with (
        a_student(as_nobody=as_nobody) as other,
        a_keeper(other, plan_for(hub, address=at_port(port)), as_nobody=as_nobody),
        a_keeper(student, plan_for(hub), as_nobody=as_nobody),
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        name = f"\0labspawner-test-{os.getpid()}"
        abstract.bind(name)
        abstract.listen()

        assert "refused" in student.connect("127.0.0.1", port)
        assert "refused" in student.run(
            "import socket; answer = socket.socket(socket.AF_UNIX).connect(name) or 'connected'", name=name
        )


def test_nothing_of_the_world_is_reached_without_egress(student: Student, hub: Hub, as_nobody: bool) -> None:
    with a_keeper(student, plan_for(hub), as_nobody=as_nobody):
        assert "unreachable" in student.connect("198.51.100.7", 80).lower()
        assert student.run("import os; answer = sorted(os.listdir('/sys/class/net'))") is not None
        assert student.run("import socket; answer = [name for _, name in socket.if_nameindex()]") == ["lo"]


@pytest.fixture
def world() -> Iterator[list[str]]:
    if os.geteuid() != 0:
        pytest.skip("only root can make another machine")
    try:
        with a_world("198.51.100.7", "198.51.100.1") as inside:
            yield list(inside)
    except subprocess.CalledProcessError as exc:
        pytest.skip(f"no other machine can be made here: {exc.stderr!r}")


def test_egress_reaches_the_world(student: Student, hub: Hub, as_nobody: bool, world: list[str]) -> None:
    with (
        a_greeter("198.51.100.7", inside=world) as tcp,
        a_greeter("198.51.100.7", kind="udp", inside=world) as udp,
        a_keeper(student, plan_for(hub, Network.EGRESS), as_nobody=as_nobody),
    ):
        assert student.connect("198.51.100.7", tcp) == "connected: hello from 198.51.100.7"
        assert (
            student.run(
                "import socket\n"
                "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(60)\n"
                "s.sendto(b'udp', ('198.51.100.7', port)); answer = s.recv(100).decode()",
                port=udp,
            )
            == "hello udp"
        )
        assert student.run(ASK_HUB, port=hub.port) == "ping\n"


def test_egress_never_reaches_this_machine(student: Student, hub: Hub, as_nobody: bool, world: list[str]) -> None:
    """Hub, proxy API, database and the servers of others may well listen on every address."""
    del world  # one address more
    with (
        a_greeter("0.0.0.0") as everywhere,
        a_greeter("127.0.0.1") as local,
        a_keeper(student, plan_for(hub, Network.EGRESS), as_nobody=as_nobody),
    ):
        addresses = [address for address in host_addresses() if ":" not in address]
        assert "198.51.100.1" in addresses
        for address in [*addresses, "127.0.0.1", "0.0.0.0", "10.0.2.2", "10.0.2.3", "10.0.2.255", "255.255.255.255"]:
            for port in (everywhere, local):
                assert not student.connect(address, port, timeout_s=0.5).startswith("connected"), (address, port)


@pytest.mark.parametrize("address", ["169.254.169.254", "100.100.100.200", "168.63.129.16", "169.254.1.1"])
def test_egress_never_reaches_the_clouds_metadata(student: Student, hub: Hub, as_nobody: bool, address: str) -> None:
    with a_keeper(student, plan_for(hub, Network.EGRESS), as_nobody=as_nobody):
        assert "No route to host" in student.connect(address, 80)


def test_what_is_denied_by_the_administrator_is_not_reached(
    student: Student, hub: Hub, as_nobody: bool, world: list[str]
) -> None:
    plan = plan_for(hub, Network.EGRESS, deny=denied(["198.51.100.0/24"]))
    with a_greeter("198.51.100.7", inside=world) as port, a_keeper(student, plan, as_nobody=as_nobody):
        assert "No route to host" in student.connect("198.51.100.7", port)


AROUND_THE_ROUTES = {
    "another interface": "s.setsockopt(socket.SOL_SOCKET, 25, b'tap0')",  # SO_BINDTODEVICE
    "no routing": "s.setsockopt(socket.SOL_SOCKET, 5, 1)",  # SO_DONTROUTE
    "a source route": "s.setsockopt(socket.IPPROTO_IP, 4, bytes([1, 131, 7, 4, 10, 0, 2, 2]))",  # IP_OPTIONS, LSRR
    "an interface by number": "s.setsockopt(0, 50, __import__('struct').pack('!I', socket.if_nametoindex('tap0')))",
    "a mark": "s.setsockopt(socket.SOL_SOCKET, 36, 1)",
}


@pytest.mark.parametrize("trick", AROUND_THE_ROUTES)
def test_no_trick_leads_around_the_routes(
    student: Student, hub: Hub, as_nobody: bool, world: list[str], trick: str
) -> None:
    del world
    with a_greeter("0.0.0.0") as port, a_keeper(student, plan_for(hub, Network.EGRESS), as_nobody=as_nobody):
        said = student.run(
            "import socket\n"
            "s = socket.socket(); s.settimeout(1)\n"
            f"{AROUND_THE_ROUTES[trick]}\n"
            "s.connect(('198.51.100.1', port)); answer = 'connected'",
            port=port,
        )
        assert said != "connected", said


@pytest.mark.parametrize(
    "source",
    [
        "import subprocess; answer = subprocess.run(['ip', 'route', 'del', 'unreachable', '169.254.0.0/16']).returncode",
        "import subprocess; answer = subprocess.run(['ip', 'addr', 'add', '169.254.9.9/32', 'dev', 'lo']).returncode",
        "import subprocess; answer = subprocess.run(['ip', 'link', 'set', 'tap0', 'down']).returncode",
        "import socket; answer = socket.socket(socket.AF_INET, socket.SOCK_RAW, 255).fileno()",
        "import socket; answer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW).fileno()",
        "import os; answer = os.open('/dev/net/tun', os.O_RDWR)",
    ],
)
def test_a_student_cannot_undo_the_routes(student: Student, hub: Hub, as_nobody: bool, source: str) -> None:
    with a_keeper(student, plan_for(hub, Network.EGRESS), as_nobody=as_nobody):
        answer = student.run(source)

        assert answer == 2 or "Error" in str(answer), answer


def test_the_way_to_the_world_is_marked_and_ends_with_its_keeper(student: Student, hub: Hub, as_nobody: bool) -> None:
    with a_keeper(student, plan_for(hub, Network.EGRESS), as_nobody=as_nobody) as keeper:
        found = eventually_sync(slirps)
        assert all("slirp4netns" in psutil.Process(pid).name() for pid in found)

        keeper.kill()
        keeper.wait()

        eventually_sync(lambda: not slirps())


def test_the_way_to_the_world_ends_when_the_keeper_ends_in_order(student: Student, hub: Hub, as_nobody: bool) -> None:
    with a_keeper(student, plan_for(hub, Network.EGRESS), as_nobody=as_nobody) as keeper:
        keeper.communicate(timeout=120)

        eventually_sync(lambda: not slirps())


def test_a_way_to_the_world_that_does_not_open_fails_the_start_and_says_why(
    student: Student, hub: Hub, as_nobody: bool
) -> None:
    plan = plan_for(hub, Network.EGRESS, egress=["/bin/sh", "-c", "echo not today >&2; exit 3"])

    with (
        pytest.raises(AssertionError, match="ended with status 3: not today"),
        a_keeper(student, plan, as_nobody=as_nobody),
    ):
        raise RuntimeError("it started")

    assert not slirps()
