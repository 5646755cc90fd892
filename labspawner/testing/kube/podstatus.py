"""The status of a pod as a kubelet writes it, from what its containers do. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from labspawner.testing.kube.clock import stamp
from labspawner.testing.kube.resources import Json

PENDING, RUNNING, SUCCEEDED, FAILED = "Pending", "Running", "Succeeded", "Failed"
_NOT_READY = "ContainersNotReady"


@dataclass(slots=True)
class ContainerView:
    """One container as its status shows it. `state` is {"waiting": ...}, {"running": ...} or {"terminated": ...}."""

    spec: Json
    state: Json = field(default_factory=lambda: {"waiting": {"reason": "ContainerCreating"}})
    last: Json = field(default_factory=dict)
    restarts: int = 0
    ready: bool = False
    container_id: str = ""
    image_id: str = ""

    @property
    def name(self) -> str:
        return str(self.spec["name"])

    def wait(self, reason: str, message: str = "") -> None:
        self._past()
        self.state = {"waiting": {"reason": reason} | ({"message": message} if message else {})}
        self.ready = False

    def run(self, container_id: str, image_id: str) -> None:
        self._past()
        self.container_id, self.image_id = container_id, image_id
        self.state = {"running": {"startedAt": stamp()}}

    def end(self, code: int, reason: str, message: str = "") -> None:
        began = (self.state.get("running") or {}).get("startedAt", "1970-01-01T00:00:00Z")
        ended = {"exitCode": code, "reason": reason} | ({"message": message} if message else {})
        ended |= {"startedAt": began, "finishedAt": stamp(), "containerID": self.container_id}
        self.state, self.ready = {"terminated": ended}, False

    def _past(self) -> None:
        if "terminated" in self.state:
            self.last, self.restarts = self.state, self.restarts + 1

    def status(self) -> Json:
        started = "running" in self.state
        shown: Json = {
            "name": self.name,
            "state": self.state,
            "lastState": self.last,
            "ready": self.ready,
            "restartCount": self.restarts,
            "image": self.spec["image"],
            "imageID": self.image_id,
        }
        if self.container_id:
            shown["containerID"] = self.container_id
        shown["started"] = started
        if self.container_id:
            resources = self.spec.get("resources") or {}
            if resources.get("requests"):
                shown["allocatedResources"] = resources["requests"]
            shown["resources"] = {key: resources[key] for key in ("limits", "requests") if key in resources}
        return shown


def phase_of(views: Sequence[ContainerView], first: Sequence[ContainerView], policy: str) -> str:
    """Which phase these containers make, after their init containers."""
    if not _initialized(first):
        broken = any(view.state.get("terminated", {}).get("exitCode", 0) for view in first)
        return FAILED if broken and policy == "Never" else PENDING
    if all("terminated" in view.state for view in views):
        codes = [view.state["terminated"]["exitCode"] for view in views]
        return SUCCEEDED if not any(codes) else FAILED
    never_ran = all("waiting" in view.state and not view.last for view in views)
    return PENDING if never_ran else RUNNING


def _initialized(first: Sequence[ContainerView]) -> bool:
    return all(view.state.get("terminated", {}).get("exitCode") == 0 for view in first)


def status(
    pod: Json,
    views: Sequence[ContainerView],
    first: Sequence[ContainerView],
    *,
    host: str,
    ip: str,
    sandbox: bool,
    phase: str = "",
    more: Json | None = None,
) -> Json:
    """The whole status. first: the init containers. sandbox: the pod has its network. more: `reason` and `message` of an
    ended pod."""
    phase = phase or phase_of(views, first, pod["spec"]["restartPolicy"])
    old = pod["status"]
    conditions = _conditions(pod, views, first, phase, sandbox=sandbox)
    result: Json = {
        "observedGeneration": pod["metadata"].get("generation", 1),
        "phase": phase,
        "conditions": conditions,
    }
    result |= {key: more[key] for key in ("message", "reason") if more and key in more}
    result |= {"hostIP": host, "hostIPs": [{"ip": host}]}
    if ip:
        result |= {"podIP": ip, "podIPs": [{"ip": ip}]}
    result["startTime"] = old.get("startTime") or stamp()
    if first:
        result["initContainerStatuses"] = [view.status() for view in first]
    result["containerStatuses"] = [view.status() for view in views]
    return result | {"qosClass": old["qosClass"]}


def rejected(pod: Json, reason: str, message: str) -> Json:
    """The status of a pod that the kubelet did not admit, or has evicted before it ran."""
    return {
        "observedGeneration": pod["metadata"].get("generation", 1),
        "phase": FAILED,
        "message": message,
        "reason": reason,
        "startTime": stamp(),
        "qosClass": pod["status"]["qosClass"],
    }


def _conditions(
    pod: Json, views: Sequence[ContainerView], first: Sequence[ContainerView], phase: str, *, sandbox: bool
) -> list[Json]:
    unready = [view.name for view in views if not view.ready]
    why: Json = {}
    if phase == SUCCEEDED:
        why = {"reason": "PodCompleted"}
    elif phase == FAILED:
        why = {"reason": "PodFailed"}
    elif unready:
        why = {"reason": _NOT_READY, "message": f"containers with unready status: [{' '.join(unready)}]"}
    over = phase in (SUCCEEDED, FAILED)
    initial: Json = {"reason": "PodCompleted"} if phase == SUCCEEDED else {}
    if not _initialized(first):
        undone = [view.name for view in first if view.state.get("terminated", {}).get("exitCode") != 0]
        text = f"containers with incomplete status: [{' '.join(undone)}]"
        initial = {"reason": "ContainersNotInitialized", "message": text}
    wanted = [
        ("PodReadyToStartContainers", sandbox and not over, {}),
        ("Initialized", _initialized(first), initial),
        ("Ready", not why, why),
        ("ContainersReady", not why, why),
        ("PodScheduled", True, {}),
    ]
    return [_condition(pod, kind, good, reason) for kind, good, reason in wanted]


def _condition(pod: Json, kind: str, good: bool, why: Json) -> Json:
    said = "True" if good else "False"
    old = next((item for item in pod["status"].get("conditions") or [] if item["type"] == kind), None)
    since = old["lastTransitionTime"] if old and old["status"] == said else stamp()
    generation = pod["metadata"].get("generation", 1)
    head = {"type": kind, "observedGeneration": generation, "status": said, "lastProbeTime": None}
    return head | {"lastTransitionTime": since} | why
