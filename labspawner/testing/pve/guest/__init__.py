"""What runs in the VMs of the double: `Guests.scripted()` without any process, `Guests.real()` with real servers.

    guests = Guests.scripted(boot_s=(8, 20))          # any field of Behaviour
    with PveDouble(guests=guests) as pve:
        guests.set(vmid, agent=False)                 # one VM; of a template also what is cloned from it
        guests.set_all(cloud_init_s=(600, 600))       # all that boot from now on
        guests.guest(vmid)                            # its address, files, programs, server

A mini guest has files (`/run`, `/tmp` and `/dev/shm` are memory), the programs that a hub or a recording runs (`/bin/sh -c`
with echo, cat, sleep, date, test, exit, ...), cloud-init's state, and labspawner-guest with the verbs of `labspawner.guest`.
It listens at its address (ipconfig0's; asked DHCP, one of 127.64.0.0/10) as soon as a server was configured.

Scripted: a server is an address that answers every path (`.../api` as JSON, with the version of jupyterhub); it behaves as
the words of `labspawner.testing.tinyserver.command` in its command wish (say, listen_after_s, never_listen, die_after_s,
exit_code, die_when_asked), in the double's time. Real: labspawner-guest itself runs, and starts the command as a process of
this machine, in a folder that is the VM's disk (`guests.disk(vmid)`); it survives stop and hibernation (its processes are
stopped and go on) and goes with the VM. In both `when_ended: poweroff` switches the VM off 60 s (the double's) after its
server ended by itself.

`qemu.QemuGuests(kit)` boots a real machine with a real agent, where QEMU and a kernel are at hand (`qemu.Kit.find`); its
system is three programs in memory, so it serves tests/pve/test_qemu.py and no server.

What the first two cannot show: other users, systemd, networks (an address that is not of 127.0.0.0/8 cannot be listened
at), the memory of a real server in a snapshot.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from labspawner.testing.pve.guest.behaviour import Behaviour
from labspawner.testing.pve.guest.life import Guest, LivingGuests
from labspawner.testing.pve.guest.real import RealGuests
from labspawner.testing.pve.guest.scripted import ScriptedGuests

__all__ = ["Behaviour", "Guest", "Guests", "LivingGuests", "RealGuests", "ScriptedGuests"]


class Guests:
    """Makes guests. changes: fields of `Behaviour`, for all VMs."""

    @staticmethod
    def scripted(**changes: Any) -> ScriptedGuests:
        """Guests without any process."""
        return ScriptedGuests(Behaviour(**changes))

    @staticmethod
    def real(*, environment: Path = Path(sys.prefix), **changes: Any) -> RealGuests:
        """Guests with real servers. environment: where jupyterhub-singleuser is installed."""
        return RealGuests(Behaviour(**changes), environment=environment)
