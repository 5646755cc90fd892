"""Which privileges the hub's token needs, on which paths, which of them it has, and the command that gives the others.

Found out on 8.4 with a token of separated privileges; of 9.x read in its source: the guest agent has privileges of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from labspawner.providers.findings import Finding, Level, error, note, ok

ROLE = "LabSpawner"
"""What docs/proxmox.md calls the role."""

_NO_START = "no server starts"
_NO_SETUP = "a server cannot be set up as its profile says"


@dataclass(frozen=True, slots=True)
class Right:
    """One privilege on one path. level, loss: how bad it is without it, and what is lost. role: what gives it, where that
    is not our own role."""

    path: str
    privilege: str
    level: Level
    loss: str
    role: str = ROLE


def agent_privilege(major: int) -> str:
    """What lets the hub run its helper in a VM: one privilege until 8, a family of its own since 9."""
    return "VM.GuestAgent.Unrestricted" if major >= 9 else "VM.Monitor"


def role_privileges(major: int) -> tuple[str, ...]:
    """The privileges of the role, for `pveum role add`."""
    return tuple(sorted({right.privilege for right in _of_pool("/pool/x", major)}))


def _of_pool(path: str, major: int) -> tuple[Right, ...]:
    def right(privilege: str, level: Level, loss: str) -> Right:
        return Right(path, privilege, level, loss)

    setup = ("Cloudinit", "CPU", "Memory", "Network", "Options", "Disk")
    return (
        right("VM.Allocate", Level.ERROR, "no server is made, and none is deleted"),
        right("VM.Clone", Level.ERROR, _NO_START),
        right("VM.Audit", Level.ERROR, "the hub sees no server"),
        right("VM.PowerMgmt", Level.ERROR, _NO_START),
        right(agent_privilege(major), Level.ERROR, "JupyterLab cannot be started in a server"),
        *(right(f"VM.Config.{name}", Level.ERROR, _NO_SETUP) for name in setup),
        right("VM.Config.CDROM", Level.WARNING, "a template without a cloud-init drive gets none"),
        right("VM.Console", Level.WARNING, "students see no desktop"),
        right("VM.Snapshot", Level.NOTE, "no server is kept with its memory beside hibernation"),
        right("Datastore.AllocateSpace", Level.ERROR, _NO_START),
        right("Datastore.Audit", Level.WARNING, "the space of storages is not counted"),
        right("Pool.Audit", Level.NOTE, "what is in the pool is not looked at"),
    )


def wanted(
    *, major: int, pool: str, bridges: Iterable[str] = (), mappings: Iterable[str] = (), storages: Iterable[str] = ()
) -> tuple[Right, ...]:
    """The privileges that a hub with these settings uses. bridges, mappings: of its templates and profiles; storages:
    those that are not in the pool need the right for themselves."""
    mappings = sorted(set(mappings))
    found = [*_of_pool(f"/pool/{pool}", major)]
    found += [
        Right(f"/storage/{name}", "Datastore.AllocateSpace", Level.ERROR, f"no disk can be made on {name}")
        for name in sorted(set(storages))
    ]
    found += [
        Right(
            f"/sdn/zones/localnetwork/{name}",
            "SDN.Use",
            Level.ERROR,
            f"no server gets a network card on {name}",
            "PVESDNUser",
        )
        for name in sorted(set(bridges))
    ]
    found += [
        Right(
            f"/mapping/pci/{name}", "Mapping.Use", Level.ERROR, f"no server gets a device of {name}", "PVEMappingUser"
        )
        for name in mappings
    ]
    if mappings:
        found.append(Right(f"/pool/{pool}", "VM.Config.HWType", Level.ERROR, "no server gets a device"))
    found += [
        Right(f"/pool/{pool}", "VM.Migrate", Level.NOTE, "labspawner vm drain cannot move servers"),
        Right(
            "/nodes",
            "Sys.Audit",
            Level.NOTE,
            "how large and how loaded nodes are is not seen: name it in the settings",
            "PVEAuditor",
        ),
        Right(
            "/",
            "Sys.Audit",
            Level.NOTE,
            "whether the cluster is quorate is not seen before something is tried",
            "PVEAuditor",
        ),
    ]
    return tuple(found)


def judge(rights: Sequence[Right], said: Mapping[str, Mapping[str, object]], *, who: str = "") -> tuple[Finding, ...]:
    """One finding for all that is there, and one for each path where something is missing. Pure.

    said: by path, as `/access/permissions` answers; a privilege that is listed is there, whatever its value (that is
    whether it is passed on below). who: the token, `user@realm!name`.
    """
    if not any(said.get(right.path) for right in rights):
        return (_nothing(rights, who),)
    missing = [right for right in rights if right.privilege not in said.get(right.path, {})]
    found = []
    for (path, _, _), group in groupby(sorted(missing, key=_together), key=_together):
        found.append(_lacking(path, list(group), who))
    grave = sum(right.level is not Level.NOTE for right in missing)
    needed = sum(right.level is not Level.NOTE for right in rights)
    return (ok("rights", f"{needed - grave} of the {needed} privileges that are needed are there"), *found)


def _together(right: Right) -> tuple[str, bool, str]:
    """What is told in one finding."""
    return right.path, right.level is Level.NOTE, right.role


def _nothing(rights: Sequence[Right], who: str) -> Finding:
    path = rights[0].path if rights else "/"
    return error(
        "rights",
        f"the token {who or 'of this hub'} has no privilege at all",
        "a token of separated privileges has what BOTH its user and itself were given: " + acl(path, ROLE, who),
    )


def _lacking(path: str, rights: Sequence[Right], who: str) -> Finding:
    order = list(Level)
    worst = max(rights, key=lambda right: order.index(right.level))
    names = ", ".join(right.privilege for right in rights)
    losses = "; ".join(dict.fromkeys(right.loss for right in rights))
    fix = acl(path, worst.role, who)
    if worst.role == ROLE:
        fix = f"pveum role modify {ROLE} --append 1 --privs '{' '.join(right.privilege for right in rights)}'; {fix}"
    advice = "" if worst.level is Level.NOTE else f"for both user and token: {fix}"
    found = Finding(worst.level, "rights", f"no {names} on {path}: {losses}", advice)
    return note(found.what, found.detail) if worst.level is Level.NOTE else found


def acl(path: str, role: str, who: str) -> str:
    """The two commands that give `role` on `path`: a token of separated privileges has what both entries give."""
    user, _, name = who.partition("!")
    user = user or "USER@REALM"
    token = f"{user}!{name or 'NAME'}"
    return f"pveum acl modify {path} --users {user} --roles {role}; pveum acl modify {path} --tokens '{token}' --roles {role}"
