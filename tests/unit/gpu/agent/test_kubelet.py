"""Who has what, as kubelets say it; and the identity of sockets, whose inode numbers come back."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from labspawner.gpu.agent.kubelet import KubeletSilent, Owner, in_use, owners, owners_in, register
from labspawner.gpu.agent.plugin import identity
from labspawner.gpu.agent.wire import ContainerDevices, ContainerResources, PodResources, PodResourcesList

SMALL = "labspawner.io/gpu-small"


def a_list(*devices: ContainerDevices) -> PodResourcesList:
    return PodResourcesList((PodResources("holder", "dpdemo", (ContainerResources("c0", devices),)),))


@pytest.mark.parametrize(
    "found",
    [
        a_list(ContainerDevices(SMALL, ("small-2",)), ContainerDevices(SMALL, ("small-3",))),  # as it was recorded
        a_list(ContainerDevices(SMALL, ("small-2", "small-3"))),
    ],
    ids=["an entry each", "one entry"],
)
def test_the_devices_of_a_container_belong_together(found: PodResourcesList):
    owned = owners_in(found)

    assert owned == {("small", frozenset({"small-2", "small-3"})): Owner("dpdemo", "holder", "c0")}
    assert in_use(owned) == {"small-2", "small-3"}


def test_devices_of_others_are_left_out():
    assert owners_in(a_list(ContainerDevices("nvidia.com/gpu", ("GPU-0",)))) == {}
    assert owners_in(PodResourcesList()) == {}


def test_each_class_of_a_container_is_known_by_itself():
    owned = owners_in(a_list(ContainerDevices(SMALL, ("a",)), ContainerDevices("labspawner.io/gpu-large", ("b",))))

    assert set(owned) == {("small", frozenset("a")), ("large", frozenset("b"))}


def test_a_socket_with_the_inode_number_of_the_one_before_it_is_another(tmp_path: Path):
    """As it was recorded: the new kubelet.sock had the same inode number, and another time."""
    path = tmp_path / "kubelet.sock"
    with socket.socket(socket.AF_UNIX) as first:
        first.bind(str(path))
    before = identity(path)
    assert before is not None

    os.utime(path, ns=(before[1] + 1, before[1] + 1))

    after = identity(path)
    assert after is not None
    assert (after[0], after != before) == (before[0], True)


def test_a_socket_that_is_not_there_has_no_identity(tmp_path: Path):
    assert identity(tmp_path / "kubelet.sock") is None


async def test_a_kubelet_that_is_not_there_is_silent(tmp_path: Path):
    with pytest.raises(KubeletSilent, match="UNAVAILABLE"):
        await register(tmp_path / "kubelet.sock", "labspawner-small.sock", SMALL)
    with pytest.raises(KubeletSilent, match="UNAVAILABLE"):
        await owners(tmp_path / "kubelet.sock")
