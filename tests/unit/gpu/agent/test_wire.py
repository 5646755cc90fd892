"""Our bytes are protobuf's, and those of a real kubelet; anything else is refused."""

from __future__ import annotations

import base64
import dataclasses
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labspawner.gpu.agent import wire
from labspawner.gpu.agent.wire import WireError, decode, encode

PROTO = Path(__file__).with_name("kubelet.proto")
RECORDED = (
    "ChYKC0xBQl9ERVZJQ0VTEgdzbWFsbC0zEisKDS9vcHQvbGFiLWRlbW8SGC92YXIvbGliL2xhYnNwYXduZXItZGVtbxgBGh4KDS9kZXYvbGFiLW51"
    "bGwSCS9kZXYvbnVsbBoCcnciFwoSbGFic3Bhd25lci5pby9kZW1vEgEx"
)
"""What a kubelet 1.34.2 kept of an answer to Allocate, in its checkpoint file."""

ANSWER = wire.ContainerAnswer(
    envs={"LAB_DEVICES": "small-3"},
    mounts=(wire.Mount("/opt/lab-demo", "/var/lib/labspawner-demo", True),),
    devices=(wire.DeviceNode("/dev/lab-null", "/dev/null", "rw"),),
    annotations={"labspawner.io/demo": "1"},
)
MESSAGES: list[Any] = [
    wire.Empty(),
    wire.RegisterRequest("v1beta1", "lab.sock", "labspawner.io/gpu-small", wire.Options(True, True)),
    wire.RegisterRequest("v1beta1", "lab.sock", "labspawner.io/gpu-small"),
    wire.DeviceList(
        (
            wire.Device("small-0", wire.HEALTHY, wire.Topology((wire.NumaNode(0), wire.NumaNode(300)))),
            wire.Device("größe-1", wire.UNHEALTHY),
        )
    ),
    wire.PreferenceRequest((wire.ContainerPreference(("a", "b", "c"), ("b",), 2), wire.ContainerPreference(size=-1))),
    wire.PreferenceResponse((wire.DeviceIds(("b", "a")),)),
    wire.AllocateRequest((wire.DeviceIds(("a" * 300,)), wire.DeviceIds())),
    wire.AllocateResponse((dataclasses.replace(ANSWER, cdi_devices=(wire.CdiDevice("nvidia.com/gpu=GPU-0"),)),)),
    wire.PodResourcesList(
        (wire.PodResources("one", "dpdemo", (wire.ContainerResources("c0", (wire.ContainerDevices("r", ("a",)),)),)),)
    ),
]


@pytest.fixture(scope="module")
def protobuf(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """protobuf's own classes for kubelet.proto."""
    pytest.importorskip("google.protobuf", reason="protobuf is not installed")
    folder = tmp_path_factory.mktemp("proto")
    words = ["-m", "grpc_tools.protoc", f"-I{PROTO.parent}", f"--python_out={folder}", str(PROTO)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=300, check=False)
    if "No module named" in done.stderr:
        pytest.skip("grpcio-tools is not installed")
    assert done.returncode == 0, done.stderr
    spec = importlib.util.spec_from_file_location("labspawner_test_kubelet_pb2", folder / "kubelet_pb2.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_a_real_kubelet_wrote_is_read_and_written_the_same():
    recorded = base64.b64decode(RECORDED)

    assert decode(wire.ContainerAnswer, recorded) == ANSWER
    assert encode(ANSWER) == recorded


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_protobuf_reads_what_we_write_and_writes_what_we_read(protobuf: Any, message: Any):
    theirs = getattr(protobuf, type(message).__name__)()

    theirs.ParseFromString(encode(message))

    assert theirs.SerializeToString(deterministic=True) == encode(message)
    assert decode(type(message), theirs.SerializeToString()) == message


def test_every_message_has_the_fields_of_the_interface(protobuf: Any):
    kinds = [kind for kind in vars(wire).values() if isinstance(kind, type) and dataclasses.is_dataclass(kind)]

    for kind in kinds:
        theirs = {field.name: field.number for field in getattr(protobuf, kind.__name__).DESCRIPTOR.fields}
        ours = {field.name: field.metadata["number"] for field in dataclasses.fields(kind)}
        assert ours.items() <= theirs.items(), kind


def test_fields_that_we_do_not_know_are_left_alone(protobuf: Any):
    theirs = protobuf.PodResourcesList()
    container = theirs.pods.add(name="one", namespace="jhub").containers.add(name="c0", cpu_ids=[1, 2])
    container.devices.add(resource_name="r", device_ids=["a"]).topology.nodes.add(id=1)

    found = decode(wire.PodResourcesList, theirs.SerializeToString())

    assert found.pods[0].containers[0] == wire.ContainerResources("c0", (wire.ContainerDevices("r", ("a",)),))


def test_fixed_size_fields_that_we_do_not_know_are_skipped():
    assert decode(wire.Mount, b"\x79" + b"\0" * 8 + b"\x7d" + b"\0" * 4 + b"\x0a\x01/") == wire.Mount("/")


@pytest.mark.parametrize(
    "data",
    [b"\x0a\x05ab", b"\x0a", b"\x80", b"\x0b", b"\x0a\x01\xff", b"\x08\x01", b"\x1a\x01a", b"\xff" * 12],
    ids=["cut", "no size", "no end", "a group", "no UTF-8", "a number for a text", "a text for a flag", "endless"],
)
def test_bytes_that_are_no_such_message_are_refused(data: bytes):
    with pytest.raises(WireError):
        decode(wire.Mount, data)


@given(st.binary(max_size=64))
def test_any_bytes_are_a_message_or_refused(data: bytes):
    for kind in (wire.ContainerAnswer, wire.PodResourcesList, wire.RegisterRequest):
        try:
            found = decode(kind, data)
        except WireError:
            continue
        assert decode(kind, encode(found)) == found
