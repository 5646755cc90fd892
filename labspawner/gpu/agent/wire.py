"""The messages of the kubelet's device plugin API v1beta1 and of its pod-resources API v1, as values and as bytes. Pure.

A small codec of our own for what these two APIs use of protocol buffers (proto3: varints, strings, messages, maps), so that
no generated file and no second runtime is needed. Names of services and methods, and the numbers of the fields, are the
Kubernetes project's interface (k8s.io/kubelet, deviceplugin/v1beta1 and podresources/v1); tests compare the bytes with
protobuf's own and with what a real kubelet wrote.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

API_VERSION = "v1beta1"
REGISTRATION, DEVICE_PLUGIN, POD_RESOURCES = "v1beta1.Registration", "v1beta1.DevicePlugin", "v1.PodResourcesLister"
HEALTHY, UNHEALTHY = "Healthy", "Unhealthy"

T = TypeVar("T")
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_64 = 2**64


class WireError(ValueError):
    """The bytes are no such message."""


def _scalar(number: int, default: Any) -> Any:
    return dataclasses.field(default=default, metadata={"number": number})


def _one(number: int, kind: type[Any]) -> Any:
    return dataclasses.field(default=None, metadata={"number": number, "message": kind})


def _many(number: int, kind: type[Any] = str) -> Any:
    return dataclasses.field(default=(), metadata={"number": number, "message": kind, "many": True})


def _pairs(number: int) -> Any:
    return dataclasses.field(default_factory=dict, metadata={"number": number, "pairs": True})


@dataclass(frozen=True, slots=True)
class Empty:
    """Nothing."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a plugin wants to be asked."""

    pre_start_required: bool = _scalar(1, False)
    get_preferred_allocation_available: bool = _scalar(2, False)


@dataclass(frozen=True, slots=True)
class RegisterRequest:
    """A plugin, to the kubelet. endpoint: the name of its socket in the kubelet's folder."""

    version: str = _scalar(1, "")
    endpoint: str = _scalar(2, "")
    resource_name: str = _scalar(3, "")
    options: Options | None = _one(4, Options)


@dataclass(frozen=True, slots=True)
class NumaNode:
    """A NUMA node of the host."""

    id: int = _scalar(1, 0)


@dataclass(frozen=True, slots=True)
class Topology:
    """Where a device is."""

    nodes: tuple[NumaNode, ...] = _many(1, NumaNode)


@dataclass(frozen=True, slots=True)
class Device:
    """One unit of a resource. health: HEALTHY or UNHEALTHY."""

    id: str = _scalar(1, "")
    health: str = _scalar(2, "")
    topology: Topology | None = _one(3, Topology)


@dataclass(frozen=True, slots=True)
class DeviceList:
    """All devices of a plugin; sent anew with each change."""

    devices: tuple[Device, ...] = _many(1, Device)


@dataclass(frozen=True, slots=True)
class ContainerPreference:
    """Which `size` of the available devices would be best, those that must be in it included."""

    available: tuple[str, ...] = _many(1)
    must_include: tuple[str, ...] = _many(2)
    size: int = _scalar(3, 0)


@dataclass(frozen=True, slots=True)
class PreferenceRequest:
    containers: tuple[ContainerPreference, ...] = _many(1, ContainerPreference)


@dataclass(frozen=True, slots=True)
class DeviceIds:
    ids: tuple[str, ...] = _many(1)


@dataclass(frozen=True, slots=True)
class PreferenceResponse:
    containers: tuple[DeviceIds, ...] = _many(1, DeviceIds)


@dataclass(frozen=True, slots=True)
class AllocateRequest:
    """Devices for containers that are about to be made; of which pod, it does not say."""

    containers: tuple[DeviceIds, ...] = _many(1, DeviceIds)


@dataclass(frozen=True, slots=True)
class Mount:
    container_path: str = _scalar(1, "")
    host_path: str = _scalar(2, "")
    read_only: bool = _scalar(3, False)


@dataclass(frozen=True, slots=True)
class DeviceNode:
    container_path: str = _scalar(1, "")
    host_path: str = _scalar(2, "")
    permissions: str = _scalar(3, "")


@dataclass(frozen=True, slots=True)
class CdiDevice:
    name: str = _scalar(1, "")


