"""What processes that carry a lease's mark use, where no control group counts it. Blocking; reads /proc.

Memory is PSS (its own pages, and its part of those that it shares) where the kernel shows it, else what is resident
and not shared, else what is resident. Processor time is of the processes that live, and of their children that ended.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path

import psutil

from labspawner.model import Usage
from labspawner.providers.processes import SAME_INSTANT_S, HostProcess

PROC = Path("/proc")
_KIB = 1024


def measure(processes: Iterable[HostProcess], *, proc: Path = PROC) -> Usage | None:
    """What `processes` use together now; None where none of them lives any more, or can be looked at."""
    memory_bytes, cpu_s, count = 0, 0.0, 0
    for found in processes:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(found.pid)
            if abs(process.create_time() - found.created) >= SAME_INSTANT_S:
                continue
            times = process.cpu_times()
            memory_bytes += memory_of(process, proc=proc)
            cpu_s += times.user + times.system + times.children_user + times.children_system
            count += 1
    if count == 0:
        return None
    return Usage(taken_at=datetime.now(timezone.utc), memory_bytes=memory_bytes, cpu_s=cpu_s, processes=count)


def memory_of(process: psutil.Process, *, proc: Path = PROC) -> int:
    """The memory of one process, the best figure that may be read. Raises psutil.Error when it is gone."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (proc / str(process.pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * _KIB
    memory = process.memory_info()
    return max(0, int(memory.rss) - int(getattr(memory, "shared", 0))) or int(memory.rss)
