"""What a pod says of its server. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from labspawner.model import ServerState
from labspawner.providers.kubernetes.cluster import Seen
from labspawner.providers.kubernetes.views import PodView
from labspawner.providers.kubernetes.words import containers

_LOST = frozenset({"NodeLost", "NodeStatusUnknown"})


def state_of(pods: Sequence[Seen]) -> ServerState:
    """What is true of a lease with these pods, from a listing that may be believed."""
    states = {state_of_pod(seen.view) for seen in pods}
    for state in (ServerState.RUNNING, ServerState.UNKNOWN):
        if state in states:
            return state
    return ServerState.GONE


def state_of_pod(pod: PodView) -> ServerState:
    """GONE as soon as it will not serve any more: it ended, its container did, or its deletion was asked for. UNKNOWN while
    its node does not report, for then the server may well run."""
    if pod.ended or pod.terminating:
        return ServerState.GONE
    main = containers.main_of(pod)
    if main is not None and (main.state == "terminated" or main.reason == "CrashLoopBackOff"):
        return ServerState.GONE
    return ServerState.UNKNOWN if _node_is_silent(pod) else ServerState.RUNNING


def _node_is_silent(pod: PodView) -> bool:
    """The cluster took the pod's readiness away, while the last that its kubelet said is that all containers are ready."""
    ready = pod.condition("Ready")
    if ready is None or pod.reason in _LOST:
        return pod.reason in _LOST
    if ready.status == "Unknown" or ready.reason in _LOST:
        return True
    said = all(container.ready for container in pod.containers) and bool(pod.containers)
    return ready.status == "False" and said and ready.reason == ""
