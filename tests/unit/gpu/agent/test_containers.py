"""Which slice a process is in: by its control group, whatever it does to its own view."""

from __future__ import annotations

from pathlib import Path

import pytest

from labspawner.gpu.agent.containers import ContainerKey, Containers, container_in, slice_in

UID = "34fd27b6-3c67-43a6-8e39-68e95a6d1602"
ID = "a3ab691d5dfac06022a69425d8ba5e06919cc1fc4140201e6e9f72935b0b0f14"
KEY = ContainerKey(UID, ID)
V2 = f"0::/kubepods.slice/kubepods-besteffort-pod{UID.replace('-', '_')}.slice/cri-containerd-{ID}.scope\n"
SHOWN = "512 500 0:25 {root} /etc/labspawner/slice ro,relatime - tmpfs tmpfs rw\n"


@pytest.mark.parametrize(
    "text",
    [
        V2,
        f"0::/kubepods/burstable/pod{UID}/{ID}\n",
        f"12:memory:/kubepods/besteffort/pod{UID}/{ID}\n1:name=systemd:/kubepods/besteffort/pod{UID}/{ID}\n",
        f"0::/../../kubepods-pod{UID.replace('-', '_')}.slice/crio-{ID}.scope/container\n",
        f"0::/kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice/docker-{ID}.scope\n",
        f"0::/system.slice/k3s.service/kubepods/pod{UID}/{ID}/jupyter.slice\n",
    ],
    ids=["containerd", "cgroupfs", "v1", "cri-o from inside", "docker", "k3s with a child"],
)
def test_a_control_group_names_pod_and_container(text: str):
    assert container_in(text) == KEY


@pytest.mark.parametrize(
    "text",
    ["", "0::/\n", "0::/user.slice/user-0.slice/session-1.scope\n", f"0::/kubepods/pod{UID}\n", f"0::/docker/{ID}\n"],
)
def test_a_process_of_no_pod_is_in_no_container(text: str):
    assert container_in(text) is None


@pytest.mark.parametrize(
    ("root", "name"),
    [
        ("/labspawner/gpu/slices/small-1/slice", "small-1"),
        ("/labspawner/gpu/old/small-1.0a1b2c3d/slice", "small-1"),
        ("/labspawner/gpu/old/small-1.0a1b2c3d/slice//deleted", "small-1"),
        ("/labspawner/gpu/slices/other-1/slice", None),
        ("/slice", None),
        ("/", None),
    ],
)
def test_the_mounts_name_the_slice(root: str, name: str | None):
    text = "1 0 8:1 / / rw - ext4 /dev/sda rw\n" + SHOWN.format(root=root)

    assert slice_in(text, ["small-1", "small-2"]) == name


def test_a_mount_somewhere_else_says_nothing():
    assert slice_in("512 500 0:25 /slices/small-1/slice /home/ann/slice ro - tmpfs tmpfs rw\n", ["small-1"]) is None


def a_process(proc: Path, pid: int, *, cgroup: str = V2, mountinfo: str = "") -> None:
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "cgroup").write_text(cgroup)
    (proc / str(pid) / "mountinfo").write_text(mountinfo)


def test_who_hides_the_mounts_from_himself_is_known_by_his_container(tmp_path: Path):
    a_process(tmp_path, 100, mountinfo=SHOWN.format(root="/slices/small-1/slice"))
    a_process(tmp_path, 101)
    a_process(tmp_path, 102, cgroup="0::/user.slice\n", mountinfo=SHOWN.format(root="/slices/small-1/slice"))
    containers = Containers(tmp_path)

    containers.look(["small-1"])

    assert [containers.slice_of(pid) for pid in (100, 101, 102, 103)] == ["small-1", "small-1", None, None]


def test_a_container_that_ended_is_forgotten(tmp_path: Path):
    a_process(tmp_path, 100, mountinfo=SHOWN.format(root="/slices/small-1/slice"))
    containers = Containers(tmp_path)
    containers.look(["small-1"])
    (tmp_path / "100" / "cgroup").write_text("0::/\n")

    containers.look(["small-1"])
    (tmp_path / "100" / "cgroup").write_text(V2)

    assert containers.slice_of(100) is None


def test_this_machine_can_be_looked_at():
    Containers().look(["small-1"])
