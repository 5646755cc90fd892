"""The double carries an unmodified KubeSpawner, and a storm of pods at little cost."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from kube.asking import Watching, a_pod, ask, is_ready

from labspawner.testing.hub import free_ports
from labspawner.testing.kube import KubeDouble, a_node
from labspawner.testing.kube.images import Image
from labspawner.testing.kube.running import Start
from labspawner.testing.kube.still import StillRunner
from labspawner.testing.kube.world import World
from labspawner.testing.waiting import eventually_sync

# What KubeSpawner asks of the API for one start, poll, stop and delete_forever, as recorded; lists and watches aside.
WRITES = [
    ("create", "persistentvolumeclaims", 201),
    ("create", "pods", 201),
    ("delete", "pods", 200),
    ("delete", "persistentvolumeclaims", 200),
]


def test_an_unmodified_kubespawner_starts_polls_and_stops(
    new_double: Callable[..., KubeDouble], tmp_path: Path
) -> None:
    double = new_double()
    words = [sys.executable, str(Path(__file__).with_name("kubespawner_life.py")), double.namespace, double.image]
    environment = {**os.environ, "KUBECONFIG": str(double.kubeconfig(tmp_path))}

    ran = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600, check=False)

    assert ran.returncode == 0, ran.stderr[-3000:]
    saw = json.loads(ran.stdout)
    assert saw["url"].startswith("http://127.")
    assert (saw["alive"], saw["dead"]) == (None, 1)
    assert saw["reasons"] == ["Scheduled", "MissingClusterDNS", "Pulled", "Created", "Started"]
    told = [(request.verb, request.resource, request.status) for request in double.requests]
    assert [row for row in told if row[0] not in ("list", "watch")] == WRITES
    eventually_sync(lambda: double.pods() == [])


def test_a_storm_of_pods_is_ready_and_gone_again(new_double: Callable[..., KubeDouble]) -> None:
    double = new_double([a_node(cpu=1000, memory="4000Gi", pods=1000)], runs="still")
    names = [f"p{number}" for number in range(200)]
    with Watching(double, "pods?watch=1") as watching:
        for name in names:
            assert ask(double, "POST", "pods", a_pod(name, limits={"cpu": 1, "memory": "1Gi"}))[0] == 201
        eventually_sync(lambda: all(is_ready(double, name) for name in names[-1:]), 30.0)

        assert ask(double, "DELETE", "pods", {"gracePeriodSeconds": 1})[0] == 200

        eventually_sync(lambda: watching.kinds.count("DELETED") == 200, 30.0)
    assert double.requests.writes("pods") == 201


async def test_still_pods_that_are_closed_in_any_turn_of_the_loop_answer_no_more() -> None:
    for turns in range(6):
        runner, (port,) = StillRunner(World()), free_ports(1)
        address = runner.address()
        container = {"ports": [{"containerPort": port}]}
        runner.start(Start({}, container, Image(), address, {}, 0))
        for _ in range(turns):
            await asyncio.sleep(0)

        await runner.close()
        for _ in range(3):
            await asyncio.sleep(0)

        with socket.socket() as probe:
            assert probe.connect_ex((address, port)) != 0, turns


def test_it_runs_as_a_program(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "labspawner.testing.kube", str(tmp_path), "--runs", "still", "--nodes", "2"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as program:
        assert program.stdout is not None
        url, told = program.stdout.readline().strip(), program.stdout.readline().strip()
        program.terminate()
        code = program.wait(120)

    assert url.startswith("http://127.0.0.1:")
    assert Path(told.removeprefix("KUBECONFIG=")).read_text(encoding="utf-8").count(url) == 1
    assert code == 0


def test_a_closed_double_can_be_closed_again(kube_double: KubeDouble) -> None:
    kube_double.close()
    kube_double.close()

    with pytest.raises(RuntimeError, match="closed"):
        kube_double.pods()


def test_two_doubles_live_side_by_side(new_double: Callable[..., KubeDouble]) -> None:
    one, other = new_double(runs="still"), new_double(runs="still")
    one.apply(a_pod())
    eventually_sync(lambda: is_ready(one))

    assert one.url != other.url
    assert other.pods() == []
