"""What must not be given while pods still have slices of an earlier layout, so that no card is promised twice. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from labspawner.gpu.agent.layout import MOST_PCT, Layout
from labspawner.gpu.agent.settings import Pool
from labspawner.gpu.limits import CorePolicy, SliceLimits


@dataclass(frozen=True, slots=True)
class Earlier:
    """What a container has that the layout of today would not give it. ids: as it was given."""

    ids: frozenset[str]
    limits: SliceLimits


def held_back(layout: Layout, pool: Pool, earlier: Iterable[Earlier]) -> frozenset[str]:
    """The ids that have no room beside `earlier`. Those that fit are kept in their order; those that `earlier` holds are
    not judged: the kubelet knows that they are taken."""
    memory = {uuid: card.memory_total_bytes for uuid, card in layout.cards.items()}
    cores = dict.fromkeys(layout.cards, MOST_PCT)
    counted = pool.core_policy is not CorePolicy.OFF
    taken: set[str] = set()
    touched: set[str] = set()
    for one in earlier:
        taken |= one.ids
        for device in one.limits.devices:
            if device.uuid in memory:
                touched.add(device.uuid)
                memory[device.uuid] -= device.memory_bytes
                cores[device.uuid] -= device.cores_pct
    back = set()
    for unit in layout.units.values():
        if unit.card not in touched or unit.id in taken:
            continue
        wanted = pool.classes[unit.class_name]
        if memory[unit.card] < wanted.memory or (counted and cores[unit.card] < wanted.cores):
            back.add(unit.id)
            continue
        memory[unit.card] -= wanted.memory
        cores[unit.card] -= wanted.cores
    return frozenset(back)
