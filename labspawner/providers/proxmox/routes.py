"""Paths of the API as routes, so that requests can be counted without a line for each VM."""

from __future__ import annotations

import re

_PARTS = (
    (re.compile(r"^/nodes/[^/]+"), "/nodes/{node}"),
    (re.compile(r"/(qemu|lxc)/\d+"), r"/\1/{vmid}"),
    (re.compile(r"/tasks/[^/]+"), "/tasks/{upid}"),
    (re.compile(r"/content/.+"), "/content/{volume}"),
    (re.compile(r"/(storage|snapshot|pools)/[^/]+"), r"/\1/{name}"),
    (re.compile(r"/(mapping|hardware)/(pci|usb)/[^/]+"), r"/\1/\2/{name}"),
    (re.compile(r"^/access/(users|groups|roles|domains)/.+"), r"/access/\1/{name}"),
)


def route_of(path: str) -> str:
    """`/nodes/{node}/qemu/{vmid}/clone` of `/nodes/pve1/qemu/100/clone`."""
    for pattern, template in _PARTS:
        path = pattern.sub(template, path, count=1)
    return path
