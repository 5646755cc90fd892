"""The scheduler stand-in: binds what fits, says why not, and tries again when something was freed.

A plug (`hami.py`) may take over pods with its own schedulerName: it counts cards and writes its decision on the pod.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from labspawner.testing.kube.clock import stamp
from labspawner.testing.kube.placing import Lack, Load, NodeRoom, NoNode, asks, place, refused_before_filter
from labspawner.testing.kube.resources import CLAIMS, NODES, PODS, VOLUMES, Json
from labspawner.testing.kube.store import Change
from labspawner.testing.kube.world import World

STOCK = "default-scheduler"
_ENDED = ("Succeeded", "Failed")
_SAY_AGAIN_S = 1.0


class Plug(Protocol):
    """A scheduler besides the stock one."""

    name: str  # the schedulerName of its pods

    @property
    def ignored(self) -> frozenset[str]:
        """Resources that it counts itself, so that the stock rules do not."""
        ...

    def begin(self, pods: list[Json]) -> None:
        """A pass begins: count what these bound pods hold."""
        ...

    def lack(self, pod: Json, room: NodeRoom) -> Lack | None: ...

    def granted(self, pod: Json, node: Json) -> Json:
        """The pod with what this scheduler writes on it when it has chosen `node`."""
        ...

    def refused(self, world: World, pod: Json) -> None:
        """What this one says besides FailedScheduling."""
        ...


class Scheduler:
    """Passes over the waiting pods whenever something changed that may let one in."""

    def __init__(self, world: World) -> None:
        self._world, self._store = world, world.store
        self._due: asyncio.Handle | None = None
        self.plugs: dict[str, Plug] = {}
        self._waiting: dict[
            str, tuple[str, str]
        ] = {}  # the keys of unbound pods in the order of their creation, by uid
        self._loads: dict[str, Load] = {}  # by node
        self._said: dict[str, float] = {}  # when a pod was last refused, by uid
        self.paused = False
        world.store.listeners.append(self._heard)

    def _heard(self, change: Change) -> None:
        resource = change.resource
        if resource is PODS:
            self._pod(change)
        elif resource is NODES or (resource in (CLAIMS, VOLUMES) and not change.deleted):
            self.wake()

    def _pod(self, change: Change) -> None:
        pod, uid = change.after.obj, change.after.obj["metadata"]["uid"]
        held = change.before is not None and _holds(change.before.obj)
        holds = not change.deleted and _holds(pod)
        if held != holds:
            self._loads.setdefault(pod["spec"]["nodeName"], Load()).add(asks(pod), 1 if holds else -1)
        if not change.deleted and _waits(pod):
            is_new = uid not in self._waiting
            self._waiting[uid] = (pod["metadata"]["namespace"], pod["metadata"]["name"])
        else:
            is_new = False
            self._waiting.pop(uid, None)
            self._said.pop(uid, None)
        if is_new or (held and not holds):
            self.wake()

    def wake(self) -> None:
        """Look again soon; once, however often it is said."""
        if self._due is None and not self.paused:
            self._due = self._world.soon(self._pass, self._world.pace.schedule_s)

    def _pass(self) -> None:
        self._due = None
        entries = [self._store.get(PODS, *key) for key in self._waiting.values()]
        waiting = [entry.obj for entry in entries if entry is not None and self._is_mine(entry.obj)]
        if not waiting or self.paused:
            return
        rooms = {}
        for node in self._store.objects(NODES):
            name = node["metadata"]["name"]
            rooms[name] = NodeRoom.of(node, self._loads.setdefault(name, Load()))
        if self.plugs:
            bound = [pod for pod in self._store.objects(PODS) if _holds(pod)]
            for plug in self.plugs.values():
                plug.begin(bound)
        for pod in sorted(waiting, key=lambda pod: (-pod["spec"]["priority"], pod["metadata"]["creationTimestamp"])):
            self._try(pod, rooms)

    def _is_mine(self, pod: Json) -> bool:
        return pod["spec"]["schedulerName"] == STOCK or pod["spec"]["schedulerName"] in self.plugs

    def _try(self, pod: Json, rooms: dict[str, NodeRoom]) -> None:
        plug = self.plugs.get(pod["spec"]["schedulerName"])
        try:
            self._claims(pod, len(rooms))
            more = (lambda room: plug.lack(pod, room)) if plug else None
            name = place(pod, list(rooms.values()), more, plug.ignored if plug else frozenset())
        except NoNode as refusal:
            self._refuse(pod, refusal.text, plug)
            return
        self._bind(pod, rooms[name].node, plug)  # which counts it, by the change that it makes

    def _claims(self, pod: Json, nodes: int) -> None:
        for volume in pod["spec"].get("volumes") or []:
            claim = (volume.get("persistentVolumeClaim") or {}).get("claimName")
            if not claim:
                continue
            entry = self._store.get(CLAIMS, pod["metadata"]["namespace"], claim)
            if entry is None:
                raise refused_before_filter(nodes, f'persistentvolumeclaim "{claim}" not found')
            if entry.obj["metadata"].get("deletionTimestamp"):
                raise refused_before_filter(nodes, f'persistentvolumeclaim "{claim}" is being deleted')
            if entry.obj["status"]["phase"] != "Bound":
                raise refused_before_filter(nodes, "pod has unbound immediate PersistentVolumeClaims")

    def _bind(self, pod: Json, node: Json, plug: Plug | None) -> None:
        chosen = plug.granted(pod, node) if plug else pod
        condition = {"type": "PodScheduled", "status": "True", "lastProbeTime": None, "lastTransitionTime": stamp()}
        name, metadata = node["metadata"]["name"], pod["metadata"]
        bound = chosen | {
            "spec": chosen["spec"] | {"nodeName": name},
            "status": chosen["status"] | {"conditions": [condition]},
        }
        # As recorded: the event names the version before the binding.
        self._store.put(PODS, bound)
        message = f"Successfully assigned {metadata['namespace']}/{metadata['name']} to {name}"
        component = pod["spec"]["schedulerName"]
        self._world.events.timed(pod, "Normal", "Scheduled", message, component=component, action="Binding")

    def _say_again(self, pod: Json, text: str) -> None:
        """The same refusal makes a series of events, but no more than one in `_SAY_AGAIN_S`."""
        uid, at = pod["metadata"]["uid"], time.monotonic()
        if at - self._said.get(uid, at) >= _SAY_AGAIN_S:
            component = pod["spec"]["schedulerName"]
            self._world.events.timed(pod, "Warning", "FailedScheduling", text, component=component, action="Scheduling")
            self._said[uid] = at

    def _refuse(self, pod: Json, text: str, plug: Plug | None) -> None:
        old = next((item for item in pod["status"].get("conditions") or [] if item["type"] == "PodScheduled"), None)
        if old is not None and old.get("message") == text:
            self._say_again(pod, text)
            return
        condition = {
            "type": "PodScheduled",
            "observedGeneration": pod["metadata"].get("generation", 1),
            "status": "False",
            "lastProbeTime": None,
            "lastTransitionTime": old["lastTransitionTime"] if old else stamp(),
            "reason": "Unschedulable",
            "message": text,
        }
        component = pod["spec"]["schedulerName"]
        self._world.events.timed(pod, "Warning", "FailedScheduling", text, component=component, action="Scheduling")
        self._said[pod["metadata"]["uid"]] = time.monotonic()
        if plug is not None:
            plug.refused(self._world, pod)
        self._store.put(PODS, pod | {"status": pod["status"] | {"conditions": [condition]}})


def _holds(pod: Json) -> bool:
    """Whether a pod takes room on its node: bound, and not ended."""
    return bool(pod["spec"].get("nodeName")) and pod["status"]["phase"] not in _ENDED


def _waits(pod: Json) -> bool:
    return not pod["spec"].get("nodeName") and not pod["metadata"].get("deletionTimestamp")
