"""Pods on the double: real processes, what breaks them, and that nothing of them is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from kube.asking import Watching, a_pod, ask, condition, is_gone, is_ready, phase, waiting_for

from labspawner.testing import tinyserver
from labspawner.testing.kube import Image, KubeDouble, NotAdmitted, Pace, a_node
from labspawner.testing.kube.sitter import MARK, marked
from labspawner.testing.waiting import eventually_sync

TINY = [{"name": "JUPYTERHUB_SERVICE_URL", "value": "http://0.0.0.0:8888/user/ada/"}]


@pytest.fixture
def double(new_double: Callable[..., KubeDouble]) -> KubeDouble:
    return new_double([a_node(memory="64Gi")])


def _answers(double: KubeDouble, name: str) -> bool:
    address = double.pod(name)["status"]["podIP"]
    try:
        with urllib.request.urlopen(f"http://{address}:8888/api", timeout=60) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _log(double: KubeDouble, name: str = "p", **query: str) -> str:
    more = "&".join(f"{key}={value}" for key, value in query.items())
    return str(ask(double, "GET", f"pods/{name}/log?{more}")[1])


def _state(double: KubeDouble, name: str = "p") -> dict[str, Any]:
    statuses = double.pod(name)["status"].get("containerStatuses") or [{"state": {}}]
    return dict(statuses[0]["state"])


# processes


def test_two_pods_listen_on_one_port_at_their_own_addresses(double: KubeDouble) -> None:
    for name in ("one", "two"):
        double.apply(a_pod(name, *tinyserver.command(), env=TINY))

    for name in ("one", "two"):
        eventually_sync(lambda name=name: is_ready(double, name) and _answers(double, name))

    addresses = {double.pod(name)["status"]["podIP"] for name in ("one", "two")}
    assert len(addresses) == 2
    assert all(address.startswith("127.") for address in addresses)


def test_a_container_sees_its_own_environment_and_nothing_of_ours(double: KubeDouble, monkeypatch: Any) -> None:
    monkeypatch.setenv("OF_THE_TEST", "1")
    env = [
        {"name": "WHO", "value": "ada"},
        {"name": "GREETING", "value": "hello $(WHO)"},
        {"name": "WHERE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
    ]
    double.apply(a_pod("p", "env", env=env))

    eventually_sync(lambda: phase(double) == "Succeeded")
    lines = _log(double).splitlines()

    assert {"GREETING=hello ada", "WHERE=labnode", "HOSTNAME=p"} <= set(lines)
    assert not [line for line in lines if line.startswith("OF_THE_TEST")]


def test_a_claim_at_the_images_home_keeps_files_from_pod_to_pod(double: KubeDouble) -> None:
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    double.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"}, "spec": claim})
    home = {
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}],
        "volumeMounts": [{"name": "v", "mountPath": "/home/jovyan"}],
    }
    double.apply(a_pod("writer", "sh", "-c", "echo kept > $HOME/file", **home))
    eventually_sync(lambda: phase(double, "writer") == "Succeeded")

    double.apply(a_pod("reader", "cat", "/home/jovyan/file", **home))
    eventually_sync(lambda: phase(double, "reader") == "Succeeded")

    assert _log(double, "reader") == "kept\n"


def test_a_deleted_pods_processes_end_with_all_that_they_started(double: KubeDouble) -> None:
    script = "import subprocess, time; subprocess.Popen(['sleep', '3600'], start_new_session=True); time.sleep(3600)"
    double.apply(a_pod("p", sys.executable, "-c", script))
    uid = double.pod("p")["metadata"]["uid"]
    mark = double.call(lambda inside: inside.kubelet.machine.runner._mark)  # type: ignore[attr-defined]
    eventually_sync(lambda: len(marked(f"{mark}/{uid}")) == 2, what="it and its child run")

    double.delete("pods", "p")

    eventually_sync(lambda: is_gone(double))
    eventually_sync(lambda: marked(mark) == [])


def test_a_pod_that_is_deleted_by_force_leaves_no_process(double: KubeDouble) -> None:
    double.apply(a_pod())
    eventually_sync(lambda: is_ready(double))
    mark = double.call(lambda inside: inside.kubelet.machine.runner._mark)  # type: ignore[attr-defined]

    double.delete("pods", "p", grace_s=0)

    assert is_gone(double)
    eventually_sync(lambda: marked(mark) == [])


_CREATOR = """
import sys, time
from kube.asking import a_pod, is_ready
from labspawner.testing.kube import KubeDouble
with KubeDouble() as double:
    double.apply(a_pod())
    while not is_ready(double):
        time.sleep(0.01)
    print(double.call(lambda inside: inside.kubelet.machine.runner._mark), double.folder, flush=True)
    time.sleep(3600)
