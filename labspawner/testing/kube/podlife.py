"""One pod on its node, from ContainerCreating to its end: statuses and events in the order that was recorded."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from labspawner.testing.kube import podstatus
from labspawner.testing.kube.containers import ContainerLife
from labspawner.testing.kube.podstatus import FAILED, ContainerView
from labspawner.testing.kube.resources import PODS, Json
from labspawner.testing.kube.running import NotAdmitted

if TYPE_CHECKING:
    from labspawner.testing.kube.kubelet import Kubelet


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a pod shall end. kind: "deleted" by the API, or "failed" with the reason and message that its status then has."""

    kind: str
    grace_s: float
    reason: str = ""
    message: str = ""


class PodLife:
    """Runs the containers of one pod and writes its status. Ends when the pod is gone from the API, or by `abandon`."""

    def __init__(self, kubelet: Kubelet, pod: Json) -> None:
        self.kubelet, self.world = kubelet, kubelet.world
        self.key = (pod["metadata"]["namespace"], pod["metadata"]["name"])
        self.uid, self.node, self.pod = pod["metadata"]["uid"], pod["spec"]["nodeName"], pod
        self.address = ""
        self.changed = asyncio.Event()  # something that it may wait for
        self.gone = asyncio.Event()
        self.environment: dict[str, dict[str, str]] = {}  # what devices bring, by container
        self._views = [ContainerView(spec) for spec in pod["spec"]["containers"]]
        self._first = [ContainerView(spec) for spec in pod["spec"].get("initContainers") or []]
        for view in self._views if self._first else ():
            view.wait("PodInitializing")
        self._containers: list[ContainerLife] = []  # those that run now, or ran last
        self._initial: list[ContainerLife] = []
        self._ending: Ending | None = None
        self._ordered = asyncio.Event()
        self._reachable = asyncio.Event()
        self._reachable.set()
        self._task: asyncio.Task[None] | None = None

    # what others tell it

    def start(self) -> None:
        if self._task is None and not self.gone.is_set():
            self._task = asyncio.ensure_future(self._live())
            self._task.add_done_callback(self._note_fault)

    def _note_fault(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.world.broken.append(error)

    def order(self, ending: Ending) -> None:
        """End the pod so; the first order counts, but a deletion follows anything."""
        if self._ending is None or (self._ending.kind != "deleted" and ending.kind == "deleted"):
            self._ending = ending
            self._ordered.set()

    def abandon(self) -> None:
        """The API knows this pod no more: end what runs, and say nothing."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
        else:
            self._give_back()

    def lose(self, *, kill: bool) -> None:
        self._reachable.clear()
        for container in self._containers if kill else ():
            container.kill()

    def find(self) -> None:
        self._reachable.set()
        self.write()

    def log(self, container: str, *, previous: bool) -> tuple[Path, Callable[[], bool]] | None:
        found = next((life for life in [*self._containers, *self._initial] if life.view.name == container), None)
        return found.log(previous=previous) if found else None

    def running(self, container: str = "") -> ContainerLife | None:
        return next((life for life in self._containers if container in ("", life.view.name)), None)

    # its life

    async def _live(self) -> None:
        work = asyncio.ensure_future(self._work())
        try:
            while True:
                ordered = asyncio.ensure_future(self._ordered.wait())
                await asyncio.wait({work, ordered}, return_when=asyncio.FIRST_COMPLETED)
                ordered.cancel()
                if work.done() and not work.cancelled():
                    work.result()
                await self._ordered.wait()  # an ended pod stays until somebody deletes it
                self._ordered.clear()
                await self._reachable.wait()
                await self._end(work)
                if self._ending is not None and self._ending.kind == "deleted":
                    return
        finally:
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
            for container in self._containers:
                container.kill()
            self._give_back()

    async def _work(self) -> None:
        pace = self.world.pace
        if not self._admitted():
            return
        self._tell_dns()
        self.write(sandbox=False)
        self.address = self.kubelet.machine.runner.address()
        if pace.start_s:
            await asyncio.sleep(pace.start_s)
        deadline = self.pod["spec"].get("activeDeadlineSeconds")
        if deadline:
            late = Ending(
                "failed", 1, "DeadlineExceeded", "Pod was active on the node longer than the specified deadline"
            )
            timer = asyncio.get_running_loop().call_later(deadline, self.order, late)
        try:
            if await self._initialized():
                self._containers = [ContainerLife(self, view) for view in self._views]
                await asyncio.gather(*(container.run() for container in self._containers))
        finally:
            if deadline:
                timer.cancel()
        self.write()

    async def _initialized(self) -> bool:
        """Whether all init containers have done their work."""
        for view in self._first:
            container = ContainerLife(self, view)
            self._containers = [container]
            self._initial.append(container)
            await container.run()
            if view.state.get("terminated", {}).get("exitCode") != 0:
                return False
        return True

    def _admitted(self) -> bool:
        devices = self.kubelet.machine.devices
        if devices is None:
            return True
        try:
            for container in self.pod["spec"]["containers"]:
                self.environment[container["name"]] = dict(devices.allocate(self.node, self.pod, container))
        except NotAdmitted as refusal:
            why = f"Allocate failed due to {refusal}, which is unexpected"
            self.tell("Warning", "UnexpectedAdmissionError", why)
            self._put(podstatus.rejected(self.pod, "UnexpectedAdmissionError", f"Pod was rejected: {why}"))
            return False
        return True

    def _tell_dns(self) -> None:
        if not self.world.dns and self.pod["spec"]["dnsPolicy"] == "ClusterFirst":
            namespace, name = self.key
            text = f'pod: "{name}_{namespace}({self.uid})". kubelet does not have ClusterDNS IP configured and cannot '
            text += 'create Pod using "ClusterFirst" policy. Falling back to "Default" policy.'
            self.tell("Warning", "MissingClusterDNS", text)

    async def _end(self, work: asyncio.Future[None]) -> None:
        """Do what was ordered: end the containers, within the grace, and write what became of them."""
        ending = self._ending
        assert ending is not None
        for container in self._containers:
            container.stopping = True
        live = [container for container in self._containers if container.is_running]
        for container in live:
            self.tell("Normal", "Killing", f"Stopping container {container.view.name}", container.view.name)
        if ending.kind == "deleted":
            self.write()  # the generation that it has seen
        elif ending.reason:
            self.tell("Normal" if ending.reason == "DeadlineExceeded" else "Warning", ending.reason, ending.message)
        await asyncio.gather(*(container.end(ending.grace_s) for container in self._containers))
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
        more = {"reason": ending.reason, "message": ending.message} if ending.kind == "failed" else {}
        if live or more:
            self.write(phase=FAILED if more else "", more=more)
        if ending.kind == "deleted" and (pod := self._current()) is not None:
            self._give_back_devices()
            self.kubelet.finish(pod)

    def _give_back_devices(self) -> None:
        if self.kubelet.machine.devices is not None and self.environment:
            self.kubelet.machine.devices.free(self.node, self.pod)
            self.environment = {}

    def _give_back(self) -> None:
        self._give_back_devices()
        if self.address:
            self.kubelet.machine.runner.give_back(self.address)
        self.kubelet.machine.runner.forget(self.uid)
        self.kubelet.over(self)
        self.gone.set()

    # what it says

    def tell(self, kind: str, reason: str, message: str, container: str = "") -> None:
        if self._reachable.is_set():
            self.world.events.counted(
                self.pod, kind, reason, message, component="kubelet", host=self.node, container=container
            )

    def write(self, *, sandbox: bool = True, phase: str = "", more: Json | None = None) -> None:
        """Bring the status in the API up to date."""
        pod = self._current()
        if pod is not None:
            where = {"host": "127.0.0.1", "ip": self.address}
            self._put(podstatus.status(pod, self._views, self._first, **where, sandbox=sandbox, phase=phase, more=more))

    def _put(self, status: Json) -> None:
        pod = self._current()
        if pod is not None and self._reachable.is_set():
            self.world.store.put(PODS, pod | {"status": status})

    def _current(self) -> Json | None:
        entry = self.world.store.get(PODS, *self.key)
        return entry.obj if entry is not None and entry.obj["metadata"]["uid"] == self.uid else None
