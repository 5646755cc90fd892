"""The node agent between a kubelet and pretended cards: the real process, real gRPC, real slices in the containers."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from kube.agentlab import GIB, SMALL, AgentLab

from labspawner.errors import SetupError
from labspawner.gpu import selftest
from labspawner.gpu.libvgpu import find_library
from labspawner.gpu.pretend import find_driver
from labspawner.testing.kubelet import NotEnough

pytestmark = pytest.mark.timeout(900)
SELFTEST_INSIDE = "/etc/labspawner/selftest.py"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[AgentLab]:
    try:
        find_library()
        find_driver()
    except SetupError as exc:
        pytest.skip(str(exc.message))
    with AgentLab(tmp_path) as made:
        yield made


def test_a_granted_slice_is_enforced_in_the_started_process(lab: AgentLab):
    lab.ready()
    grant = lab.kubelet.admit("jhub", "jupyter-ann", {SMALL: 1})

    done = grant.run([sys.executable, "-I", "-S", selftest.__file__])

    found = json.loads(done.stdout)
    assert (done.returncode, found["verdict"], found["pretended"]) == (0, "passed", True), (found, done.stderr)
    checks = {one["check"]: one["ok"] for one in found["checks"]}
    assert checks["refusal"] is True
    assert checks["nvml-total"] is True


def test_two_pods_share_a_card_and_each_is_held_to_its_own_slice(lab: AgentLab):
    lab.ready()
    ann, bob = (lab.kubelet.admit("jhub", f"jupyter-{user}", {SMALL: 1}) for user in ("ann", "bob"))

    said = [lab.taker(ann, 6)[1], lab.taker(bob, 6)[1], lab.taker(ann, 0.5)[1]]

    assert said == [f"0 {6 * GIB}", f"0 {6 * GIB}", f"2 {6 * GIB}"]


def test_two_slices_of_one_card_are_one_larger_slice(lab: AgentLab):
    lab.ready()
    grant = lab.kubelet.admit("jhub", "jupyter-ann", {SMALL: 2})

    assert lab.taker(grant, 12)[1] == f"0 {12 * GIB}"
    with pytest.raises(NotEnough):
        lab.kubelet.admit("jhub", "jupyter-bob", {SMALL: 2})


def test_a_kubelet_that_starts_anew_is_told_again_and_pods_keep_their_slices(lab: AgentLab):
    lab.ready()
    grant = lab.kubelet.admit("jhub", "jupyter-ann", {SMALL: 1})
    process, _ = lab.taker(grant, 5)

    lab.kubelet.restart()
    lab.wait_for(lambda: lab.has(3))

    assert process.poll() is None
    assert lab.taker(grant, 2)[1] == f"2 {6 * GIB}"  # what the first process holds still counts
    assert len(lab.kubelet.said("Allocate")) == 1
    assert lab.taker(lab.kubelet.admit("jhub", "jupyter-bob", {SMALL: 1}), 6)[1].startswith("0 ")


def test_an_agent_that_starts_anew_offers_the_same_slices_and_touches_no_running_one(lab: AgentLab):
    first = lab.ready()
    before = set(lab.kubelet.health(SMALL))
    grant = lab.kubelet.admit("jhub", "jupyter-ann", {SMALL: 1})
    lab.taker(grant, 5)

    assert lab.stop(first) == 0
    assert not list(lab.kubelet.plugins.glob("labspawner-*"))
    lab.ready()

    assert set(lab.kubelet.health(SMALL)) == before
    assert lab.taker(grant, 2)[1] == f"2 {6 * GIB}"


def test_an_agent_that_was_killed_leaves_nothing_in_the_way_of_the_next(lab: AgentLab):
    first = lab.ready()
    (lab.kubelet.plugins / "labspawner-of-before.sock").touch()
    grant = lab.kubelet.admit("jhub", "jupyter-ann", {SMALL: 1})

    lab.stop(first, signal.SIGKILL)
    lab.ready()
    assert [path.name for path in lab.kubelet.plugins.glob("labspawner-*")] == ["labspawner-small.sock"]

    assert lab.taker(grant, 6)[1] == f"0 {6 * GIB}"
    assert lab.taker(lab.kubelet.admit("jhub", "jupyter-bob", {SMALL: 1}), 6)[1].startswith("0 ")


def test_a_second_agent_waits_until_the_first_one_ends(lab: AgentLab):
    first = lab.ready()
    second = lab.start()
    lab.wait_for(lambda: "another agent is at work" in lab.log)
    assert len(lab.kubelet.said("Register")) == 1

    lab.stop(first)
    lab.wait_for(lambda: len(lab.kubelet.said("Register")) == 2 and lab.has(3))

    assert lab.stop(second) == 0


def test_a_card_that_falls_off_the_bus_takes_its_free_slices_and_leaves_running_pods_alone(lab: AgentLab):
    lab.cards = "2x24564MiB"
    lab.ready(count=6)
    grant = lab.kubelet.admit("jhub", "jupyter-ann", {SMALL: 1})
    process, _ = lab.taker(grant, 1)

    lab.meddle("lose", "1")
    lab.wait_for(lambda: lab.has(3))
    dead = [one for one, health in lab.kubelet.health(SMALL).items() if health == "Unhealthy"]
    lab.meddle("restore", "1")
    lab.wait_for(lambda: lab.has(6))

    assert len(dead) == 3
    assert not set(dead) & set(grant.devices[SMALL])
    assert process.poll() is None


def test_an_agent_waits_for_a_kubelet_that_is_not_there(lab: AgentLab):
    lab.kubelet.stop()
    lab.start()
    lab.wait_for(lambda: "not registered" in lab.log)

    lab.kubelet.start()

    lab.wait_for(lambda: lab.has(3))


def test_the_node_says_who_has_which_slice_and_what_its_test_came_to(lab: AgentLab):
    lab.ready()
    grant = lab.kubelet.admit("jhub", "jupyter-ann", {SMALL: 1})
    found = lab.wait_for(lambda: (said := lab.api.inventory()) is not None and said.of_pod("jhub", "jupyter-ann"))
    assert (found[0].class_name, found[0].container, found[0].tested) == ("small", "notebook", "pending")

    begun = "from labspawner.extension.slices import begin_test; import os; begin_test(os.environ).join()"
    done = grant.run([sys.executable, "-c", begun])

    assert done.returncode == 0, done.stderr
    lab.wait_for(lambda: lab.api.inventory().of_pod("jhub", "jupyter-ann")[0].tested == "passed")
    path, _, body = lab.api.patches[-1]
    assert path == "/api/v1/nodes/labnode"
    assert list(body) == ["metadata"]
    card = lab.api.inventory().cards[0]
    assert (card.memory_mib, card.healthy, card.classes["small"].used, card.classes["small"].count) == (
        24564,
        True,
        1,
        3,
    )


def test_prometheus_reads_cards_and_slices(lab: AgentLab):
    lab.ready(metrics="127.0.0.1:0")
    lab.taker(lab.kubelet.admit("jhub", "jupyter-ann", {SMALL: 1}), 2)
    port = re.search(r"metrics are served at 127.0.0.1:(\d+)", lab.log)[1]

    def used() -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            text = answer.read().decode()
        found = re.search(
            r"^labspawner_gpu_slice_memory_used_bytes\{.*pod=\"jupyter-ann\".*\} (\S+)$", text, re.MULTILINE
        )
        return found is not None and float(found[1]) >= 2 * GIB

    lab.wait_for(used)


def test_an_api_server_that_refuses_stops_nothing_and_is_said_once(lab: AgentLab):
    lab.api.status = 403
    lab.ready()
    lab.wait_for(lambda: "hubs are not told" in lab.log)
    lab.taker(lab.kubelet.admit("jhub", "jupyter-ann", {SMALL: 1}), 1)

    lab.api.status = 200
    lab.wait_for(lambda: lab.api.inventory() is not None and lab.api.inventory().slices)

    assert lab.log.count("hubs are not told") == 1


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has a GPU")
def test_a_node_without_a_gpu_offers_nothing_says_so_once_and_ends_cleanly(lab: AgentLab):
    agent = lab.start(pretend=None)
    lab.wait_for(lambda: "no GPU slices on this node" in lab.log)

    assert lab.stop(agent) == 0
    assert lab.kubelet.calls == []
    assert lab.log.count("no GPU slices on this node") == 1


def test_a_layout_that_does_not_fit_is_refused_with_the_numbers(lab: AgentLab):
    agent = lab.start(classes={"small": {"memory": "6GiB", "cores": 25, "per_card": 4}})

    assert agent.wait(300) == 1
    assert "4 x small of 6144 MiB are 24576 MiB" in lab.log
    assert "24564 MiB" in lab.log
    assert "per_card: 3" in lab.log


def test_nothing_is_left_but_what_slices_need(lab: AgentLab):
    agent = lab.ready()
    lab.kubelet.admit("jhub", "jupyter-ann", {SMALL: 1}).end()

    lab.stop(agent)

    assert sorted(os.listdir(lab.state)) == ["lock", "new", "node", "old", "pretended", "slices"]
    assert len(os.listdir(lab.state / "slices")) == 3
