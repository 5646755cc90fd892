"""Resource limits of processes: what is left where there are no control groups. Pure.

They hold for one process each, not for a server together, except the number of processes; so they stop an accident and
slow an attack down, and no more. `core` and `nofile` are good on every rung.
"""

from __future__ import annotations

import re
import resource
from collections.abc import Mapping
from dataclasses import dataclass, field

from labspawner.providers.local.confinement import Limits
from labspawner.sentences import Sentence

NICE = 5  # the hub and the proxy answer first
FILES_SOFT, FILES_HARD = 4096, 65536
STACKS_BYTES = 2**30  # the stacks of a numerical library's threads, which are mapped whole and used at one end
RESERVED_BYTES = 4 * 2**30  # address space that JupyterLab, its threads and node reserve and never touch
COUNTED_IN_NAMESPACE = (5, 14)  # before, RLIMIT_NPROC counted a user's processes on the whole machine
_RELEASE = re.compile(r"(\d+)\.(\d+)", re.ASCII)

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessLimits:
    """What a server sets on itself before it begins; its children inherit it.

    rlimits: soft and hard value by the number that `resource.setrlimit` takes. nice: what is added to its niceness.
    not_limited: what this does not do, in words for the administrator.
    """

    rlimits: Mapping[int, Pair]
    nice: int = 0
    not_limited: tuple[Sentence, ...] = field(default=())


def always(*, files_hard: int) -> dict[int, Pair]:
    """The limits of every server, whatever the rung: no core dumps, and files enough for notebooks.

    files_hard: the hub's own hard limit, `resource.getrlimit(RLIMIT_NOFILE)[1]`; nobody may go above it.
    """
    hard = FILES_HARD if files_hard == resource.RLIM_INFINITY else min(FILES_HARD, files_hard)
    return {resource.RLIMIT_CORE: (0, 0), resource.RLIMIT_NOFILE: (min(FILES_SOFT, hard), hard)}


def in_group(*, files_hard: int) -> ProcessLimits:
    """For the rungs with a control group, which limits the rest."""
    return ProcessLimits(rlimits=always(files_hard=files_hard))


def alone(
    limits: Limits, *, has_gpu: bool, user_namespace: bool, kernel: str, files_hard: int, own_uid: bool = False
) -> ProcessLimits:
    """For the rung without a control group.

    user_namespace: the server has one of its own; then, on such a kernel, its processes are counted apart from other
    students'. own_uid: no other student has its uid, so they are too, together with its keeper. kernel:
    `os.uname().release`. With a GPU the address space is never limited: CUDA reserves hundreds of GiB of it and touches
    almost none.
    """
    rlimits = always(files_hard=files_hard)
    lacks: list[Sentence] = []
    if limits.processes is not None:
        if own_uid or (user_namespace and _counts_in_namespace(kernel)):
            rlimits[resource.RLIMIT_NPROC] = (limits.processes, limits.processes)
        else:
            lacks.append(Sentence("The number of processes is not limited: this kernel counts all students together."))
    if limits.memory_bytes is not None:
        if has_gpu:
            lacks.append(Sentence("Memory is not limited for profiles with a GPU: CUDA reserves more than it uses."))
        else:
            most = limits.memory_bytes + RESERVED_BYTES
            rlimits[resource.RLIMIT_AS] = (most, most)
            private = limits.memory_bytes + STACKS_BYTES
            rlimits[resource.RLIMIT_DATA] = (private, private)
            lacks.append(Sentence("Memory is limited for each process alone, not for a server as a whole."))
    if limits.cpu is not None:
        lacks.append(Sentence("CPU is not limited: servers share it, and the hub goes first."))
    return ProcessLimits(rlimits=rlimits, nice=NICE, not_limited=tuple(lacks))


def _counts_in_namespace(kernel: str) -> bool:
    found = _RELEASE.match(kernel)
    return found is not None and (int(found[1]), int(found[2])) >= COUNTED_IN_NAMESPACE
