"""A real hub on the cluster's double: killed, beside another one, and without its API server; nothing is lost or leaked."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from labspawner.model import Phase
from labspawner.naming import new_lease_id
from labspawner.testing.hub import RealHub
from labspawner.testing.kube import KubeDouble
from labspawner.testing.waiting import eventually_sync
from labspawner.testing.web import Client

pytestmark = pytest.mark.hub

LEASE, HUB = "labspawner.io/lease", "labspawner.io/hub"
FAILURES = 6  # of a reconciler that looks every 0.3 s
LONG_S = 30.0  # times PATIENCE
COURSE = """
course: dl101
title: Deep Learning
profiles:
  - slug: lab
    title: JupyterLab
    variants: [{{provider: kubernetes, image: "{image}", cpu: 0.1, memory: 64MiB}}]
"""
NewHub = Callable[..., RealHub]


@pytest.fixture
def still(new_double: Callable[..., KubeDouble]) -> KubeDouble:
    """A cluster whose pods answer without a process."""
    return new_double(runs="still")


@pytest.fixture
def new_hub(still: KubeDouble, tmp_path: Path) -> Iterator[NewHub]:
    """Hubs on that cluster, each in a folder of its own, which run; nothing of them is left afterwards."""
    made: list[RealHub] = []

    def make() -> RealHub:
        folder = tmp_path / f"hub-{len(made)}"
        folder.mkdir()
        provider = {"kubeconfig": str(still.kubeconfig(folder)), "namespace": still.namespace, "patience_s": 2.0}
        hub = RealHub(
            folder,
            courses={"dl101.yaml": COURSE.format(image=still.image)},
            groups={"course-dl101": ["ann", "bob", "carl"]},
            providers={"kubernetes": provider},
        )
        made.append(hub)
        hub.start()
        return hub

    yield make
    for hub in made:
        hub.close()


def pods_of(cluster: KubeDouble, hub: RealHub) -> dict[str, str]:
    """The uids of the hub's pods, by lease."""
    found = [pod["metadata"] for pod in cluster.pods() if pod["metadata"]["labels"].get(HUB) == hub.hub_id]
    return {metadata["labels"][LEASE]: metadata["uid"] for metadata in found}


def all_is_held(cluster: KubeDouble, hub: RealHub) -> bool:
    """Each lease is ready and has its pod, and no pod is without a lease."""
    leases = hub.leases()
    return all(lease.phase is Phase.READY for lease in leases) and set(pods_of(cluster, hub)) == {
        str(lease.id) for lease in leases
    }


def an_orphan(cluster: KubeDouble, hub: RealHub) -> str:
    """A pod with this hub's labels, of a lease that nobody knows; its name."""
    model = next(pod for pod in cluster.pods() if pod["metadata"]["labels"].get(HUB) == hub.hub_id)
    labels = {**model["metadata"]["labels"], LEASE: new_lease_id()}
    spec: dict[str, Any] = {key: value for key, value in copy.deepcopy(model["spec"]).items() if key != "nodeName"}
    name = f"orphan-{labels[LEASE]}"
    cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec})
    return name


def wait_for_two_looks(cluster: KubeDouble, hub: RealHub) -> None:
    """Return when the hub's reconciler has ended an orphan, which takes it two listings."""
    name = an_orphan(cluster, hub)
    eventually_sync(lambda: name not in {pod["metadata"]["name"] for pod in cluster.pods()}, LONG_S, "the orphan ends")


def failed_looks(hub: RealHub) -> float:
    """How many listings of the reconciler have failed."""
    text = hub.api.call("GET", "/hub/metrics").text
    lines = [line for line in text.splitlines() if line.startswith("labspawner_reconciler_failures_total")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def has_started_or_was_told(hub: RealHub, user: str) -> bool:
    """Whether the user has a server that is ready, or none at all."""
    return all(server["ready"] for server in hub.servers(user).values())


def test_a_hub_that_was_killed_finds_its_pods_again_and_frees_the_half_made_one(new_hub: NewHub, still: KubeDouble):
    hub = new_hub()
    for user in ("ann", "bob"):
        hub.start_server(user, "dl101/lab")
    before = {lease.user: lease for lease in hub.leases()}
    pods = pods_of(still, hub)
    still.faults.pause_scheduler()
    assert hub.ask("carl", {"profile": "dl101/lab"}).status == 202
    eventually_sync(lambda: len(still.pods()) == 3, LONG_S, "the third pod is made")

    hub.kill()
    still.faults.pause_scheduler(False)
    hub.start()

    eventually_sync(lambda: all_is_held(still, hub), LONG_S, "every pod has a lease that is ready")
    now = {lease.user: lease for lease in hub.leases()}
    for user, lease in before.items():
        assert hub.wait_ready(user)
        assert (now[user].id, now[user].handle, now[user].url) == (lease.id, lease.handle, lease.url)
        assert pods_of(still, hub)[lease.id] == pods[lease.id]


def test_two_hubs_in_one_namespace_leave_each_others_pods_alone(new_hub: NewHub, still: KubeDouble):
    one, other = new_hub(), new_hub()
    for hub in (one, other):
        hub.start_server("ann", "dl101/lab")
    mine, theirs = pods_of(still, one), pods_of(still, other)

    wait_for_two_looks(still, one)
    wait_for_two_looks(still, other)
    assert (pods_of(still, one), pods_of(still, other)) == (mine, theirs)
    one.stop_server("ann")

    assert pods_of(still, one) == {}
    wait_for_two_looks(still, other)
    assert pods_of(still, other) == theirs
    assert other.servers("ann")[""]["ready"]


def test_nothing_is_lost_while_the_api_server_is_away(new_hub: NewHub, still: KubeDouble):
    hub = new_hub()
    hub.start_server("ann", "dl101/lab")
    lease, pods = hub.lease("ann"), pods_of(still, hub)

    still.faults.down()
    eventually_sync(lambda: failed_looks(hub) >= FAILURES, LONG_S, "several listings have failed")
    assert hub.servers("ann")[""]["ready"]
    assert hub.lease("ann") == lease
    assert Client(lease.url).call("GET", "/user/ann/api").status == 200
    assert hub.ask("bob", {"profile": "dl101/lab"}).status in {202, 503}
    still.faults.up()

    eventually_sync(lambda: has_started_or_was_told(hub, "bob"), LONG_S, "the start of bob has come to an end")
    hub.start_server("carl", "dl101/lab")
    wait_for_two_looks(still, hub)
    assert hub.lease("ann") == lease
    assert hub.servers("ann")[""]["ready"]
    assert pods_of(still, hub)[lease.id] == pods[lease.id]
    eventually_sync(lambda: all_is_held(still, hub), LONG_S, "every lease has its pod")