@dataclass(frozen=True, slots=True)
class ContainerAnswer:
    """What a container gets with its devices."""

    envs: Mapping[str, str] = _pairs(1)
    mounts: tuple[Mount, ...] = _many(2, Mount)
    devices: tuple[DeviceNode, ...] = _many(3, DeviceNode)
    annotations: Mapping[str, str] = _pairs(4)
    cdi_devices: tuple[CdiDevice, ...] = _many(5, CdiDevice)


@dataclass(frozen=True, slots=True)
class AllocateResponse:
    containers: tuple[ContainerAnswer, ...] = _many(1, ContainerAnswer)


@dataclass(frozen=True, slots=True)
class ContainerDevices:
    """Devices of one resource that a container has. A container may have several entries of the same resource."""

    resource_name: str = _scalar(1, "")
    device_ids: tuple[str, ...] = _many(2)


@dataclass(frozen=True, slots=True)
class ContainerResources:
    name: str = _scalar(1, "")
    devices: tuple[ContainerDevices, ...] = _many(2, ContainerDevices)


@dataclass(frozen=True, slots=True)
class PodResources:
    name: str = _scalar(1, "")
    namespace: str = _scalar(2, "")
    containers: tuple[ContainerResources, ...] = _many(3, ContainerResources)


@dataclass(frozen=True, slots=True)
class PodResourcesList:
    """All pods of the node, and what they have."""

    pods: tuple[PodResources, ...] = _many(1, PodResources)


def encode(message: Any) -> bytes:
    """The bytes of a message. Zero values are left out, as proto3 does."""
    out = bytearray()
    for field in dataclasses.fields(message):
        number, value = field.metadata["number"], getattr(message, field.name)
        if field.metadata.get("pairs"):
            for key, text in value.items():
                _put(out, number, _entry(key, text))
        elif field.metadata.get("many"):
            for one in value:
                _put(out, number, one.encode() if isinstance(one, str) else encode(one))
        elif "message" in field.metadata:
            if value is not None:
                _put(out, number, encode(value))
        elif isinstance(value, str):
            if value:
                _put(out, number, value.encode())
        elif value:
            out += _varint(number << 3 | _VARINT) + _varint(int(value) % _64)
    return bytes(out)


def decode(kind: type[T], data: bytes) -> T:
    """The message in `data`. Raises WireError. Fields that we do not know are left out."""
    fields = {field.metadata["number"]: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for number, found in _fields(data):
        if (field := fields.get(number)) is None:
            continue
        if field.metadata.get("pairs"):
            entry = dict(_fields(_content(found)))
            values.setdefault(field.name, {})[_text(entry.get(1, b""))] = _text(entry.get(2, b""))
        elif "message" in field.metadata:
            inner = field.metadata["message"]
            one = _text(found) if inner is str else decode(inner, _content(found))
            values[field.name] = (*values.get(field.name, ()), one) if field.metadata.get("many") else one
        elif isinstance(field.default, str):
            values[field.name] = _text(found)
        elif isinstance(found, bytes):
            raise WireError(f"field {number} is no number")
        else:
            signed = found - _64 if found >= _64 // 2 else found
            values[field.name] = bool(signed) if isinstance(field.default, bool) else signed
    return kind(**values)


def _entry(key: str, text: str) -> bytes:
    entry = bytearray()
    for number, part in ((1, key), (2, text)):
        if part:
            _put(entry, number, part.encode())
    return bytes(entry)


def _put(out: bytearray, number: int, content: bytes) -> None:
    out += _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Each field in turn: its number, and what stands there."""
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _read_varint(data, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _read_varint(data, at)
        elif kind in {_FIXED64, _FIXED32}:
            size = 8 if kind == _FIXED64 else 4
        else:
            raise WireError(f"field {number} is of the unknown kind {kind}")
        if at + size > len(data):
            raise WireError(f"field {number} was cut short")
        yield number, data[at : at + size]
        at += size


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value % _64, at
    raise WireError("a number does not end")


def _content(found: int | bytes) -> bytes:
    if isinstance(found, int):
        raise WireError("a number stands where a message belongs")
    return found


def _text(found: int | bytes) -> str:
    try:
        return _content(found).decode()
    except UnicodeDecodeError as exc:
        raise WireError(f"a text is not UTF-8: {exc}") from exc
