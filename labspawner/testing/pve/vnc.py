"""Consoles: vncproxy's ports, tickets and tasks, and who may upgrade to a websocket."""

from __future__ import annotations

import asyncio
import secrets
import string
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from labspawner.testing.pve.call import Call, Refused
from labspawner.testing.pve.seams import Stream
from labspawner.testing.pve.tasks import Task, TaskFailed

if TYPE_CHECKING:
    from labspawner.testing.pve.inside import Inside

READY_S = 5.0
_LETTERS = string.ascii_letters + string.digits


@dataclass(slots=True)
class Ticket:
    """One vncproxy call. came: a client is there; done: it has gone, or was refused."""

    text: str
    password: str
    vmid: int
    node: str
    runs_on: str
    port: int
    made_at: float
    who: str
    came: asyncio.Event = field(default_factory=asyncio.Event)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    outcome: str = ""
    said: list[str] = field(default_factory=list)


class Vnc:
    """Holds the tickets; what a client then sees comes from the double's `Console`."""

    def __init__(self, inside: Inside) -> None:
        self._inside = inside
        self._tickets: dict[str, Ticket] = {}

    async def proxy(self, call: Call) -> dict[str, Any]:
        """POST vncproxy. Not sent on to the VM's node: it runs where it was asked."""
        vm = call.vm()
        # An eight-character password in front, as `password:PVEVNC:stamp::signature`.
        password = "".join(secrets.choice(_LETTERS) for _ in range(8))
        stamp = f"{int(self._inside.clock.now()):08X}"
        text = f"{password}:PVEVNC:{stamp}::{secrets.token_urlsafe(24)}"
        now = self._inside.clock.now()
        ticket = Ticket(text, password, vm.vmid, vm.node, call.asked, self._port(call.asked), now, call.who.name)
        self._tickets[text] = ticket

        async def work(task: Task) -> None:
            await self._wait(task, ticket)

        upid = self._inside.tasks.start(call.asked, "vncproxy", vm.vmid, call.who.user, work, call.who.token).upid
        certificate = "-----BEGIN CERTIFICATE-----\n(of the double)\n-----END CERTIFICATE-----\n"
        data: dict[str, Any] = {"port": str(ticket.port), "ticket": text, "user": call.who.name, "cert": certificate}
        return data | {"upid": upid, "password": password}

    def _port(self, node: str) -> int:
        used = {one.port for one in self._tickets.values() if one.runs_on == node and not one.done.is_set()}
        found = next((port for port in range(5900, 6000) if port not in used), None)
        if found is None:
            raise Refused(500, "unable to find free port (5900-6000)")
        return found

    async def _wait(self, task: Task, ticket: Ticket) -> None:
        try:
            if not await self._inside.clock.wait(ticket.came, self._inside.plan.console_wait_s):
                raise TaskFailed("connection timed out")
            await ticket.done.wait()
        finally:
            ticket.done.set()
        task.log += ticket.said
        if ticket.outcome:
            raise TaskFailed(ticket.outcome)

    async def unupgraded(self, call: Call) -> dict[str, str]:
        """GET vncwebsocket by who did not ask for a websocket."""
        self._ticket(call)
        return {"port": str(call.params["port"])}

    def _ticket(self, call: Call) -> Ticket:
        """The ticket of a request, used or not. Raises Refused(401)."""
        ticket = self._tickets.get(str(call.params["vncticket"]))
        age_s = self._inside.clock.now() - ticket.made_at if ticket is not None else 0.0
        late = ticket is not None and age_s > self._inside.plan.console_ticket_s and not ticket.came.is_set()
        if ticket is None or ticket.vmid != call.vmid or late:
            raise Refused(401, "permission denied - invalid PVEVNC ticket")
        return ticket

    def admit(self, call: Call) -> Ticket | None:
        """The ticket with which this client may come in; None when the connection just ends. Raises Refused."""
        ticket = self._ticket(call)
        if ticket.came.is_set() or ticket.done.is_set() or str(ticket.port) != str(call.params["port"]):
            return None
        ticket.came.set()
        return ticket

    async def serve(self, ticket: Ticket, stream: Stream) -> None:
        """Show the screen until the client goes, or end the task as a real one would."""
        try:
            vm = self._inside.world.vms.get(ticket.vmid)
            node = self._inside.world.nodes[ticket.node]
            if ticket.runs_on != ticket.node:
                ticket.said.append(f"ssh: connect to host {node.ip} port 22: Connection refused\r")
                ticket.outcome = "Failed to run vncproxy."
            elif vm is None or not vm.running:
                ticket.said.append(f"VM {ticket.vmid} not running")
                ticket.outcome = "Failed to run vncproxy."
            else:
                await self._inside.console.serve(vm, ticket.password, stream)
        finally:
            ticket.done.set()
            await stream.close()

    async def term(self, call: Call) -> None:
        """POST termproxy: these nodes have no terminal helper."""
        call.vm()
        port = self._port(call.node)
        await self._inside.clock.sleep(READY_S)
        raise Refused(500, f"Timeout while waiting for port '{port}' to get ready!")

    async def spice(self, call: Call) -> None:
        """POST spiceproxy: these VMs have no such display."""
        vm = call.vm()
        if not vm.running:
            raise Refused(500, f"VM {vm.vmid} not running")
        command = "query-spice"
        raise Refused(500, f"VM {vm.vmid} qmp command '{command}' failed - The command {command} has not been found")
