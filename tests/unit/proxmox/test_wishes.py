"""Which nodes have a device that a profile wants."""

from __future__ import annotations

import pytest

from labspawner.providers.proxmox.wishes import MANY, PciWish, devices

MAPPINGS = [
    {
        "id": "gpu",
        "type": "pci",
        "map": [
            "id=10de:2684,node=pve1,path=0000:01:00",
            "node=pve1,path=0000:02:00,iommugroup=17",
            "path=0000:01:00,node=pve3",
        ],
    },
    {"id": "usb", "map": ["node=pve2,path=0000:09:00"]},
]


def test_a_mapping_with_several_devices_on_a_node_is_a_pool():
    assert devices(MAPPINGS, PciWish(mapping="gpu")) == {"pve1": 2, "pve3": 1}


def test_a_device_with_vgpu_types_is_shared():
    assert devices(MAPPINGS, PciWish(mapping="usb", type="nvidia-231")) == {"pve2": MANY}


@pytest.mark.parametrize(
    "answer",
    [[], None, "no", 5, [None], [{"id": "gpu"}], [{"id": "gpu", "map": [None, "", "node", "path=x", "node="]}]],
)
def test_a_mapping_that_is_not_told_is_nowhere(answer: object):
    assert devices(answer, PciWish(mapping="gpu")) == {}
