"""Where a server listens, and what it and its keeper are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from labspawner.providers.local.confinement import Network
from labspawner.providers.local.network.address import at_port, at_socket, hub_inside
from labspawner.providers.local.network.plan import network_plan

HUB_SOCKET = Path("/run/labspawner/hub/hub.sock")


def test_a_server_behind_a_socket_listens_on_a_port_of_its_own_loopback() -> None:
    address = at_socket("/run/labspawner/hub/l1/server.sock")

    assert address.url == "http+unix://%2Frun%2Flabspawner%2Fhub%2Fl1%2Fserver.sock"
    assert (address.url_inside, address.port_inside, address.port) == ("http://127.0.0.1:8888", 8888, None)


def test_a_server_behind_a_socket_leaves_the_hub_its_port() -> None:
    assert at_socket("/run/labspawner/hub/l1/server.sock", hub_port=8888).url_inside == "http://127.0.0.1:8889"


@pytest.mark.parametrize("path", ["/run/Hub/server.sock", "/run/" + "x" * 100, "/run/é/server.sock"])
def test_a_path_that_would_be_garbled_on_the_way_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="not a path"):
        at_socket(path)


def test_a_port_is_the_same_inside() -> None:
    address = at_port(41234)

    assert (address.port, address.port_inside, address.socket) == (41234, 41234, None)
    assert address.url == address.url_inside == "http://127.0.0.1:41234"


def of_hub(url: str, **more: str) -> dict[str, str]:
    return {"JUPYTERHUB_API_URL": url, "JUPYTERHUB_ACTIVITY_URL": f"{url}/users/ann/activity", "HOME": "/h", **more}


@pytest.mark.parametrize(
    ("outside", "inside", "port"),
    [
        ("http://127.0.0.1:8081/hub/api", "http://127.0.0.1:8081/hub/api", 8081),
        ("http://127.0.0.1:9999/x/hub/api", "http://127.0.0.1:9999/x/hub/api", 9999),
        ("http://lab.example:8085/hub/api", "http://127.0.0.1:8085/hub/api", 8085),
        ("http://[::1]:8085/hub/api", "http://127.0.0.1:8085/hub/api", 8085),
        ("https://192.0.2.7:8081/hub/api", "http://127.0.0.1:8081/hub/api", 8081),
        ("http+unix://%2Frun%2Fhub.sock/hub/api", "http://127.0.0.1:8081/hub/api", 8081),
        ("http://lab.example/hub/api", "http://127.0.0.1:8081/hub/api", 8081),
    ],
)
def test_the_hub_is_on_the_sandboxs_own_loopback_wherever_it_is_outside(outside: str, inside: str, port: int) -> None:
    environment, listened = hub_inside(of_hub(outside))

    assert environment == of_hub(inside)
    assert listened == port


@pytest.mark.parametrize(("taken", "port"), [(8085, 8086), (65535, 8081)])
def test_hub_and_server_do_not_meet_on_one_port(taken: int, port: int) -> None:
    environment, listened = hub_inside(of_hub(f"http://lab.example:{taken}/hub/api"), avoid=taken)

    assert listened == port
    assert environment["JUPYTERHUB_API_URL"] == f"http://127.0.0.1:{port}/hub/api"


def test_an_environment_without_a_hub_stays_as_it_is() -> None:
    assert hub_inside({"HOME": "/h"}) == ({"HOME": "/h"}, 8081)


def a_plan(network: Network, address: Any = None, **changes: Any) -> Any:
    address = address or at_socket("/run/labspawner/hub/l1/server.sock")
    return network_plan(network, address, hub_port=8081, hub_socket=HUB_SOCKET, **changes)


def test_a_server_on_the_hosts_network_needs_no_plan() -> None:
    assert a_plan(Network.HOST, at_port(41234)) is None


def test_without_egress_there_is_only_the_way_to_the_hub_and_the_way_in() -> None:
    plan = a_plan(Network.NONE, egress=("slirp4netns",), deny=("192.0.2.2/32",))

    pump, front = plan["pumps"]
    assert (pump["in"], pump["listen"], pump["to"]) == (
        "sandbox",
        {"tcp": ["127.0.0.1", 8081]},
        {"unix": str(HUB_SOCKET)},
    )
    assert front == {
        "in": "host",
        "listen": {"unix": "/run/labspawner/hub/l1/server.sock"},
        "to": {"tcp": ["127.0.0.1", 8888]},
    }
    assert (plan["deny"], plan["egress"]) == ([], None)


def test_a_server_on_a_port_is_reached_through_its_keeper() -> None:
    plan = a_plan(Network.NONE, at_port(41234, ip="127.0.0.2"))

    assert {
        "in": "host",
        "listen": {"tcp": ["127.0.0.2", 41234]},
        "to": {"tcp": ["127.0.0.1", 41234]},
    } in plan["pumps"]


def test_egress_has_its_command_what_it_may_not_reach_and_the_marks() -> None:
    plan = a_plan(Network.EGRESS, egress=("slirp4netns", "-c"), deny=("192.0.2.2/32",), marks={"LABSPAWNER_X": "y"})

    assert plan["deny"] == ["192.0.2.2/32"]
    assert plan["egress"] == {"argv": ["slirp4netns", "-c"], "env": {"LABSPAWNER_X": "y"}}


def test_egress_without_a_way_is_an_error_not_a_silent_none() -> None:
    with pytest.raises(ValueError, match="no way"):
        a_plan(Network.EGRESS)
