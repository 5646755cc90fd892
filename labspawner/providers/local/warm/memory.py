"""What servers use of the memory, and how much of it they share. Blocks for a moment for each process."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_KIB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """own_bytes: what would be free if these processes ended. proportional_bytes: that, and their part of what they
    share with others. resident_bytes: what each would need alone."""

    own_bytes: int = 0
    proportional_bytes: int = 0
    resident_bytes: int = 0

    def __add__(self, other: Memory) -> Memory:
        return Memory(
            own_bytes=self.own_bytes + other.own_bytes,
            proportional_bytes=self.proportional_bytes + other.proportional_bytes,
            resident_bytes=self.resident_bytes + other.resident_bytes,
        )


def memory_of(pids: Iterable[int]) -> Memory:
    """Of these processes together; those that are gone, or may not be looked at, count as nothing."""
    total = Memory()
    for pid in pids:
        total += _of(pid)
    return total


def _of(pid: int) -> Memory:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return Memory()
    kib: dict[str, int] = {}
    for line in text.splitlines()[1:]:
        name, _, rest = line.partition(":")
        kib[name] = int(rest.split()[0])
    return Memory(
        own_bytes=_KIB * (kib.get("Private_Clean", 0) + kib.get("Private_Dirty", 0)),
        proportional_bytes=_KIB * kib.get("Pss", 0),
        resident_bytes=_KIB * kib.get("Rss", 0),
    )
