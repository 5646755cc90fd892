"""The guest agent of each VM. The daemons that serve it are few and each call holds one: two calls at a time for all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from labspawner.providers.proxmox.answers import Fault, PveRefused, PveSilent
from labspawner.providers.proxmox.client import Client
from labspawner.providers.proxmox.pace import CLOCK, Pace
from labspawner.providers.proxmox.turns import Turns

MOST_STDIN_BYTES = 64 * 1024

_CALL_S = 25.0
_PAUSES_S = (0.2, 0.5, 1.0, 1.0, 2.0)


@dataclass(frozen=True, slots=True)
class Ran:
    """How a program in the guest ended. exitcode: None where a signal ended it. truncated: not all of its output is here."""

    exitcode: int | None
    signal: int | None
    out: str
    err: str
    truncated: bool

    @property
    def ok(self) -> bool:
        """Whether it ended with 0."""
        return self.exitcode == 0


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface in the guest. mac: lower case. addresses: without prefix, loopback and link-local ones too."""

    name: str
    mac: str
    addresses: tuple[str, ...]


class GuestAgent:
    """The agents of one cluster's VMs. A VM that is gone, stopped or locked is a PveRefused, as everywhere."""

    def __init__(self, client: Client, *, pace: Pace = CLOCK, at_once: int = 2) -> None:
        self._client = client
        self._pace = pace
        self._turns = Turns(at_once)
        self._busy: dict[int, tuple[asyncio.Lock, int]] = {}

    async def ping(self, node: str, vmid: int) -> bool:
        """Whether it answers; False while the guest boots, and for ever without an agent. Raises PveRefused, PveSilent."""
        try:
            await self._call("POST", node, vmid, "ping", {})
        except PveRefused as exc:
            if exc.fault is Fault.NO_AGENT:
                return False
            raise
        except PveSilent as exc:
            if exc.status:  # a daemon gave it up: to ask again does no harm
                return False
            raise
        return True

    async def run(
        self, node: str, vmid: int, command: Sequence[str], *, stdin: str = "", within_s: float = 60.0
    ) -> Ran:
        """Run a program to its end. command[0]: a path that is known to be there. stdin: at most 64 KiB, in no log.

        Raises PveRefused (HELPER_MISSING: no such program; NO_AGENT), and PveSilent(sent=True) when it has not ended after
        `within_s` or its end was lost."""
        if len(stdin.encode()) > MOST_STDIN_BYTES:
            raise ValueError(f"more than {MOST_STDIN_BYTES} bytes for a program in a guest")
        until = self._pace.now() + within_s
        started = await self._start(node, vmid, command, stdin)
        return await self._end(node, vmid, int(started["pid"]), until)

    async def interfaces(self, node: str, vmid: int) -> tuple[Interface, ...]:
        """Its network interfaces. Raises PveRefused, PveSilent."""
        found = (await self._call("GET", node, vmid, "network-get-interfaces", {})).get("result") or ()
        return tuple(
            Interface(
                name=str(each.get("name") or ""),
                mac=str(each.get("hardware-address") or "").lower(),
                addresses=tuple(str(one.get("ip-address") or "") for one in each.get("ip-addresses") or ()),
            )
            for each in found
        )

    async def osinfo(self, node: str, vmid: int) -> dict[str, str]:
        """What it says of its system: id, version-id, pretty-name ... Raises PveRefused, PveSilent."""
        found = (await self._call("GET", node, vmid, "get-osinfo", {})).get("result") or {}
        return {str(key): str(value) for key, value in found.items()}

    async def _start(self, node: str, vmid: int, command: Sequence[str], stdin: str) -> Mapping[str, Any]:
        params = {"command": list(command), "input-data": stdin or None}
        try:
            started = await self._call("POST", node, vmid, "exec", params)
        except PveSilent as exc:
            # PVE breaks on the agent's words for a missing program: their quotation marks are not ASCII.
            if exc.status is not None and exc.sent and await self.ping(node, vmid):
                why = f"the agent answers, and yet {exc.why}: most likely there is no {command[0]} in the guest"
                raise PveRefused(exc.status, why, None, exc.what, fault=Fault.HELPER_MISSING) from exc
            raise
        if "pid" not in started:
            raise PveSilent(f"POST {_path(node, vmid, 'exec')}", True, "no pid in the answer")
        return started

    async def _end(self, node: str, vmid: int, pid: int, until: float) -> Ran:
        """Its end, which the agent tells exactly once."""
        what, looks = f"GET {_path(node, vmid, 'exec-status')}", 0
        while True:
            await self._pace.sleep(_PAUSES_S[min(looks, len(_PAUSES_S) - 1)])
            looks += 1
            why = "it still runs"
            try:
                status = await self._call("GET", node, vmid, "exec-status", {"pid": pid})
            except PveRefused as exc:
                if exc.fault is Fault.AGENT_PID:
                    raise PveSilent(what, True, "its end was told, and lost on the way") from exc
                if exc.fault is not Fault.NO_AGENT:
                    raise
                why = str(exc)
            except PveSilent as exc:
                why = str(exc)
            else:
                if _number(status.get("exited")):
                    return _ran(status)
            if self._pace.now() >= until:
                raise PveSilent(what, True, why)

    async def _call(self, method: str, node: str, vmid: int, verb: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        ask = self._client.get if method == "GET" else self._client.post
        # A ping of an agent that is not up yet keeps a place for three seconds, and there are many when a class begins.
        async with self._turn(vmid, urgent=verb != "ping"):
            found = await ask(_path(node, vmid, verb), within_s=_CALL_S, **params)
        return found if isinstance(found, Mapping) else {}

    @asynccontextmanager
    async def _turn(self, vmid: int, *, urgent: bool) -> AsyncIterator[None]:
        """One call to this VM, and few to all. First the VM's lock, then a place: who waits for a VM holds no place."""
        lock, users = self._busy.get(vmid) or (asyncio.Lock(), 0)
        self._busy[vmid] = (lock, users + 1)
        try:
            async with lock, self._turns.one(urgent=urgent):
                yield
        finally:
            lock, users = self._busy[vmid]
            if users > 1:
                self._busy[vmid] = (lock, users - 1)
            else:
                del self._busy[vmid]


def _path(node: str, vmid: int, verb: str) -> str:
    return f"/nodes/{quote(node, safe='')}/qemu/{vmid}/agent/{verb}"


def _ran(status: Mapping[str, Any]) -> Ran:
    return Ran(
        exitcode=_number(status.get("exitcode")),
        signal=_number(status.get("signal")),
        out=str(status.get("out-data") or ""),
        err=str(status.get("err-data") or ""),
        truncated=bool(_number(status.get("out-truncated")) or _number(status.get("err-truncated"))),
    )


def _number(value: object) -> int | None:
    return None if value is None else int(value) if isinstance(value, bool) else int(str(value))
