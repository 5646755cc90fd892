"""Who reaches whom by the policies that an installation makes: judged as Kubernetes judges NetworkPolicies."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from helm.rendering import RELEASE, Chart, Object, Rendered, at, values_of

from labspawner.naming import new_lease_id
from labspawner.providers.kubernetes.manifest import Marks

HERE = "teaching"


@dataclass(frozen=True)
class Peer:
    """A pod, or without labels an address outside of the cluster."""

    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str = HERE
    address: str = "10.42.0.9"


def official(component: str, **more: str) -> Peer:
    return Peer({"app": "jupyterhub", "component": component, "release": RELEASE, **more})


HUB, PROXY = official("hub"), official("proxy")


def server(hub_id: str, user: str) -> Peer:
    """As the provider marks it."""
    marks = Marks(lease_id=new_lease_id(), hub_id=hub_id, provider="kubernetes", user=user)
    return official("singleuser-server", **{"hub.jupyter.org/network-access-hub": "true"}, **marks.labels())


SERVER, NEIGHBOUR, SERVER_OF_ANOTHER_HUB = (
    server("teaching-lab", "ann"),
    server("teaching-lab", "bob"),
    server("x", "eve"),
)
NAMES = Peer({"k8s-app": "kube-dns"}, namespace="kube-system")


def outside(address: str) -> Peer:
    return Peer(address=address)


def selects(selector: Object, labels: Mapping[str, str]) -> bool:
    return selector.get("matchLabels", {}).items() <= dict(labels).items()


def matches(rule: Object, peer: Peer) -> bool:
    if "ipBlock" in rule:
        address, block = ipaddress.ip_address(peer.address), rule["ipBlock"]
        if peer.labels or address not in ipaddress.ip_network(block["cidr"]):
            return False
        return not any(address in ipaddress.ip_network(each) for each in block.get("except", ()))
    if not peer.labels:
        return False
    if "namespaceSelector" in rule:
        if not selects(rule["namespaceSelector"], {"kubernetes.io/metadata.name": peer.namespace}):
            return False
    elif peer.namespace != HERE:
        return False
    return selects(rule.get("podSelector", {}), peer.labels)


def _of_the_official_chart() -> list[Object]:
    """Its policies for hub and proxy, as version 4 makes them: who connects to the hub, and to whom the proxy does."""

    def rule(way: str, labels: Mapping[str, str], port: int) -> Object:
        return {way: [{"podSelector": {"matchLabels": dict(labels)}}], "ports": [{"port": port}]}

    hub = {
        "podSelector": {"matchLabels": dict(HUB.labels)},
        "policyTypes": ["Ingress"],
        "ingress": [rule("from", {"hub.jupyter.org/network-access-hub": "true"}, 8081)],
    }
    proxy = {
        "podSelector": {"matchLabels": dict(PROXY.labels)},
        "policyTypes": ["Egress"],
        "egress": [rule("to", HUB.labels, 8081), rule("to", official("singleuser-server").labels, 8888)],
    }
    return [{"metadata": {}, "spec": spec} for spec in (hub, proxy)]


def allowed(rendered: Rendered, subject: Peer, peer: Peer, port: int, *, way: str, protocol: str = "TCP") -> bool:
    """Whether `subject` may send to (`Egress`) or be reached by (`Ingress`) `peer`."""
    policies = [
        each["spec"]
        for each in [*rendered.all("NetworkPolicy"), *_of_the_official_chart()]
        if each["metadata"].get("namespace", HERE) == subject.namespace
        and selects(each["spec"]["podSelector"], subject.labels)
        and way in each["spec"]["policyTypes"]
    ]
    if not policies:
        return True
    key, ends = ("egress", "to") if way == "Egress" else ("ingress", "from")
    return any(
        any(matches(end, peer) for end in rule[ends]) if ends in rule else True
        for policy in policies
        for rule in policy.get(key, ())
        if "ports" not in rule
        or any(each.get("port") == port and each.get("protocol", "TCP") == protocol for each in rule["ports"])
    )


def reaches(rendered: Rendered, source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    """Whether a connection from `source` to `target` comes about: both ends must let it."""
    return allowed(rendered, source, target, port, way="Egress", protocol=protocol) and allowed(
        rendered, target, source, port, way="Ingress", protocol=protocol
    )


@pytest.fixture(scope="module")
def by_default(chart: Chart) -> Rendered:
    return chart.render(values_of("minimal"))


@pytest.fixture(scope="module")
def locked_down(chart: Chart) -> Rendered:
    return chart.render(values_of("locked-down"))


def test_hub_and_proxy_reach_servers(by_default: Rendered) -> None:
    assert reaches(by_default, HUB, SERVER, 8888)
    assert reaches(by_default, PROXY, SERVER, 8888)


def test_a_server_reaches_the_hubs_api_and_nothing_else_of_the_hub(by_default: Rendered) -> None:
    assert reaches(by_default, SERVER, HUB, 8081)
    assert not reaches(by_default, SERVER, HUB, 22)
    assert not reaches(by_default, SERVER, PROXY, 8001)


def test_the_proxy_and_the_hub_itself_reach_the_console_and_nobody_else_does(by_default: Rendered) -> None:
    assert reaches(by_default, PROXY, HUB, 8082)
    assert reaches(by_default, HUB, HUB, 8082)
    for stranger in (SERVER, NEIGHBOUR, Peer({"app": "somebody"}), Peer(PROXY.labels, namespace="elsewhere")):
        assert not reaches(by_default, stranger, HUB, 8082)


def test_the_port_of_the_console_opens_no_other_and_goes_with_it(chart: Chart, locked_down: Rendered) -> None:
    moved = chart.render(values_of("minimal"), at("console.port", 8090))

    assert reaches(moved, PROXY, HUB, 8090)
    assert not reaches(moved, PROXY, HUB, 8082)
    assert not reaches(locked_down, PROXY, HUB, 8082)
    assert [each["metadata"]["name"] for each in locked_down.all("NetworkPolicy")] == [
        "labspawner-agent",
        "labspawner-servers",
    ]


@pytest.mark.parametrize(
    ("path", "name"),
    [("jupyterhub.hub.networkPolicy.enabled", "labspawner-console"),
     ("jupyterhub.proxy.chp.networkPolicy.enabled", "labspawner-proxy")],
)  # fmt: skip
def test_where_the_official_chart_guards_a_pod_by_nothing_ours_does_not_shut_it_off(
    chart: Chart, path: str, name: str
) -> None:
    names = {each["metadata"]["name"] for each in chart.render(values_of("minimal")).all("NetworkPolicy")}
    without = {
        each["metadata"]["name"] for each in chart.render(values_of("minimal"), at(path, False)).all("NetworkPolicy")
    }

    assert name in names
    assert without == names - {name}


def test_students_do_not_reach_each_other(by_default: Rendered) -> None:
    assert not reaches(by_default, SERVER, NEIGHBOUR, 8888)
    assert not reaches(by_default, SERVER_OF_ANOTHER_HUB, SERVER, 8888)
    assert not reaches(by_default, Peer({"app": "somebody"}, namespace="elsewhere"), SERVER, 8888)


@pytest.mark.parametrize("address", ["169.254.169.254", "100.100.100.200", "168.63.129.16", "fd00:ec2::254"])
def test_a_server_reaches_no_place_where_clouds_hand_out_credentials(by_default: Rendered, address: str) -> None:
    assert not reaches(by_default, SERVER, outside(address), 80)


@pytest.mark.parametrize("address", ["10.0.0.5", "172.16.3.3", "192.168.1.1", "100.64.0.1", "fd12::1", "fe80::1"])
def test_private_networks_are_no_internet(by_default: Rendered, address: str) -> None:
    assert not reaches(by_default, SERVER, outside(address), 443)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111"])
def test_the_internet_can_be_on_or_off(by_default: Rendered, locked_down: Rendered, address: str) -> None:
    assert reaches(by_default, SERVER, outside(address), 443)
    assert not reaches(locked_down, SERVER, outside(address), 443)


def test_names_are_found_also_without_internet(by_default: Rendered, locked_down: Rendered) -> None:
    for rendered in (by_default, locked_down):
        assert reaches(rendered, SERVER, NAMES, 53, "UDP")
        assert reaches(rendered, SERVER, NAMES, 53, "TCP")
        assert not reaches(rendered, SERVER, NAMES, 443)
    assert reaches(by_default, SERVER, outside("169.254.20.10"), 53, "UDP")
    assert not reaches(by_default, SERVER, outside("169.254.20.10"), 80)


def test_what_the_values_open_is_open(locked_down: Rendered) -> None:
    assert reaches(locked_down, SERVER, outside("10.20.0.5"), 443)
    assert not reaches(locked_down, SERVER, outside("10.20.0.6"), 443)


def test_nobody_reaches_an_agent_but_for_metrics_that_are_wanted(chart: Chart) -> None:
    labels = {"app.kubernetes.io/instance": RELEASE, "app.kubernetes.io/component": "agent"}
    agent = Peer(labels, namespace="labspawner-agents")
    prometheus = Peer({"app": "prometheus"}, namespace="monitoring")
    with_metrics = chart.render(values_of("device-plugin"))
    without = chart.render(values_of("device-plugin"), at("monitoring.enabled", False))

    policy = with_metrics.the("NetworkPolicy", "labspawner-agent")
    assert [each["port"] for rule in policy["spec"]["ingress"] for each in rule["ports"]] == ["metrics"]
    assert not allowed(with_metrics, agent, prometheus, 22, way="Ingress")
    assert not allowed(without, agent, prometheus, 9445, way="Ingress")


def test_policies_can_be_left_to_the_administrator(chart: Chart) -> None:
    assert chart.render(values_of("minimal"), at("networkPolicy.enabled", False)).all("NetworkPolicy") == []
