"""The guest agent's calls: what PVE itself answers, before and after the guest is asked."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

from labspawner.testing.pve.call import Call, Refused
from labspawner.testing.pve.seams import GuestFault, NoSuchProgram

if TYPE_CHECKING:
    from labspawner.testing.pve.inside import Inside
    from labspawner.testing.pve.world import Vm

SILENT_S = 3.1
BROKEN_S = 5.2
STDIN_BYTES = 65536


class Agent:
    """`known`: which programs may still be read; PVE reads an end once."""

    def __init__(self, inside: Inside) -> None:
        self._inside = inside
        self._reaped: set[tuple[int, int, int]] = set()

    async def _up(self, call: Call) -> Vm:
        """The VM, when its agent can be asked. Raises Refused after as long as PVE tries."""
        vm, inside = call.vm(), self._inside
        if not vm.running:
            raise Refused(500, f"VM {vm.vmid} is not running")
        if not vm.agent_enabled:
            raise Refused(500, "No QEMU guest agent configured")
        down = inside.board.agent_down & {vm.vmid, 0}
        if vm.paused or down or not await inside.guests.ping(vm):
            await inside.clock.sleep(SILENT_S)
            raise Refused(500, "QEMU guest agent is not running")
        await inside.clock.sleep(inside.plan.agent_s)
        return vm

    async def ping(self, call: Call) -> dict[str, Any]:
        await self._up(call)
        return {"result": {}}

    async def exec(self, call: Call) -> dict[str, int]:
        stdin = str(call.params.get("input-data", "")).encode()
        vm = await self._up(call)
        command = [str(part) for part in call.params["command"]]
        try:
            return {"pid": await self._inside.guests.exec(vm, command, stdin)}
        except NoSuchProgram:
            await self._inside.clock.sleep(BROKEN_S)
            raise Refused(596, "Broken pipe", empty=True) from None
        except GuestFault as fault:
            raise Refused(500, f"Agent error: {fault}") from fault

    async def exec_status(self, call: Call) -> dict[str, Any]:
        vm = await self._up(call)
        pid = int(call.params["pid"])
        key = (vm.vmid, vm.pid, pid)
        found = None if key in self._reaped else await self._inside.guests.exec_status(vm, pid)
        if found is None:
            raise Refused(500, "Agent error: Invalid parameter 'pid'")
        if found.running:
            return {"exited": 0}
        self._reaped.add(key)
        data: dict[str, Any] = {"exited": 1}
        if found.signal is not None:
            data["signal"] = found.signal
        else:
            data["exitcode"] = found.exitcode
        for name, text in (("out", found.out), ("err", found.err)):
            if text:
                data |= {f"{name}-data": text, f"{name}-truncated": 0}
        return data

    async def interfaces(self, call: Call) -> dict[str, Any]:
        return {"result": await self._inside.guests.interfaces(await self._up(call))}

    async def ask(self, call: Call) -> dict[str, Any]:
        """Whatever only the guest can answer."""
        vm = await self._up(call)
        command = call.path.rpartition("/")[2]
        return {"result": await self._guest(vm, command, call.params)}

    async def file_read(self, call: Call) -> Any:
        return await self._guest(await self._up(call), "file-read", call.params)

    async def file_write(self, call: Call) -> None:
        content = str(call.params["content"])
        raw = content.encode()
        if str(call.params.get("encode", 1)) == "0":
            try:
                raw = base64.b64decode(content, validate=True)
            except binascii.Error:
                raise Refused(500, "Agent error: guest agent command failed: Invalid base64 data") from None
        vm = await self._up(call)
        await self._guest(vm, "file-write", {"file": call.params["file"], "content": raw})

    async def set_password(self, call: Call) -> dict[str, Any]:
        await self._guest(await self._up(call), "set-user-password", call.params)
        return {"result": {}}

    async def _guest(self, vm: Vm, command: str, params: dict[str, Any]) -> Any:
        try:
            return await self._inside.guests.ask(vm, command, params)
        except GuestFault as fault:
            raise Refused(500, f"Agent error: {fault}") from fault
