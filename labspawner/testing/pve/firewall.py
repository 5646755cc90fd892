"""The firewall of a VM: its options and address sets, kept and shown, not enforced."""

from __future__ import annotations

from typing import Any

from labspawner.testing.pve.call import Call, Params, invalid
from labspawner.testing.pve.schema import FLAG, TEXT, Kind

_POLICY = Kind(values=("ACCEPT", "REJECT", "DROP"))
OPTIONS: dict[str, Kind] = {
    "enable": FLAG,
    "macfilter": FLAG,
    "ipfilter": FLAG,
    "dhcp": FLAG,
    "ndp": FLAG,
    "radv": FLAG,
    "policy_in": _POLICY,
    "policy_out": _POLICY,
    "log_level_in": TEXT,
    "log_level_out": TEXT,
    "delete": TEXT,
    "digest": Kind(longest=64),
}
SET = {"name": Kind(required=True, pattern=r"[A-Za-z][A-Za-z0-9\-_]+", longest=64), "comment": TEXT, "digest": TEXT}
MEMBER = {"cidr": Kind(required=True), "comment": TEXT, "nomatch": FLAG}
_NOT_KEPT = ("delete", "digest")


async def options(call: Call) -> Params:
    return dict(call.vm().firewall)


async def change(call: Call) -> None:
    vm = call.vm()
    for key in str(call.params.get("delete", "")).split(","):
        vm.firewall.pop(key, None)
    vm.firewall.update({key: value for key, value in call.params.items() if key not in _NOT_KEPT})


async def sets(call: Call) -> list[dict[str, Any]]:
    return [{"name": name} for name in call.vm().ipsets]


async def new_set(call: Call) -> None:
    vm, name = call.vm(), str(call.params["name"])
    if name in vm.ipsets:
        raise invalid(name=f"IPSet '{name}' already exists")
    vm.ipsets[name] = []


async def members(call: Call) -> list[dict[str, Any]]:
    return [{"cidr": cidr} for cidr in _set(call)]


async def new_member(call: Call) -> None:
    found, cidr = _set(call), str(call.params["cidr"])
    if cidr in found:
        raise invalid(cidr=f"address '{cidr}' already exists")
    found.append(cidr)


async def drop_member(call: Call) -> None:
    found = _set(call)
    if call.names["cidr"] in found:
        found.remove(call.names["cidr"])


def _set(call: Call) -> list[str]:
    name = call.names["name"]
    found = call.vm().ipsets.get(name)
    if found is None:
        raise invalid(name=f"no such IPSet '{name}'")
    return found
