"""`KubeDouble`: the cluster as a test holds it, running in a thread of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import tempfile
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

from labspawner.testing.kube import nodes as building
from labspawner.testing.kube.api import Api
from labspawner.testing.kube.clock import new_uid, stamp
from labspawner.testing.kube.controllers import Controllers
from labspawner.testing.kube.faults import RequestLog
from labspawner.testing.kube.faultswitch import Faults
from labspawner.testing.kube.hami import Hami, HamiNames
from labspawner.testing.kube.images import DEFAULT_IMAGE, Image, plain
from labspawner.testing.kube.kubelet import Kubelet, Machine
from labspawner.testing.kube.processes import ProcessRunner
from labspawner.testing.kube.resources import BY_KIND, NAMESPACES, NODES, PODS, RESOURCES, Json, Resource
from labspawner.testing.kube.rights import ADMIN, service_account
from labspawner.testing.kube.routes import Call
from labspawner.testing.kube.running import Devices, Runner
from labspawner.testing.kube.scheduler import Scheduler
from labspawner.testing.kube.server import Server
from labspawner.testing.kube.still import StillRunner
from labspawner.testing.kube.store import encode
from labspawner.testing.kube.tls import Authority
from labspawner.testing.kube.watching import Watches
from labspawner.testing.kube.world import Pace, World

T = TypeVar("T")
Runs = Literal["processes", "still"]
_CALL_S = 120.0  # a call into the double's thread; a deadline against a hang, no promise


class Inside:
    """All parts of the cluster, put together. Made and used in the double's event loop."""

    def __init__(self, folder: Path, runs: Runs, pace: Pace, *, storage: bool, authority: Authority | None) -> None:
        self.world = World(pace=pace)
        self.api = Api(self.world)
        self.watches = Watches(self.world)
        self.scheduler = Scheduler(self.world)
        runner: Runner = StillRunner(self.world) if runs == "still" else ProcessRunner(folder)
        self.kubelet = Kubelet(self.world, Machine(runner))
        self.controllers = Controllers(self.world, storage=storage)
        tls = authority.server_context() if authority else None
        self.server = Server(self.world, self.api, self.watches, self.kubelet.log_of, tls)

    def put(self, resource: Resource, obj: Json) -> Json:
        return self.world.store.put(resource, obj).obj

    def get(self, resource: Resource, name: str, namespace: str = "") -> Json:
        entry = self.world.store.get(resource, namespace, name)
        if entry is None:
            raise LookupError(f"no {resource.kind} {namespace}/{name} in the double")
        return entry.obj

    async def close(self) -> None:
        await self.server.close()
        self.scheduler.paused = True
        await self.kubelet.close()


