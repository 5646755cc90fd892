"""A small Proxmox VE cluster for tests: its HTTP API with the tasks, locks, rights and faults of a real one (8.4 or 9).

    from labspawner.testing.pve import PveDouble
    from labspawner.testing.pve.guest import Guests

    with PveDouble(nodes=("pve1", "pve2", "pve3"), seed=1, guests=Guests.scripted()) as pve:
        proxmoxer.ProxmoxAPI(...)          # pve.urls, pve.token, pve.ca_file or pve.fingerprint

It runs in a thread of its own and answers by HTTPS on 127.0.0.1, one port of the kernel's choice for each node.

- Where it is: `urls` (one for each node), `url` (comma-separated), `ca_file`, `fingerprint` (SHA-256, with colons).
- Who may ask: `token` (`user@realm!name=secret`, the least rights that the provider needs, within `pool`), `admin_token`,
  `password` of `root@pam`, and `add_token(user, name, roles)`, `add_pool(name)`, `add_role(name, privileges)`.
- What there is: `pool`, `template` (a Linux template on shared storage), `local_template` (on node 1's own storage),
  `storage` (shared), `local_storage`, `bridge`, `address_pool` (`127.77.x.10-127.77.x.250`: a guest's server can really
  listen there; claimed on this machine until `close`), `gateway`, `prefix`.
- What it knows: `vms()`, `vm(vmid)` (a copy of `world.Vm`; LookupError when there is none), `tasks(kind, vmid)`,
  `volumes(storage, vmid)`, `requests` (`count(method, path)`, `matching(method, path)`, `clear()`; params without secrets).
- What an administrator does: `add_vm(...)`, `set_config(vmid, **values)`, `add_storage(...)`, `add_mapping(id, devices)`,
  and in `faults` all that a student did not ask for.
- What breaks: `faults`, see `faults.Faults`.
- Whether all is well: `invariants()`, the list of what is not.

`clock="virtual"`: every duration (tasks, boot, lock waits, the 3 s of a 401, the 10 s of pvestatd, the 30 s of a node that
is cut off) passes `pace` times as fast, 1000 by default, and in the right order however slow the machine is.
`clock="real"`, or `pace=1`, is for demos. `now()` is the double's own time.

`guests` is what runs in the VMs: `Guests.scripted()` without any process (default), `Guests.real()` with a real
jupyterhub-singleuser for each; both are made by `guest.Guests`. The seam is `seams.GuestsLike`. What shows a VM's screen
is `screens`, a `console.Screens`; its seam is `seams.Console`.

tests/pve/test_double_replay.py compares the answers with a recording of Proxmox VE 8.4. What the double cannot show is for
a run against a real cluster: networks, storages other than a directory, HA, migration of a running VM, QEMU itself.
"""

from __future__ import annotations

from labspawner.testing.pve.double import PveDouble
from labspawner.testing.pve.faults import Faults
from labspawner.testing.pve.requests import Request, RequestLog
from labspawner.testing.pve.seams import Console, Exited, GuestFault, GuestsLike, Host, NoSuchProgram, Stream
from labspawner.testing.pve.tasks import Task
from labspawner.testing.pve.world import Node, Snapshot, Storage, Vm, Volume

__all__ = [
    "Console",
    "Exited",
    "Faults",
    "GuestFault",
    "GuestsLike",
    "Host",
    "NoSuchProgram",
    "Node",
    "PveDouble",
    "Request",
    "RequestLog",
    "Snapshot",
    "Storage",
    "Stream",
    "Task",
    "Vm",
    "Volume",
]
