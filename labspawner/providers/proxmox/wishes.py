"""What a profile says of the device that its VMs get. Pure; what such a device forbids: `courses.devices`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from pydantic import BaseModel, ConfigDict, Field, field_validator

_MAPPING = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,127}", re.ASCII)
_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)


class PciWish(BaseModel):
    """A device that is passed through: a whole GPU, or a vGPU of a type."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mapping: str = Field(
        description="Name of a resource mapping of the cluster (Datacenter, Resource Mappings). One with several devices on "
        "a node is a pool: each VM gets one that is free."
    )
    type: str | None = Field(
        default=None,
        description="Type of a vGPU, as the driver calls it, for example nvidia-231. Left out: the device.",
    )
    pcie: bool = Field(default=True, description="As a PCI Express device, which needs the machine type q35.")
    primary: bool = Field(default=False, description="As the VM's only display; its desktop page then shows nothing.")

    @field_validator("mapping")
    @classmethod
    def _mapped(cls, value: str) -> str:
        if not _MAPPING.fullmatch(value):
            raise ValueError(f"{value!r} is not the name of a resource mapping: letters, digits, '-' and '_'")
        return value

    @field_validator("type")
    @classmethod
    def _typed(cls, value: str | None) -> str | None:
        if value is not None and not _TYPE.fullmatch(value):
            raise ValueError(f"{value!r} is not a type of vGPU: write for example nvidia-231")
        return value


MANY = 1_000
"""VMs that may share a device by vGPU types: how many really, its driver knows."""


def devices(mappings: object, wish: PciWish) -> Mapping[str, int]:
    """How many VMs may have such a device, by node; those that have none are left out. mappings: the answer to
    `/cluster/mapping/pci`, in which a mapping that this account may not use does not stand."""
    found: dict[str, int] = {}
    for entry in mappings if isinstance(mappings, Iterable) and not isinstance(mappings, str) else ():
        if isinstance(entry, Mapping) and entry.get("id") == wish.mapping:
            lines = entry.get("map")
            for node in filter(None, map(_node, lines if isinstance(lines, (list, tuple)) else [lines])):
                found[node] = found.get(node, 0) + (MANY if wish.type is not None else 1)
    return found


def _node(line: object) -> str:
    """The node in a line of a mapping: `node=pve1,path=0000:01:00,id=10de:2684`."""
    parts = dict(part.split("=", 1) for part in str(line or "").split(",") if "=" in part)
    return parts.get("node", "").strip()
