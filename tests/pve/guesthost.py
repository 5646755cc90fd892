"""Guests without the rest of the double: a clock, a folder, and who switched itself off."""

from __future__ import annotations

import asyncio
import http.client
import json
import random

from labspawner.guest import HELPER
from labspawner.testing.pve.clock import Clock
from labspawner.testing.pve.seams import Host
from labspawner.testing.pve.world import Vm
from labspawner.testing.waiting import eventually

MAC = "BC:24:11:F8:83:59"


class Lab:
    """A host for guests whose VMs are given here. Use `async with`."""

    def __init__(self, guests, folder, pace=1000.0):
        self.guests, self.off = guests, []
        self.clock = Clock(pace)
        guests.begin(Host(self.clock, folder, random.Random(1), self.off.append))

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.guests.close()
        self.clock.close()

    async def booted(self, vm):
        """`vm`, switched on, with its agent up and cloud-init over."""
        await self.guests.boot(vm)
        await self.up(vm)
        await self.done(vm, ["/bin/sh", "-c", "cloud-init status --wait"])
        return vm

    async def up(self, vm):
        async def answers():
            return await self.guests.ping(vm)

        await eventually(answers, 60, "the agent answers")

    async def done(self, vm, command, stdin=b""):
        """What a program left behind."""
        pid = await self.guests.exec(vm, command, stdin)

        async def over():
            found = await self.guests.exec_status(vm, pid)
            return found if found is not None and not found.running else None

        return await eventually(over, 60, f"{command} ends")

    async def help(self, vm, *verb, say=None):
        """The JSON that labspawner-guest prints."""
        stdin = b"" if say is None else json.dumps(say).encode()
        done = await self.done(vm, [HELPER, *verb], stdin)
        assert done.out, done.err
        return json.loads(done.out)

    async def listening(self, vm):
        async def listens():
            return (await self.help(vm, "status"))["server"]["listening"]

        await eventually(listens, 60, "the server listens")


def a_vm(vmid=700, address="", **config):
    found = {"name": f"vm{vmid}", "ostype": "l26", "agent": "enabled=1", "net0": f"virtio={MAC},bridge=vmbr0"}
    if address:
        found["ipconfig0"] = f"ip={address}/24,gw=127.77.0.1"
    return Vm(vmid, "pve1", {**found, **config}, status="running")


def a_request(command=("jupyterhub-singleuser",), port=8888, host="0.0.0.0", **changes):
    environment = {
        "JUPYTERHUB_API_TOKEN": "token-of-a-test",
        "JUPYTERHUB_USER": "alice",
        "JUPYTERHUB_SERVICE_URL": f"http://{host}:{port}/user/alice/",
    }
    found = {"protocol": 1, "user": "alice", "home": "/home/alice", "lease": "lease-1"}
    return {**found, "command": list(command), "environment": environment, **changes}


async def asked(address, port, path):
    """The body of a GET; None when nobody answers."""
    return await asyncio.to_thread(_asked, address, port, path)


def _asked(address, port, path):
    connection = http.client.HTTPConnection(address, port, timeout=60)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
