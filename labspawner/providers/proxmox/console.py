"""A VM's screen: the ticket for a websocket of raw RFB, and why a console ended that gave no picture.

Facts: `vncproxy` answers before anything is known; that the VM is off, or that nobody came within 10 s, only its task
says. It runs on the node that is asked, and listens there: both steps go to the endpoint of the VM's own node where one
is configured, else to one endpoint, which reaches the VM through its cluster's SSH.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlencode

from labspawner.errors import Permanent, ProviderUnavailable
from labspawner.providers.contract import ConsoleTicket
from labspawner.providers.proxmox.answers import PveRefused, PveSilent
from labspawner.sentences import Sentence

OFF = Sentence("The machine is off. Start your server, then open its desktop again.")
GONE = Sentence("The machine behind this server does not exist any more. Start your server again.")
LATE = Sentence("The console was not opened in time. It is tried again.")
FAILED = Sentence("The host could not show the screen of this machine. If that lasts, tell your instructor.")
UNREADABLE = Sentence("The host answered with something that cannot be read.")
_LOG_LINES = 20
_OTHERS = 4
"""So many wrong endpoints are borne with; then the cluster's own SSH must do."""


class Way(Protocol):
    """Where and how an endpoint is reached without the client: for a websocket. headers carry the token."""

    @property
    def url(self) -> str: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def fingerprint(self) -> str | None: ...
    @property
    def ca_file(self) -> Path | None: ...


class Door(Protocol):
    """What a console needs of the client. node: whose endpoint is asked, where it is configured and not known bad."""

    async def get(self, path: str, /, **params: Any) -> Any: ...
    async def post(self, path: str, /, *, node: str | None = None, **params: Any) -> Any: ...
    async def way(self, *, node: str | None = None) -> Way: ...


class ConsoleOff(Permanent):
    """There is no picture of a machine that is off, or gone."""

    reason = "console_off"
    status_code = 409


async def open_console(door: Door, *, vmid: int, node: str | None, status: str) -> ConsoleTicket:
    """A new console of the VM on its present node; the websocket must be opened within 10 s.

    node, status: as the last listing has them; None: it is in no listing. Raises ConsoleOff, or what `door` raises
    (`PveRefused`, `PveSilent`), which the provider puts into words.
    """
    if node is None:
        raise ConsoleOff(GONE, detail=f"no console: vm {vmid} is in no listing")
    if status == "stopped":
        raise ConsoleOff(OFF, detail=f"no console: vm {vmid} is stopped")
    path = f"/nodes/{node}/qemu/{vmid}"
    answer, port, ticket, upid = await _proxy(door, path, vmid, node)
    way = await door.way(node=node_of(upid) or node)
    # Percent-encoded whole: a ticket has `+`, `/`, `=` and `:`, and PVE takes a `+` in a query for a blank.
    query = urlencode({"port": port, "vncticket": ticket}, quote_via=quote, safe="")
    return ConsoleTicket(
        url=f"{_websocket(way.url)}/api2/json{path}/vncwebsocket?{query}",
        headers=dict(way.headers),
        password=str(answer.get("password") or "") or password_of(ticket),
        fingerprint=way.fingerprint or None,
        ca_file=way.ca_file,
        reference=upid,
    )


async def _proxy(door: Door, path: str, vmid: int, node: str) -> tuple[Mapping[str, Any], str, str, str]:
    """What vncproxy answers, and of that port, ticket and task. Where it ran says which node the endpoint is that was asked:
    the client learns that, so asking again may reach the right one. Those in between end by themselves in 10 s."""
    seen: set[str] = set()
    while True:
        answer = await door.post(f"{path}/vncproxy", node=node, websocket=1)
        try:
            port, ticket, upid = str(answer["port"]), str(answer["ticket"]), str(answer["upid"])
        except (KeyError, TypeError) as exc:
            raise ProviderUnavailable(
                UNREADABLE, detail=f"vncproxy of vm {vmid} gave no port, ticket and upid"
            ) from exc
        ran_on = node_of(upid) or node
        if ran_on == node or ran_on in seen or len(seen) >= _OTHERS:
            return answer, port, ticket, upid
        seen.add(ran_on)


async def why_ended(door: Door, upid: str) -> Sentence | None:
    """What the console's task says of its end; None where it runs, ended in order, or its node does not answer."""
    node = node_of(upid)
    if node is None:
        return None
    path = f"/nodes/{node}/tasks/{quote(upid, safe='')}"
    try:
        status = await door.get(f"{path}/status")
        if status.get("status") != "stopped" or status.get("exitstatus") == "OK":
            return None
        lines = await door.get(f"{path}/log", start=0, limit=_LOG_LINES)
    except (PveRefused, PveSilent, AttributeError):
        return None
    told = [str(line.get("t", "")) for line in lines if isinstance(line, dict)] if isinstance(lines, list) else []
    return reading(str(status.get("exitstatus", "")), told)


def reading(exitstatus: str, lines: list[str]) -> Sentence:
    """What the end of a console means for who looked. Texts as recorded from 8.4."""
    if any(line.startswith("VM ") and line.rstrip().endswith("not running") for line in lines):
        return OFF
    if exitstatus in {"connection timed out", "vncproxy connection timed out"}:
        return LATE
    return FAILED


def password_of(ticket: str) -> str:
    """The password of RFB's own question where it is not given beside the ticket: the ticket begins with it."""
    before, sign, _ = ticket.partition(":PVEVNC:")
    return before if sign else ticket[:8]


def node_of(upid: str) -> str | None:
    """The node that a task runs on."""
    parts = upid.split(":")
    return parts[1] if len(parts) > 2 and parts[0] == "UPID" and parts[1] else None


def _websocket(url: str) -> str:
    scheme, _, rest = url.rstrip("/").partition("://")
    return f"{'ws' if scheme == 'http' else 'wss'}://{rest}"
