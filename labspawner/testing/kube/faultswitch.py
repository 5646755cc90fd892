"""`KubeDouble.faults`: everything that a test can break, from its own thread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from labspawner.testing.kube import nodes
from labspawner.testing.kube.clock import stamp
from labspawner.testing.kube.deletion import delete, finish
from labspawner.testing.kube.faults import FaultBoard, Refusal
from labspawner.testing.kube.resources import NODES, PODS, Json

if TYPE_CHECKING:
    from labspawner.testing.kube.double import Inside, KubeDouble


class Faults:
    """Switches. Verbs are RBAC's (get, list, watch, create, update, patch, delete), resources plural; "*" means any."""

    def __init__(self, double: KubeDouble) -> None:
        self._double = double

    def _board(self, act: object) -> None:
        assert callable(act)
        self._double.call(lambda inside: act(inside.world.faults))

    # the API server

    def refuse(self, verb: str, resource: str, status: int = 500, times: int | None = 1, message: str = "") -> None:
        """Answer the next `times` such requests with `status`; all until `heal` when times is None."""
        refusal = Refusal(verb, resource, status, times, message)
        self._board(lambda board: board.refusals.append(refusal))

    def forbid(self, verb: str, resource: str) -> None:
        """Nobody has this right any more: 403, also for the administrator."""
        self._board(lambda board: board.forbidden.add((verb, resource)))

    def allow(self, verb: str, resource: str) -> None:
        """Take back what `forbid` did."""
        self._board(lambda board: board.forbidden.discard((verb, resource)))

    def slow(self, seconds: float, *verbs: str) -> None:
        """Each answer takes this much longer, or only those to `verbs`."""

        def act(board: FaultBoard) -> None:
            board.slow_s, board.slow_verbs = seconds, frozenset(verbs)

        self._board(act)

    def heal(self) -> None:
        """Everything works again: all of the switches here, except what `down` and `lose_node` did."""
        self._board(FaultBoard.heal)

    def down(self) -> None:
        """The API server is away: connections are refused, and those that are open are reset. Pods run on."""
        self._double.wait(self._double.inside.server.down())

    def up(self) -> None:
        """It is back, at the same address and with all that it knew."""
        self._double.wait(self._double.inside.server.up())

    def expire_token(self) -> str:
        """The administrator's token is good no more (401); `double.token` is a new one, which is returned."""

        def act(inside: Inside) -> str:
            from labspawner.testing.kube.rights import ADMIN  # noqa: PLC0415

            inside.world.rights.revoke(self._double.token)
            return inside.world.rights.token_for(ADMIN)

        self._double.token = self._double.call(act)
        return self._double.token

    # watches

    def silence_watches(self, resource: str = "*", *, new: bool = False) -> None:
        """Watches that are open now never say anything again, as over a connection that died unseen; with `new`, those
        that are opened later are silent too, until `heal`."""

        def act(inside: Inside) -> None:
            inside.world.faults.silent_watches = new
            for watcher in inside.watches.each(resource):
                watcher.silent = True

        self._double.call(act)

    def drop_watches(self, resource: str = "*") -> int:
        """Reset the connections of all open watches; how many there were."""

        def act(inside: Inside) -> int:
            found = inside.watches.each(resource)
            for watcher in found:
                watcher.end(cut=True)
            return len(found)

        return self._double.call(act)

    def end_watches(self, resource: str = "*") -> int:
        """End all open watches properly, as their timeout does; how many there were."""

        def act(inside: Inside) -> int:
            found = inside.watches.each(resource)
            for watcher in found:
                watcher.end()
            return len(found)

        return self._double.call(act)

    def expire(self) -> None:
        """The server forgets its history: each open watch gets the 410 ERROR line and ends, and so does one that comes
        back with a resourceVersion from before."""
        self._double.call(lambda inside: inside.watches.expire())

    def duplicate_events(self, on: bool = True) -> None:
        """Each line of a watch is sent twice, until `heal`."""
        self._board(lambda board: setattr(board, "duplicate_events", on))

    def open_watches(self, resource: str = "*") -> int:
        """How many watches are open now."""
        return self._double.call(lambda inside: len(inside.watches.each(resource)))

    # the cluster

    def quota(self, hard: Mapping[str, int | str], *, name: str = "quota", namespace: str | None = None) -> None:
        """A ResourceQuota, e.g. {"pods": 3, "requests.nvidia.com/gpu": 2}; an empty one lifts it."""
        where = namespace or self._double.namespace
        limits = {key: str(amount) for key, amount in hard.items()}
        metadata = {"name": name, "namespace": where}
        self._double.apply(
            {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": limits}}
        )

    def unbindable_claims(self, on: bool = True) -> None:
        """Claims stay Pending from now on; turned off, those that wait are bound."""

        def act(inside: Inside) -> None:
            inside.world.faults.claims_bind = not on
            inside.controllers.look_again()

        self._double.call(act)

    def pause_scheduler(self, on: bool = True) -> None:
        """Nobody schedules: pods stay Pending without a condition or an event."""

        def act(inside: Inside) -> None:
            inside.scheduler.paused = on
            inside.scheduler.wake()

        self._double.call(act)

    def lose_node(self, name: str = "labnode", *, kill: bool = True, delete_pods_after_s: float | None = None) -> None:
        """The node's kubelet is silent: Ready is Unknown, its pods are not Ready; with `kill` what ran there is dead.

        After `delete_pods_after_s` (the real one waits 300 s; None: never) the controller deletes its pods, which stay
        Terminating until the node is found again or removed.
        """

        def act(inside: Inside) -> None:
            inside.kubelet.lose(name, kill=kill)
            inside.put(NODES, nodes.lost(inside.get(NODES, name)))
            for pod in _on(inside, name):
                inside.put(PODS, pod | {"status": _not_ready(pod["status"])})
            if delete_pods_after_s is not None:
                inside.world.soon(lambda: _taint_deletes(inside, name), delete_pods_after_s)

        self._double.call(act)

    def find_node(self, name: str = "labnode") -> None:
        """The node is back: pods that were to go go, containers that died are told as dead or start again."""

        def act(inside: Inside) -> None:
            inside.put(NODES, nodes.found(inside.get(NODES, name)))
            inside.kubelet.find(name)

        self._double.call(act)

    def remove_node(self, name: str = "labnode") -> None:
        """Somebody deletes the Node object: its pods are removed from the API without asking its kubelet."""

        def act(inside: Inside) -> None:
            inside.world.store.remove(NODES, "", name)
            for pod in _on(inside, name):
                finish(inside.world, pod)

        self._double.call(act)

    def cordon(self, name: str = "labnode", on: bool = True) -> None:
        """No new pods on this node."""

        def act(inside: Inside) -> None:
            node = inside.get(NODES, name)
            spec = {key: value for key, value in node["spec"].items() if key != "unschedulable"}
            inside.put(NODES, node | {"spec": spec | ({"unschedulable": True} if on else {})})

        self._double.call(act)

    def delete_all(self, plural: str, names: Iterable[str]) -> None:
        """An administrator deletes these by hand."""
        for name in names:
            self._double.delete(plural, name)


def _on(inside: Inside, node: str) -> list[Json]:
    return [pod for pod in inside.world.store.objects(PODS) if pod["spec"].get("nodeName") == node]


def _not_ready(status: Json) -> Json:
    changed = []
    for condition in status.get("conditions") or []:
        ready = condition["type"] == "Ready" and condition["status"] == "True"
        changed.append(condition | {"status": "False", "lastTransitionTime": stamp()} if ready else condition)
    return status | {"conditions": changed}


def _taint_deletes(inside: Inside, node: str) -> None:
    if node not in inside.kubelet.lost:
        return
    for pod in _on(inside, node):
        if pod["metadata"].get("deletionTimestamp"):
            continue
        target = {
            "type": "DisruptionTarget",
            "status": "True",
            "lastProbeTime": None,
            "lastTransitionTime": stamp(),
            "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
        }
        conditions = [*(pod["status"].get("conditions") or []), target]
        marked = inside.put(PODS, pod | {"status": pod["status"] | {"conditions": conditions}})
        text = f"Marking for deletion Pod {pod['metadata']['namespace']}/{pod['metadata']['name']}"
        inside.world.events.counted(
            marked, "Normal", "TaintManagerEviction", text, component="taint-eviction-controller"
        )
        delete(inside.world, PODS, marked, {})
