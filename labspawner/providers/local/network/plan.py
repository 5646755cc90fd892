"""What the keeper is told to do for the network of one sandbox. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from labspawner.model import Json
from labspawner.providers.local.confinement import Network
from labspawner.providers.local.network.address import LOOPBACK, Address

HUB_CONNECTIONS = 256
"""More at once from one server wait; the hub has others to serve."""


def network_plan(
    network: Network,
    address: Address,
    *,
    hub_port: int,
    hub_socket: Path,
    egress: Sequence[str] = (),
    deny: Sequence[str] = (),
    marks: Mapping[str, str] | None = None,
) -> dict[str, Json] | None:
    """The plan for `warm/pumps.py`; None where the server shares the host's network.

    hub_port: where the server looks for the hub, see `hub_inside`. hub_socket: where the hub serves it. egress: the
    command found by `find_egress`; it must be given for EGRESS. deny: networks, see `denied`. marks: by which what the
    keeper starts is found.
    """
    if network is Network.HOST:
        return None
    here: Json = {"tcp": [LOOPBACK, hub_port]}
    pumps: list[Json] = [
        {"in": "sandbox", "listen": here, "to": {"unix": str(hub_socket)}, "limit": HUB_CONNECTIONS},
    ]
    front: Json = {"unix": address.socket}
    if address.socket is None:
        front = {"tcp": [address.url.rpartition("//")[2].rpartition(":")[0], address.port_inside]}
    pumps.append({"in": "host", "listen": front, "to": {"tcp": [LOOPBACK, address.port_inside]}})
    plan: dict[str, Json] = {"pumps": pumps, "deny": [], "egress": None}
    if network is Network.EGRESS:
        if not egress:
            raise ValueError("no way to the world was found, so none can be promised")
        plan["deny"] = list(deny)
        plan["egress"] = {"argv": list(egress), "env": dict(marks or {})}
    return plan
