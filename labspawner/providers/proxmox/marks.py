"""How a VM says whose it is: a marker in its description, tags that one listing of the cluster shows, and its name. Pure.

The marker is exact and the tags are quick; either alone is enough to find a VM again. The number of a VM says nothing: it may
have been given to another one since.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from labspawner.model import LeaseId
from labspawner.naming import safe_name

OURS = "labspawner"
QUARANTINE = "ls-quarantine"
_HUB, _LEASE, _ADDRESS = "ls-hub-", "ls-lease-", "ls-ip-"
_MARKER = re.compile(r"labspawner1\.([A-Za-z0-9_-]{1,6000})")
_UUID = re.compile(r"(?:^|,)uuid=([0-9A-Fa-f-]{36})(?:,|$)")
_MAC = re.compile(r"(?:^|,)(?:[a-z0-9-]+=|macaddr=)([0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5})(?:,|$)")
_LEASE_NAME = re.compile(r"-(l[a-z0-9]{15})$")
MOST_NAME = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """Whose a VM is. address: the static one that it was given; empty: it asks a DHCP server."""

    hub_id: str
    lease_id: LeaseId
    user: str
    server_name: str = ""
    profile: str = ""
    address: str = ""


def describe(marker: Marker) -> str:
    """The description of a VM: a line that people can read, and in it the marker, which survives whatever PVE does to text.

    Percent signs would be decoded on the way, so the exact part is base64url of JSON.
    """
    fields = [marker.hub_id, marker.lease_id, marker.user, marker.server_name, marker.profile, marker.address]
    exact = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    packed = base64.urlsafe_b64encode(exact).decode().rstrip("=")
    shown = {
        "hub": marker.hub_id,
        "lease": marker.lease_id,
        "user": safe_name(marker.user),
        "server": safe_name(marker.server_name) if marker.server_name else "-",
    }
    words = " ".join(f"{key}={value}" for key, value in shown.items())
    return f"A student's server, kept by labspawner: do not edit this text. {words} marker=labspawner1.{packed}"


def read_marker(description: object) -> Marker | None:
    """The marker in a description; None where there is none, or one that was changed."""
    found = _MARKER.search(description) if isinstance(description, str) else None
    if found is None:
        return None
    try:
        exact = base64.urlsafe_b64decode(found[1] + "=" * (-len(found[1]) % 4))
        fields = json.loads(exact.decode("utf-8", "surrogatepass"))
    except (ValueError, binascii.Error, RecursionError):
        return None
    if not isinstance(fields, list) or len(fields) != 6 or not all(isinstance(each, str) for each in fields):
        return None
    hub_id, lease_id, user, server_name, profile, address = fields
    return Marker(
        hub_id=hub_id, lease_id=LeaseId(lease_id), user=user, server_name=server_name, profile=profile, address=address
    )


def tags_of(hub_id: str, lease_id: LeaseId, *, address: str = "", quarantined: bool = False) -> str:
    """The tags of a VM as PVE stores them: small letters, sorted, with semicolons between them."""
    tags = {OURS, _HUB + hub_id.lower(), _LEASE + lease_id.lower()}
    if address:
        tags.add(_ADDRESS + address.lower().replace(":", "+"))  # PVE has no colon in tags
    if quarantined:
        tags.add(QUARANTINE)
    return ";".join(sorted(tags))


def lease_of_tags(tags: Iterable[str], hub_id: str) -> LeaseId | None:
    """The lease whose VM has these tags; None where it is not this hub's."""
    found = frozenset(tags)
    if _HUB + hub_id.lower() not in found:
        return None
    leases = sorted(tag.removeprefix(_LEASE) for tag in found if tag.startswith(_LEASE))
    return LeaseId(leases[0]) if len(leases) == 1 else None


def hub_of_tags(tags: Iterable[str]) -> frozenset[str]:
    """The ids of the hubs that the tags name, in small letters; one, of a VM that nobody has edited."""
    return frozenset(tag.removeprefix(_HUB) for tag in tags if tag.startswith(_HUB))


def address_of_tags(tags: Iterable[str]) -> str:
    """The static address that the tags name; empty where there is none."""
    found = sorted(tag.removeprefix(_ADDRESS) for tag in tags if tag.startswith(_ADDRESS))
    return found[0].replace("+", ":") if found else ""


def clone_name(user: str, lease_id: LeaseId) -> str:
    """The name of a VM while it is cloned: it holds the lease, since tags come only afterwards."""
    return f"{_stem(user, MOST_NAME - len(lease_id) - 1)}-{lease_id}"


def lease_of_name(name: str) -> LeaseId | None:
    """The lease in the name of a clone; a hint only, which the description proves."""
    found = _LEASE_NAME.search(name)
    return LeaseId(found[1]) if found else None


def host_name(user: str, lease_id: LeaseId) -> str:
    """The name that a VM has for its student: theirs, and four letters that make it different from their next one."""
    return f"{_stem(user, 40)}-{lease_id[-4:].lower()}"


def uuid_of(config: Mapping[str, Any]) -> str | None:
    """The SMBIOS uuid in a configuration, in small letters. PVE makes a new one for each clone."""
    found = _UUID.search(str(config.get("smbios1") or ""))
    return found[1].lower() if found else None


def mac_of(config: Mapping[str, Any]) -> str | None:
    """The MAC address of net0, in small letters."""
    found = _MAC.search(str(config.get("net0") or ""))
    return found[1].lower() if found else None


def same_vm(config: Mapping[str, Any], *, hub_id: str, lease_id: LeaseId, uuid: str | None = None) -> bool:
    """Whether a configuration is that of the lease's VM, and not of one that got its number later. uuid: as it was made;
    None: not seen yet."""
    marker = read_marker(config.get("description"))
    if marker is None or (marker.hub_id, marker.lease_id) != (hub_id, lease_id):
        return False
    return uuid is None or uuid_of(config) in {None, uuid.lower()}


def _stem(user: str, most: int) -> str:
    """A DNS label of at most `most` characters, made of a user's name."""
    stem = re.sub(r"[^a-z0-9]+", "-", safe_name(user).lower()).strip("-")[:most].strip("-")
    return stem or "x"
