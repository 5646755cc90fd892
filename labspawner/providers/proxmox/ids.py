"""Which numbers of VMs are this hub's to give, and which of them may be tried now. Pure.

PVE reserves no number (`nextid` only tells the lowest free one), and gives a freed one out at once, while tasks, snapshots
and firewall files of the old VM may still be around. So a hub has a range of its own, takes numbers from it in its own
records, and lets a freed one rest. Two hubs on one cluster want two ranges; where they share one, PVE refuses the second.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass

LOWEST, HIGHEST = 100, 999_999_999
_RANGE = re.compile(r"\s*(\d{1,9})\s*-\s*(\d{1,9})\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class VmidRange:
    """The numbers from `first` to `last`, both included. Raises ValueError for a range that PVE does not know."""

    first: int = 20_000
    last: int = 29_999

    def __post_init__(self) -> None:
        if not LOWEST <= self.first <= self.last <= HIGHEST:
            raise ValueError(
                f"{self.first}-{self.last} is no range of VM ids: write two numbers from {LOWEST} to {HIGHEST}, "
                "the smaller one first, for example 20000-29999"
            )

    @classmethod
    def parse(cls, value: object) -> VmidRange:
        """Read `20000-29999`."""
        if isinstance(value, VmidRange):
            return value
        match = _RANGE.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise ValueError(f"{value!r} is no range of VM ids: write two numbers with a dash, for example 20000-29999")
        return cls(int(match[1]), int(match[2]))

    def __contains__(self, vmid: object) -> bool:
        return isinstance(vmid, int) and self.first <= vmid <= self.last

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


def candidates(vmids: VmidRange, *, seen: Collection[int], seed: str) -> Iterator[int]:
    """The numbers that may be tried, each once: all of the range but those `seen` in a listing, whoever made them.

    seed: the lease. Each begins somewhere else, so that two that start at the same moment rarely want the same number,
    and one that was just freed is rarely the next. Those that are held or at rest are left out by the reservation.
    """
    taken = frozenset(seen)
    offset = zlib.crc32(seed.encode("utf-8", "surrogatepass")) % len(vmids)
    for step in range(len(vmids)):
        vmid = vmids.first + (offset + step) % len(vmids)
        if vmid not in taken:
            yield vmid
