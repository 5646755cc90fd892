"""The door to Proxmox VE: the only place that knows proxmoxer and requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labspawner.providers.proxmox.access import Access, EndpointHealth, Health, Way
from labspawner.providers.proxmox.pace import CLOCK, Pace

__all__ = ["Access", "Client", "EndpointHealth", "Health", "Way"]


class Client:
    """One cluster, as one account. Calls come from one event loop; none holds it up, and none outlasts its deadline."""

    def __init__(self, access: Access, *, pace: Pace = CLOCK, threads: int = 8, connect_s: float = 5.0) -> None:
        raise NotImplementedError

    async def get(self, path: str, *, node: str | None = None, within_s: float = 30.0, **params: Any) -> Any:
        """What is there. path: `/nodes/pve1/qemu/100/config`, parts percent-encoded. Asked again, at other endpoints, until
        there is an answer or `within_s` passed. Raises PveRefused and PveSilent."""
        raise NotImplementedError

    async def post(self, path: str, *, node: str | None = None, within_s: float = 60.0, **params: Any) -> Any:
        """Do something, at most once: a UPID, null, or data. params: None is left out, booleans are 0 and 1, lists repeat
        the key. node: whose own endpoint is preferred, where its host has that name. Raises PveRefused and PveSilent."""
        raise NotImplementedError

    async def put(self, path: str, *, node: str | None = None, within_s: float = 60.0, **params: Any) -> Any:
        """The same for a change."""
        raise NotImplementedError

    async def delete(self, path: str, *, node: str | None = None, within_s: float = 60.0, **params: Any) -> Any:
        """The same for a removal."""
        raise NotImplementedError

    async def way(self, *, node: str | None = None) -> Way:
        """The endpoint that is believed good now, with credentials. Asks nothing, except for a ticket where one is needed."""
        raise NotImplementedError

    def health(self) -> Health:
        """What is known of the endpoints and the credentials, without asking."""
        raise NotImplementedError

    def counts(self) -> Mapping[tuple[str, str], int]:
        """How many requests were sent, by method and route: ("POST", "/nodes/{node}/qemu/{vmid}/clone")."""
        raise NotImplementedError

    def clock_skew_s(self) -> Mapping[str, float]:
        """By endpoint: its clock minus ours, from the date of its last answer, to about a second."""
        raise NotImplementedError

    async def close(self) -> None:
        """Give threads and connections back. Calls under way fail; a later call fails."""
        raise NotImplementedError
