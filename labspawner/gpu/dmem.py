"""The kernel's own limit of device memory: the `dmem` controller of cgroup v2 (Linux 6.14), where the driver feeds it.

It cannot be gone around, so where a node has it, it holds the memory and the library adds the compute limit and the view.
Source: the kernel's Documentation/admin-guide/cgroup-v2.rst, "DMEM": each file has a line `<region> <bytes or max>`.
NVIDIA's driver is to register its cards from R615 on; a region is named after the card's address on the PCI bus.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from labspawner.errors import SetupError
from labspawner.gpu.cards import Card, Inventory
from labspawner.sentences import Sentence

ROOT = Path("/sys/fs/cgroup")
CAPACITY, CURRENT, MAX = "dmem.capacity", "dmem.current", "dmem.max"
NO_LIMIT = "max"
_BUS = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}:[0-9a-f]{2}\.[0-7])", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class Dmem:
    """The controller, and which of its regions is which card. regions: by UUID."""

    root: Path
    regions: Mapping[str, str]

    def limit(self, group: Path, limits: Mapping[str, int]) -> None:
        """Let the processes of `group` hold at most so many bytes of each card, by UUID, and nothing of the others.

        Raises SetupError where a card has no region, or the kernel does not take it: then nothing is limited here.
        """
        lines = {region: limits.get(uuid, 0) for uuid, region in self.regions.items()}
        missing = sorted(set(limits) - set(self.regions))
        if missing:
            raise _refused(group, f"no region for {', '.join(missing)}")
        try:
            for region, size in lines.items():  # the kernel takes one line per write
                (group / MAX).write_text(f"{region} {size}\n", encoding="ascii")
            kept = parse((group / MAX).read_text(encoding="ascii"))
        except (OSError, ValueError) as exc:
            raise _refused(group, str(exc)) from exc
        wrong = [region for region, size in lines.items() if (found := kept.get(region)) is None or found > size]
        if wrong:
            raise _refused(group, f"the limit of {', '.join(wrong)} was not kept")

    def held(self, group: Path) -> dict[str, int]:
        """What the processes of `group` hold, in bytes by UUID. Empty where it cannot be read."""
        try:
            found = parse((group / CURRENT).read_text(encoding="ascii"))
        except (OSError, ValueError):
            return {}
        return {uuid: size for uuid, region in self.regions.items() if (size := found.get(region)) is not None}


def find_dmem(inventory: Inventory, root: Path = ROOT) -> Dmem | None:
    """The controller, where the kernel has it and knows at least one of these cards; None: use the library alone."""
    try:
        controllers = (root / "cgroup.controllers").read_text(encoding="ascii").split()
        capacity = parse((root / CAPACITY).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    if "dmem" not in controllers:
        return None
    regions = {card.uuid: region for card in inventory.cards if not card.mig and (region := _region(card, capacity))}
    return Dmem(root, regions) if regions else None


def parse(text: str) -> dict[str, int | None]:
    """Lines `<region> <bytes>`; None: no limit. Raises ValueError for anything else."""
    found: dict[str, int | None] = {}
    for line in text.splitlines():
        region, _, value = line.rpartition(" ")
        if not region or not (value == NO_LIMIT or value.isdecimal()):
            raise ValueError(f"not a line of dmem: {line!r}")
        found[region] = None if value == NO_LIMIT else int(value)
    return found


def _region(card: Card, capacity: Mapping[str, int | None]) -> str | None:
    """The region with the card's address, or None. Of several, the largest: the card's own memory."""
    address = _address(card.bus or "")
    matching = [region for region in capacity if address is not None and _address(region) == address]
    return max(matching, key=lambda region: capacity[region] or 0, default=None)


def _address(text: str) -> tuple[int, str] | None:
    """Domain and address in `text`; NVML writes the domain with eight digits, the kernel with four."""
    match = _BUS.search(text)
    return None if match is None else (int(match[1] or "0", 16), match[2].lower())


def _refused(group: Path, why: str) -> SetupError:
    return SetupError(
        Sentence("The kernel does not limit the memory of the GPU here. Tell your administrator."),
        detail=f"dmem group={group}: {why}",
    )
