"""The kubelet's device manager: who registered, which devices there are, and which pod has which."""

from __future__ import annotations

import re
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc

from labspawner.gpu.agent import wire
from labspawner.gpu.agent.wire import decode, encode
from labspawner.testing.kubelet.container import Grant
from labspawner.testing.kubelet.plugins import Plugin

_RESOURCE = re.compile(r"[a-z0-9.-]+\.[a-z]+/[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", re.ASCII)
_MOST_WAIT_S = 60.0
_UNEXPECTED = "Allocate failed due to {why}, which is unexpected"


class NotEnough(Exception):
    """The node has not so many of a resource free: a scheduler would not have sent this pod here."""


class AdmissionError(Exception):
    """The pod is rejected: phase Failed, reason `UnexpectedAdmissionError`, and this text as the event's message."""

    reason = "UnexpectedAdmissionError"


@dataclass(frozen=True, slots=True)
class Call:
    """What was said between kubelet and plugin. ids: the devices of an Allocate or of an answer to it."""

    name: str
    resource: str = ""
    endpoint: str = ""
    ids: tuple[str, ...] = ()


@dataclass(slots=True)
class _Resource:
    plugin: Plugin | None = None
    devices: dict[str, str] = field(default_factory=dict)  # health by id


class KubeletDouble:
    """A node's device manager with sockets in a folder of its own. A context manager: its containers end with it.

    plugins: the folder of the plugins' sockets, with kubelet.sock. pod_resources: the socket that says who has what.
    on_change: called with a resource and what is allocatable of it, in a thread of the double, whenever a plugin says so.
    """

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="kubelet-"))  # short: a socket's path has at most 107 letters
        self.plugins, self.pod_resources = self.root / "device-plugins", self.root / "pod-resources" / "kubelet.sock"
        self.plugins.mkdir()
        self.pod_resources.parent.mkdir()
        self.calls: list[Call] = []
        self.on_change: Callable[[str, int], None] | None = None
        self._resources: dict[str, _Resource] = {}
        self._grants: list[Grant] = []
        self._lock = threading.RLock()
        self._admission = threading.Lock()  # a kubelet admits one pod after the other
        self._servers: list[Any] = []
        self._plugins: set[Plugin] = set()  # all that registered; their threads may still speak

    def __enter__(self) -> KubeletDouble:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for grant in list(self._grants):
            grant.end()
        self.stop()
        shutil.rmtree(self.root, ignore_errors=True)

    # -- the kubelet itself ---------------------------------------------------------------------------------------------

    def start(self, *, keep_sockets: bool = False) -> None:
        """Begin as a kubelet does: delete the sockets of all plugins, then listen. keep_sockets: only its own is new."""
        for path in self.plugins.glob("kubelet.sock" if keep_sockets else "*.sock"):
            path.unlink(missing_ok=True)
        self.pod_resources.unlink(missing_ok=True)
        self._serve(self.pod_resources, wire.POD_RESOURCES, "List", wire.Empty, self._list)
        self._serve(self.plugins / "kubelet.sock", wire.REGISTRATION, "Register", wire.RegisterRequest, self._register)

    def stop(self) -> None:
        """End as with SIGTERM: sockets of plugins stay, the streams end, pods run on."""
        with self._lock:
            plugins, self._plugins = self._plugins, set()
            lost = [name for name, one in self._resources.items() if one.plugin is not None]
            for one in self._resources.values():
                one.plugin = None
                one.devices = dict.fromkeys(one.devices, wire.UNHEALTHY)
        for plugin in plugins:
            plugin.close()
        for resource in lost:
            self._tell(resource)
        while self._servers:
            server, threads = self._servers.pop()
            server.stop(None).wait()
            threads.shutdown()
        for path in (self.pod_resources, self.plugins / "kubelet.sock"):
            _leave_dead(path)

    def restart(self) -> None:
        """Stop and start: plugins have to register anew."""
        self.stop()
        self.start()

    def _serve(self, path: Path, service: str, name: str, kind: Any, answer: Callable[[Any, Any], Any]) -> None:
        handler = grpc.unary_unary_rpc_method_handler(answer, partial(decode, kind), encode)
        threads = ThreadPoolExecutor(8, thread_name_prefix="kubelet")
        server = grpc.server(threads)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {name: handler}),))
        server.add_insecure_port(f"unix:{path}")
        server.start()
        self._servers.append((server, threads))

    # -- plugins --------------------------------------------------------------------------------------------------------

    def _register(self, request: wire.RegisterRequest, context: Any) -> wire.Empty:
        if request.version != wire.API_VERSION:
            context.abort(
                grpc.StatusCode.UNKNOWN,
                f'requested API version "{request.version}" is not supported by kubelet. '
                f'Supported version is ["{wire.API_VERSION}"]',
            )
        if not _RESOURCE.fullmatch(request.resource_name):
            context.abort(grpc.StatusCode.UNKNOWN, f'the ResourceName "{request.resource_name}" is invalid')
        plugin = Plugin(self.plugins / request.endpoint, request.resource_name, self._changed)
        try:
            plugin.ask_options(min(_MOST_WAIT_S, context.time_remaining() or _MOST_WAIT_S))
        except grpc.RpcError as exc:
            plugin.close()
            context.abort(grpc.StatusCode.UNKNOWN, f"failed to dial device plugin: {exc.code().name}")
        self._note(Call("GetDevicePluginOptions", request.resource_name, request.endpoint))
        with self._lock:
            resource = self._resources.setdefault(request.resource_name, _Resource())
            resource.plugin = plugin  # the newest wins; the stream of an older one stays open, and nobody listens
            self._plugins.add(plugin)
            plugin.follow()
        self._note(Call("Register", request.resource_name, request.endpoint))
        return wire.Empty()

    def _changed(self, plugin: Plugin, found: wire.DeviceList | None) -> None:
        with self._lock:
            resource = self._resources[plugin.resource]
            if resource.plugin is not plugin:
                return
            if found is None:
                resource.plugin = None
                resource.devices = dict.fromkeys(resource.devices, wire.UNHEALTHY)
            else:
                resource.devices = {device.id: device.health for device in found.devices}
        self._note(Call("ListAndWatch" if found else "gone", plugin.resource, plugin.socket.name))
        self._tell(plugin.resource)

    def _tell(self, resource: str) -> None:
        if self.on_change is not None:
            self.on_change(resource, self.allocatable(resource))

    def _note(self, call: Call) -> None:
        with self._lock:
            self.calls.append(call)

    def said(self, name: str) -> list[Call]:
        """The calls with this name, in their order."""
        with self._lock:
            return [call for call in self.calls if call.name == name]

    # -- the node's status ----------------------------------------------------------------------------------------------

    def capacity(self, resource: str) -> int:
        """How many devices the node's status says there are; a retired resource stays, at the last number."""
        with self._lock:
            found = self._resources.get(resource)
            return len(found.devices) if found else 0

    def allocatable(self, resource: str) -> int:
        """How many of them are healthy; those that pods have are among them."""
        with self._lock:
            found = self._resources.get(resource)
            return sum(health == wire.HEALTHY for health in found.devices.values()) if found else 0

    def health(self, resource: str) -> dict[str, str]:
        """The health of each device, by id."""
        with self._lock:
            found = self._resources.get(resource)
            return dict(found.devices) if found else {}

    # -- pods -----------------------------------------------------------------------------------------------------------

    def admit(self, namespace: str, pod: str, wanted: Mapping[str, int], *, container: str = "notebook") -> Grant:
        """Give a container of a pod its devices. Raises NotEnough and AdmissionError; then nothing is given."""
        with self._admission:
            devices, answers = {}, []
            for resource, count in wanted.items():
                ids, answer = self._give(resource, count)
                devices[resource] = ids
                answers.append(answer)
            grant = Grant(namespace=namespace, pod=pod, container=container, devices=devices, answers=tuple(answers))
            with self._lock:
                self._grants.append(grant)
            return grant

    def remove(self, namespace: str, pod: str) -> None:
        """Delete a pod: its processes end, its devices are free. Safe to repeat."""
        with self._lock:
            of_pod = [one for one in self._grants if (one.namespace, one.pod) == (namespace, pod)]
        for grant in of_pod:
            grant.end()
        with self._lock:
            self._grants = [one for one in self._grants if one not in of_pod]

    def _give(self, resource: str, count: int) -> tuple[tuple[str, ...], wire.ContainerAnswer]:
        with self._lock:
            found = self._resources.get(resource, _Resource())
            taken = {one for grant in self._grants for one in grant.devices.get(resource, ())}
            known, plugin = dict(found.devices), found.plugin
        free = tuple(one for one, health in known.items() if health == wire.HEALTHY and one not in taken)
        if plugin is None and known:
            why = f"no healthy devices present; cannot allocate unhealthy devices {resource}"
            raise AdmissionError(_UNEXPECTED.format(why=why))
        if plugin is None or len(free) < count:
            raise NotEnough(f"{resource}: {count} wanted, {len(free)} free")
        try:
            ids = free[:count]
            if plugin.options.get_preferred_allocation_available:
                ids = plugin.prefer(free, (), count)
                self._note(Call("GetPreferredAllocation", resource, plugin.socket.name, ids))
            answer = plugin.allocate(ids)
        except grpc.RpcError as exc:
            code = "".join(part.capitalize() for part in exc.code().name.split("_"))
            why = f"rpc error: code = {code} desc = {exc.details()}"
            raise AdmissionError(_UNEXPECTED.format(why=why)) from exc
        self._note(Call("Allocate", resource, plugin.socket.name, ids))
        return ids, answer

    def _list(self, _request: wire.Empty, _context: Any) -> wire.PodResourcesList:
        """One entry per device, as it was recorded."""
        with self._lock:
            grants = list(self._grants)
        pods: dict[tuple[str, str], list[wire.ContainerResources]] = {}
        for grant in grants:
            devices = tuple(
                wire.ContainerDevices(resource, (one,)) for resource, ids in grant.devices.items() for one in ids
            )
            pods.setdefault((grant.namespace, grant.pod), []).append(wire.ContainerResources(grant.container, devices))
        return wire.PodResourcesList(
            tuple(wire.PodResources(pod, namespace, tuple(made)) for (namespace, pod), made in pods.items())
        )


def _leave_dead(path: Path) -> None:
    """The socket that nobody listens on any more, as a kubelet leaves it behind."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
