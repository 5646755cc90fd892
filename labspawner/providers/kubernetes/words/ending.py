"""Why a pod ended, or is about to: evicted, lost with its node, refused by the kubelet, deleted."""

from __future__ import annotations

import re

from labspawner.providers.kubernetes.strategies.contract import Kind, Waiting
from labspawner.providers.kubernetes.views import PodView
from labspawner.providers.kubernetes.words import containers
from labspawner.sentences import Sentence

_OWN = re.compile(r"emptydir|ephemeral local storage|exceeds the (total )?limit", re.IGNORECASE)
_LOW = re.compile(r"low on resource: ([a-z.-]+)", re.IGNORECASE)
_SHUT_DOWN = Sentence(
    "The machine that ran your server is being shut down. Start it again: it will run on another one."
)
_PREEMPTED = Sentence(
    "Your server had to make room for something that goes first on this cluster. Start it again later."
)
_MOVED = Sentence("Your server was moved off its machine by an administrator. Start it again.")
_TAKEN = {
    **dict.fromkeys(("NodeLost", "DeletionByTaintManager", "DeletionByPodGC"), containers.LOST),
    **dict.fromkeys(("NodeShutdown", "Shutdown", "Terminated"), _SHUT_DOWN),
    **dict.fromkeys(("Preempting", "Preempted", "PreemptionByScheduler"), _PREEMPTED),
    **dict.fromkeys(("EvictionByEvictionAPI", "TerminationByKubelet"), _MOVED),
}
"""By the pod's reason, or by that of its condition `DisruptionTarget`."""


def ended(pod: PodView, *, was_ready: bool = False) -> Waiting | None:
    """Why this pod does not run any more, or not much longer; None: it goes on, or starts. was_ready: its server answered
    before, so it did not fail to start."""
    found = _refused(pod) or _taken(pod)
    if found is not None:
        return found
    if pod.phase in {"Failed", "Succeeded"}:
        return _died(pod, was_ready=was_ready)
    if pod.terminating:
        return _failed(Sentence("Your server was deleted from the cluster. Start it again."), _detail(pod), again=True)
    return None


def _refused(pod: PodView) -> Waiting | None:
    """The kubelet did not take what the scheduler gave it; such a pod is never tried again."""
    if pod.reason == "UnexpectedAdmissionError":
        if "llocate failed" in pod.message:
            message = Sentence(
                "The machine could not give your server its GPU slice just then. Try again in a minute; "
                "if it happens again, tell your administrator."
            )
        else:
            message = Sentence("The machine that was chosen for your server did not take it. Try again.")
        return _failed(message, _detail(pod), again=True)
    if pod.reason.startswith("OutOf") or pod.reason in {
        "NodeAffinity",
        "NodePorts",
        "PodOSSelectorNodeLabelDoesNotMatch",
    }:
        return _failed(
            Sentence("The machine that was chosen for your server was full by then. Try again."),
            _detail(pod),
            again=True,
        )
    return None


def _taken(pod: PodView) -> Waiting | None:
    """The pod was taken away by the cluster."""
    disruption = pod.condition("DisruptionTarget")
    happening = disruption is not None and disruption.status == "True"
    why = disruption.reason if disruption is not None and happening else ""
    detail = _detail(pod) + (f"; {why}: {disruption.message}" if disruption is not None and happening else "")
    if pod.reason == "Evicted":
        return _failed(_evicted(pod.message), detail, again=_OWN.search(pod.message) is None)
    if pod.reason == "DeadlineExceeded":
        return _failed(Sentence("Your server has run as long as this cluster allows, and was ended."), detail)
    words = _TAKEN.get(pod.reason) or _TAKEN.get(why)
    return None if words is None else _failed(words, detail, again=True)


def _evicted(message: str) -> Sentence:
    low = _LOW.search(message)
    if low is not None and "memory" in low[1]:
        return Sentence("The machine of your server ran short of memory, so your server was ended. Start it again.")
    if low is not None and ("storage" in low[1] or "fs" in low[1]):
        return Sentence("The machine of your server ran short of disk space, so your server was ended. Start it again.")
    if _OWN.search(message) is not None:
        return Sentence(
            "Your server wrote more onto the machine's disk than it may, and was ended. Keep large files in your home."
        )
    return Sentence("The machine of your server was overloaded, so your server was ended. Start it again.")


def _died(pod: PodView, *, was_ready: bool) -> Waiting:
    for container in (*pod.containers, *pod.init_containers):
        if container.state == "terminated" and (container.exit_code != 0 or pod.phase == "Succeeded"):
            return containers.died(container, was_ready=was_ready)
    return _failed(Sentence("Your server ended, and the cluster does not say why. Start it again."), _detail(pod))


def _detail(pod: PodView) -> str:
    words = f"{pod.reason}: {pod.message}" if pod.message else pod.reason
    return f"pod {pod.name} on node {pod.node or '-'}: phase {pod.phase}, {words}".rstrip(", ")


def _failed(message: Sentence, detail: str, *, again: bool = False) -> Waiting:
    return Waiting(kind=Kind.FAILED, message=message, detail=detail, again=again)