class KubeDouble:
    """A small Kubernetes. See the package's docstring for how it is used.

    nodes: from `a_node`; one labnode of 8 CPUs and 32Gi when not given. namespace: exists from the start. runs:
    "processes" or "still". storage: claims are bound at once, as by a default StorageClass. tls: HTTPS with a CA of its
    own. hub_host: where its pods reach a hub.
    """

    def __init__(
        self,
        nodes: Sequence[Json] | None = None,
        *,
        namespace: str = "labs",
        runs: Runs = "processes",
        images: Mapping[str, Image] | None = None,
        pace: Pace | None = None,
        storage: bool = True,
        tls: bool = False,
    ) -> None:
        self.namespace, self.image, self.hub_host, self.runs = namespace, DEFAULT_IMAGE, "127.0.0.1", runs
        self.pace = pace or Pace()
        self._nodes = [building.a_node()] if nodes is None else list(nodes)
        self._images, self._storage = dict(images or {}), storage
        self._folder = tempfile.TemporaryDirectory(prefix="kube-double-")
        self.folder = Path(self._folder.name)
        self._authority = Authority(self.folder) if tls else None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._inside: Inside | None = None
        self.token = ""

    # from start to end

    def start(self) -> KubeDouble:
        """Run; returns when the API answers. `with KubeDouble() as cluster` does it, and closes."""
        loop = self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=loop.run_forever, name="kube-double", daemon=True)
        self._thread.start()
        try:
            self.wait(self._begin())
        except BaseException:
            self.close()
            raise
        self.faults = Faults(self)
        return self

    async def _begin(self) -> None:
        inside = Inside(self.folder, self.runs, self.pace, storage=self._storage, authority=self._authority)
        self._inside = inside
        inside.kubelet.machine.images.update({plain(name): image for name, image in self._images.items()})
        for name in dict.fromkeys(("default", "kube-system", self.namespace)):
            metadata: Json = {"name": name, "uid": new_uid(), "resourceVersion": "", "creationTimestamp": stamp()}
            metadata["labels"] = {"kubernetes.io/metadata.name": name}
            body: Json = {"kind": "Namespace", "apiVersion": "v1", "metadata": metadata}
            inside.put(NAMESPACES, body | {"spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})
        await asyncio.sleep(0)  # the default service accounts
        for node in self._nodes:
            inside.put(NODES, node)
        self.token = inside.world.rights.token_for(ADMIN)
        await inside.server.start()

    def close(self) -> None:
        """End every pod's processes and the API. Safe to repeat."""
        loop, self._loop = self._loop, None
        if loop is None or self._thread is None:
            return
        try:
            if self._inside is not None:
                asyncio.run_coroutine_threadsafe(self._finish(self._inside), loop).result(_CALL_S)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join(_CALL_S)
            loop.close()
            self._folder.cleanup()
        self._raise_own_fault()

    def _raise_own_fault(self) -> None:
        if self._inside is not None and self._inside.world.broken:
            raise RuntimeError("the double itself failed") from self._inside.world.broken[0]

    @staticmethod
    async def _finish(inside: Inside) -> None:
        await inside.close()
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await asyncio.get_running_loop().shutdown_default_executor()

    def __enter__(self) -> KubeDouble:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # how it is reached from other threads

    @property
    def inside(self) -> Inside:
        """The parts, for who reads them by `call`; touch them only in the double's thread."""
        if self._inside is None:
            raise RuntimeError("the double has not been started")
        return self._inside

    def call(self, act: Callable[[Inside], T]) -> T:
        """What `act` gives when it is called with the parts, in the double's thread."""

        async def do() -> T:
            self._raise_own_fault()  # so that nobody waits for what can no longer come
            return act(self.inside)

        return self.wait(do())

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` gives when it is run in the double's thread."""
        if self._loop is None:
            work.close()
            raise RuntimeError("the double is closed")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(_CALL_S)
        except concurrent.futures.TimeoutError:
            future.cancel()
            raise

    # where it is

    @property
    def url(self) -> str:
        return f"{'https' if self._authority else 'http'}://127.0.0.1:{self.inside.server.port}"

    @property
    def ca_file(self) -> Path | None:
        return self._authority.ca_file if self._authority else None

    def kubeconfig(self, folder: Path, *, token: str | None = None, namespace: str | None = None) -> Path:
        """A kubeconfig file in `folder` for this cluster; an administrator's unless `token` is somebody else's."""
        cluster: Json = {"server": self.url}
        if self._authority:
            cluster["certificate-authority"] = str(self._authority.ca_file)
        context = {"cluster": "double", "user": "double", "namespace": namespace or self.namespace}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "double", "cluster": cluster}],
            "users": [{"name": "double", "user": {"token": self.token if token is None else token}}],
            "contexts": [{"name": "double", "context": context}],
            "current-context": "double",
        }
        path = folder / "kubeconfig"
        path.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
        path.chmod(0o600)
        return path

    # what is in it

    @property
    def requests(self) -> RequestLog:
        """What the API was asked, by everybody."""
        return self.inside.world.requests

    def objects(self, plural: str, namespace: str | None = None) -> list[Json]:
        """All objects of a resource in the double's namespace; of all namespaces when it is ""."""
        resource = _by_plural(plural)
        where = (self.namespace if namespace is None else namespace) if resource.namespaced else ""
        return self.call(lambda inside: [entry.obj for entry in inside.world.store.entries(resource, where)])

    def pods(self, namespace: str | None = None) -> list[Json]:
        return self.objects("pods", namespace)

    def pod(self, name: str, namespace: str | None = None) -> Json:
        """One pod as it is now. Raises LookupError when there is none."""
        return self.call(lambda inside: inside.get(PODS, name, namespace or self.namespace))

    def events(self, name: str = "", namespace: str | None = None) -> list[Json]:
        """The events about objects of this name, or all."""
        found = self.objects("events", namespace)
        return [event for event in found if name in ("", event["involvedObject"]["name"])]

    def node(self, name: str = "labnode") -> Json:
        return self.call(lambda inside: inside.get(NODES, name))

    # what a cluster's administrator does

    def apply(self, manifest: Mapping[str, Any]) -> Json:
        """Create an object, or replace it; its namespace is the double's unless it says another."""
        resource = BY_KIND[(str(manifest["apiVersion"]), str(manifest["kind"]))]
        metadata = dict(manifest.get("metadata") or {})
        where = str(metadata.get("namespace") or self.namespace) if resource.namespaced else ""
        call = Call("create", resource, where, raw=encode({**manifest, "metadata": metadata}), user=ADMIN)

        def do(inside: Inside) -> Json:
            old = inside.world.store.get(resource, where, metadata.get("name", ""))
            if old is not None:
                inside.world.store.remove(resource, where, metadata["name"])
            answer: Json = json.loads(inside.api.answer(call).body)
            return answer

        return self.call(do)

    def delete(self, plural: str, name: str, namespace: str | None = None, *, grace_s: int | None = None) -> None:
        """Delete an object as an administrator does by hand."""
        resource = _by_plural(plural)
        where = (namespace or self.namespace) if resource.namespaced else ""
        options = {} if grace_s is None else {"gracePeriodSeconds": grace_s}
        call = Call("delete", resource, where, name, raw=encode(options), user=ADMIN)
        self.call(lambda inside: inside.api.answer(call))

    def annotate_node(self, name: str, annotations: Mapping[str, str | None]) -> None:
        """Set annotations of a node; None takes one away."""

        def do(inside: Inside) -> None:
            node = inside.get(NODES, name)
            merged = {**(node["metadata"].get("annotations") or {}), **annotations}
            kept = {key: value for key, value in merged.items() if value is not None}
            inside.put(NODES, node | {"metadata": node["metadata"] | {"annotations": kept}})

        self.call(do)

    def add_node(self, node: Json) -> None:
        self.call(lambda inside: inside.put(NODES, node))

    def set_resources(self, name: str, amounts: Mapping[str, int | str]) -> None:
        """Change what a node has to give, e.g. {"labspawner.io/gpu-small": 8}, as a device plugin does."""

        def do(inside: Inside) -> None:
            node, text = inside.get(NODES, name), {key: str(amount) for key, amount in amounts.items()}
            status = node["status"]
            more = {key: {**status[key], **text} for key in ("capacity", "allocatable")}
            inside.put(NODES, node | {"status": status | more})

        self.call(do)

    def add_image(self, name: str, image: Image | None = None) -> None:
        """Make an image known; pods that wait for it go on."""

        def do(inside: Inside) -> None:
            inside.kubelet.machine.images[plain(name)] = image or Image()
            inside.kubelet.wake()

        self.call(do)

    def account(self, name: str, rules: Sequence[Mapping[str, Any]], namespace: str | None = None) -> str:
        """A service account with a Role of these RBAC rules in its namespace; its token."""
        where = namespace or self.namespace
        rbac = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": name, "namespace": where}}
        subject = {"kind": "ServiceAccount", "name": name, "namespace": where}
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
        self.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": where}})
        self.apply({**rbac, "kind": "Role", "rules": [dict(rule) for rule in rules]})
        self.apply({**rbac, "kind": "RoleBinding", "roleRef": reference, "subjects": [subject]})
        return self.token_of(name, where)

    def token_of(self, account: str, namespace: str | None = None) -> str:
        """A new token of a service account, whether or not it has rights."""
        who = service_account(namespace or self.namespace, account)
        return self.call(lambda inside: inside.world.rights.token_for(who))

    def install_hami(
        self,
        *,
        webhook: bool = True,
        scheduler: bool = True,
        names: HamiNames | None = None,
        allocation_fails: bool = False,
    ) -> None:
        """HAMi comes to this cluster, or only one half of it. Nodes register their cards by `annotate_node(name,
        registered([HamiCard(...)]))`. allocation_fails: its device plugin ends every bind phase with "failed"."""

        def do(inside: Inside) -> None:
            hami = Hami(inside.world, names or HamiNames(), allocation_fails)
            inside.api.admission.webhooks = [hami.webhook] if webhook else []
            inside.scheduler.plugs = {hami.name: hami} if scheduler else {}
            inside.kubelet.machine.devices = hami
            inside.scheduler.wake()

        self.call(do)

    def remove_hami(self) -> None:
        """HAMi is gone: pods that wait for its scheduler wait for ever."""

        def do(inside: Inside) -> None:
            inside.api.admission.webhooks, inside.scheduler.plugs = [], {}
            inside.kubelet.machine.devices = None

        self.call(do)

    # what goes wrong with pods, besides `faults`

    def evict(self, name: str, *, message: str = "", namespace: str | None = None) -> None:
        """The kubelet evicts a pod because its node is short of memory: Failed, reason Evicted."""
        text = message or (
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 64Mi. "
            "Container notebook was using 512Mi, request is 0, has larger consumption of memory. "
        )
        self.call(lambda inside: _order(inside, name, namespace or self.namespace, "Evicted", text))

    def kill(self, name: str, *, out_of_memory: bool = False, namespace: str | None = None) -> None:
        """The pod's first container dies by SIGKILL, with `out_of_memory` as the kernel does it for want of memory."""

        def do(inside: Inside) -> None:
            pod = inside.get(PODS, name, namespace or self.namespace)
            life = inside.kubelet.life(pod["metadata"]["uid"])
            container = life.running() if life else None
            if container is None:
                raise LookupError(f"pod {name} runs no container")
            container.run_out_of_memory() if out_of_memory else container.kill()

        self.call(do)

    def use_devices(self, devices: Devices | None) -> None:
        """Let this device manager admit pods from now on; it is called in the double's thread."""
        self.call(lambda inside: setattr(inside.kubelet.machine, "devices", devices))


def _order(inside: Inside, name: str, namespace: str, reason: str, message: str) -> None:
    from labspawner.testing.kube.podlife import Ending  # noqa: PLC0415

    pod = inside.get(PODS, name, namespace)
    life = inside.kubelet.life(pod["metadata"]["uid"])
    if life is None:
        raise LookupError(f"pod {name} is on no node")
    life.order(Ending("failed", 0, reason, message))


def _by_plural(plural: str) -> Resource:
    found = next((row for row in RESOURCES if row.plural == plural), None)
    if found is None:
        raise LookupError(f"the double knows no {plural}")
    return found
