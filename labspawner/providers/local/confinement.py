"""What one server may see and use, as a value: the rungs of the ladder turn it into namespaces, groups and limits."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Rung(str, Enum):
    """How servers are kept apart, the best first.

    SYSTEMD: bubblewrap in a systemd scope. CGROUP: bubblewrap in a control group that we make. RLIMIT: bubblewrap with
    resource limits of the process. PLAIN: nothing at all, for a demo on loopback.
    """

    SYSTEMD = "systemd"
    CGROUP = "cgroup"
    RLIMIT = "rlimit"
    PLAIN = "plain"


class Network(str, Enum):
    """What a server reaches. NONE: its own loopback and the hub. EGRESS: also the world, but neither this machine, nor
    other servers, nor the cloud's metadata. HOST: whatever the hub reaches; the plain rung has nothing else."""

    NONE = "none"
    EGRESS = "egress"
    HOST = "host"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who the processes of a server are. name: as programs inside see it; a safe POSIX user name."""

    uid: int
    gid: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What all processes of a server together may use. None: not limited. cpu: cores, may be fractional."""

    cpu: float | None = None
    memory_bytes: int | None = None
    processes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """A path of the host that is seen inside. optional: left out where the host has no such path."""

    source: str
    target: str
    writable: bool = False
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """Everything that the sandbox of one server needs to know.

    account: who its processes are; where the hub is no root, inside only (outside they are the hub's user).
    user_namespace: the hub is no root, so the sandbox needs one of its own.
    home: on the host; inside it is `home_inside`.
    run_dir: a folder of this server alone, on the host; inside it is `/run/labspawner`, read-only: it is memory of the host.
    devices: device nodes of the host, each seen at its own path.
    preload: a file of the host that stands, read-only, as `/etc/ld.so.preload`.
    tmp_bytes: the most that /tmp holds.
    """

    account: Account
    user_namespace: bool
    home: str
    home_inside: str
    run_dir: str
    hostname: str
    network: Network
    binds: tuple[Bind, ...] = ()
    devices: tuple[str, ...] = ()
    preload: str | None = None
    tmp_bytes: int = 2**30