"""


def test_nothing_is_left_when_the_creator_is_killed() -> None:
    tests = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(tests)}
    creator = subprocess.Popen([sys.executable, "-c", _CREATOR], stdout=subprocess.PIPE, text=True, env=environment)
    assert creator.stdout is not None
    mark, folder = creator.stdout.readline().split()
    assert len(marked(mark)) == 1

    creator.send_signal(signal.SIGKILL)
    creator.wait()
    creator.stdout.close()

    eventually_sync(lambda: marked(mark) == [] and not Path(folder).exists())


def test_closing_the_double_ends_its_pods(new_double: Callable[..., KubeDouble]) -> None:
    double = new_double()
    double.apply(a_pod())
    eventually_sync(lambda: is_ready(double))
    mark = double.call(lambda inside: inside.kubelet.machine.runner._mark)  # type: ignore[attr-defined]

    double.close()

    assert marked(mark) == []
    assert not double.folder.exists()
    assert MARK not in os.environ


# logs


def test_a_log_is_served_whole_and_in_part(double: KubeDouble) -> None:
    double.apply(a_pod("p", "sh", "-c", "echo one; echo two >&2; echo three"))
    eventually_sync(lambda: phase(double) == "Succeeded")

    assert _log(double) == "one\ntwo\nthree\n"
    assert _log(double, tailLines="1") == "three\n"
    assert _log(double, limitBytes="3") == "one"


def test_a_followed_log_ends_when_the_container_does(double: KubeDouble) -> None:
    double.apply(a_pod("p", "sh", "-c", "echo one; sleep 0.2; echo two"))
    eventually_sync(lambda: phase(double) != "Pending")

    assert _log(double, follow="true") == "one\ntwo\n"


# what breaks


def test_an_image_that_comes_later_ends_the_wait(double: KubeDouble) -> None:
    double.apply(a_pod(image="lab/late:1"))
    eventually_sync(lambda: waiting_for(double) == "ImagePullBackOff")

    double.add_image("lab/late:1")

    eventually_sync(lambda: is_ready(double))


def test_both_states_of_a_failing_pull_are_seen(new_double: Callable[..., KubeDouble]) -> None:
    images = {"lab/private:1": Image(present=False, pull_error="unauthorized: authentication required")}
    double = new_double(images=images)
    with Watching(double, "pods?watch=1") as watching:
        double.apply(a_pod(image="lab/private:1"))
        eventually_sync(lambda: waiting_for(double) == "ImagePullBackOff")
        eventually_sync(lambda: "ImagePullBackOff" in _reasons(watching))

    assert "ErrImagePull" in _reasons(watching)
    assert "unauthorized: authentication required" in _state(double)["waiting"]["message"]


def _reasons(watching: Watching) -> list[str]:
    states = [
        (line["object"]["status"].get("containerStatuses") or [{}])[0].get("state", {}) for line in watching.lines
    ]
    return [state["waiting"]["reason"] for state in states if "waiting" in state]


def test_a_secret_that_comes_later_ends_the_wait(double: KubeDouble) -> None:
    env = [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]
    double.apply(a_pod("p", "sh", "-c", "echo $KEY", env=env))
    eventually_sync(lambda: waiting_for(double) == "CreateContainerConfigError")

    double.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "b3Blbg=="}})

    eventually_sync(lambda: phase(double) == "Succeeded")
    assert _log(double) == "open\n"


def test_a_container_that_keeps_dying_backs_off(new_double: Callable[..., KubeDouble]) -> None:
    double = new_double(pace=Pace(restart_backoff_s=3600))
    double.apply(a_pod("p", "false", restartPolicy="OnFailure"))

    eventually_sync(lambda: waiting_for(double) == "CrashLoopBackOff")

    status = double.pod("p")["status"]["containerStatuses"][0]
    assert status["lastState"]["terminated"]["exitCode"] == 1
    assert status["restartCount"] == 2
    assert phase(double) == "Running"


def test_a_container_over_its_memory_limit_is_killed_for_it(double: KubeDouble) -> None:
    eat = "x = bytearray(300 << 20); import time; time.sleep(3600)"
    double.apply(a_pod("p", sys.executable, "-c", eat, limits={"memory": "100Mi"}))

    eventually_sync(lambda: phase(double) == "Failed")

    ended = _state(double)["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)


def test_an_evicted_pod_is_failed_with_the_reason(double: KubeDouble) -> None:
    double.apply(a_pod())
    eventually_sync(lambda: is_ready(double))

    double.evict("p")

    eventually_sync(lambda: phase(double) == "Failed")
    assert double.pod("p")["status"]["reason"] == "Evicted"
    assert "low on resource: memory" in double.pod("p")["status"]["message"]
    assert "Evicted" in [event["reason"] for event in double.events("p")]


@pytest.mark.parametrize(("out_of_memory", "reason"), [(True, "OOMKilled"), (False, "Error")])
def test_a_killed_container_says_why(double: KubeDouble, out_of_memory: bool, reason: str) -> None:
    double.apply(a_pod())
    eventually_sync(lambda: is_ready(double))

    double.kill("p", out_of_memory=out_of_memory)

    eventually_sync(lambda: phase(double) == "Failed")
    assert _state(double)["terminated"]["reason"] == reason


class OneDevice:
    """A device manager with a single device."""

    def __init__(self) -> None:
        self.held: str | None = None

    def allocate(self, node: str, pod: dict[str, Any], container: dict[str, Any]) -> Mapping[str, str]:
        if self.held is not None:
            raise NotAdmitted("rpc error: code = ResourceExhausted desc = no device left")
        self.held = pod["metadata"]["name"]
        return {"MY_DEVICE": "0"}

    def free(self, node: str, pod: dict[str, Any]) -> None:
        self.held = None


def test_a_device_manager_admits_pods_and_gives_them_an_environment(double: KubeDouble) -> None:
    devices = OneDevice()
    double.use_devices(devices)
    double.apply(a_pod("first", "sh", "-c", "echo $MY_DEVICE; sleep 3600"))
    eventually_sync(lambda: is_ready(double, "first"))

    double.apply(a_pod("second"))

    eventually_sync(lambda: phase(double, "second") == "Failed")
    status = double.pod("second")["status"]
    assert status["reason"] == "UnexpectedAdmissionError"
    assert status["message"].startswith("Pod was rejected: Allocate failed due to rpc error")
    eventually_sync(lambda: _log(double, "first") == "0\n")
    double.delete("pods", "first")
    eventually_sync(lambda: devices.held is None)


def test_a_readiness_probe_holds_ready_back(double: KubeDouble, tmp_path: Path) -> None:
    probe = {"exec": {"command": ["test", "-e", str(tmp_path / "ready")]}, "periodSeconds": 1}
    double.apply(a_pod(readinessProbe=probe))
    eventually_sync(lambda: "Unhealthy" in [event["reason"] for event in double.events("p")])
    held_back = condition(double, "Ready")["reason"]

    (tmp_path / "ready").touch()

    eventually_sync(lambda: is_ready(double))
    assert held_back == "ContainersNotReady"


def test_a_container_that_ends_leaves_its_neighbours_alone(double: KubeDouble) -> None:
    pod = a_pod("p", "true")
    neighbour = {"name": "notebook-2", "image": double.image, "command": ["sleep", "3600"]}
    pod["spec"]["containers"].append(neighbour)
    double.apply(pod)

    eventually_sync(lambda: "terminated" in _state(double))

    statuses = double.pod("p")["status"]["containerStatuses"]
    assert [list(status["state"]) for status in statuses] == [["terminated"], ["running"]]
    assert phase(double) == "Running"
    assert not is_ready(double)


def test_the_eviction_api_deletes_the_pod(double: KubeDouble) -> None:
    double.apply(a_pod())
    eventually_sync(lambda: is_ready(double))

    status, _ = ask(double, "POST", "pods/p/eviction", {"kind": "Eviction", "metadata": {"name": "p"}})

    assert status == 201
    eventually_sync(lambda: is_gone(double))


def test_init_containers_run_one_after_the_other_and_first(double: KubeDouble) -> None:
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    double.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"}, "spec": claim})
    mounts = [{"name": "v", "mountPath": "/home/jovyan"}]
    pod = a_pod("p", "cat", "/home/jovyan/file", volumeMounts=mounts)
    pod["spec"]["volumes"] = [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]
    pod["spec"]["initContainers"] = [
        {"name": word, "image": double.image, "command": ["sh", "-c", f"echo {word} >> ~/file"], "volumeMounts": mounts}
        for word in ("first", "second")
    ]
    double.apply(pod)

    eventually_sync(lambda: phase(double) == "Succeeded")

    assert _log(double) == "first\nsecond\n"
    states = [status["state"] for status in double.pod("p")["status"]["initContainerStatuses"]]
    assert [state["terminated"]["reason"] for state in states] == ["Completed", "Completed"]


def test_a_failing_init_container_keeps_the_others_from_starting(double: KubeDouble) -> None:
    pod = a_pod("p", "true")
    pod["spec"]["initContainers"] = [{"name": "breaks", "image": double.image, "command": ["false"]}]
    double.apply(pod)

    eventually_sync(lambda: phase(double) == "Failed")

    assert condition(double, "Initialized")["reason"] == "ContainersNotInitialized"
    assert "Started" in [event["reason"] for event in double.events("p")]
    assert "running" not in _state(double)
    assert "terminated" not in _state(double)
