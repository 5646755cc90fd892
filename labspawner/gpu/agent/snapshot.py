"""What the agent knows at one moment, and what it says of that to hubs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from labspawner.gpu.agent.inventory import CardState, ClassUse, NodeInventory, Share, SliceUse
from labspawner.gpu.agent.kubelet import Owner
from labspawner.gpu.agent.layout import Layout
from labspawner.gpu.agent.settings import MIB, Pool
from labspawner.gpu.cards import Inventory
from labspawner.gpu.limits import SliceLimits
from labspawner.gpu.region import Reading
from labspawner.gpu.verdict import Verdict

_LONGEST_WHY = 200  # a student's program may have written it, and all annotations of a node share 256 KiB


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceState:
    """A slice that a container has. reading, verdict: None where nobody knows."""

    class_name: str
    ids: frozenset[str]
    owner: Owner
    limits: SliceLimits
    reading: Reading | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One moment of a node. lost: why a card does not answer, by UUID, for those that do not. seen: the last look at the
    cards. registered: whether the kubelet knows a class."""

    at: datetime
    pool_name: str
    pool: Pool
    layout: Layout = field(default_factory=Layout)
    lost: Mapping[str, str] = field(default_factory=dict)
    seen: Inventory = field(default_factory=Inventory)
    slices: tuple[SliceState, ...] = ()
    registered: Mapping[str, bool] = field(default_factory=dict)
    pretended: bool = False

    @property
    def in_use(self) -> frozenset[str]:
        """The ids that containers have."""
        return frozenset(one for state in self.slices for one in state.ids)


def tested_word(state: SliceState, pool: Pool) -> str:
    """The verdict as the annotation names it."""
    if state.verdict is not None:
        return state.verdict.tested.value
    return "pending" if pool.selftest else "off"


def inventory_of(snapshot: Snapshot) -> NodeInventory:
    """What hubs are told."""
    used = snapshot.in_use
    cards = []
    for card in snapshot.layout.cards.values():
        units = [unit for unit in snapshot.layout.units.values() if unit.card == card.uuid]
        classes = {}
        for name, one in snapshot.pool.classes.items():
            of_class = [unit for unit in units if unit.class_name == name]
            if of_class:
                classes[name] = ClassUse(
                    memory_mib=one.memory // MIB,
                    cores_pct=one.cores,
                    count=len(of_class),
                    used=sum(unit.id in used for unit in of_class),
                )
        cards.append(
            CardState(
                uuid=card.uuid,
                index=card.index,
                name=card.name,
                memory_mib=card.memory_total_bytes // MIB,
                healthy=card.uuid not in snapshot.lost,
                why=snapshot.lost.get(card.uuid, ""),
                classes=classes,
                distances=card.distances,
            )
        )
    return NodeInventory(
        at=snapshot.at,
        pool=snapshot.pool_name,
        pretended=snapshot.pretended,
        cards=tuple(cards),
        slices=tuple(_use(state, snapshot.pool) for state in snapshot.slices),
    )


def _use(state: SliceState, pool: Pool) -> SliceUse:
    return SliceUse(
        name=state.limits.name,
        class_name=state.class_name,
        devices=tuple(sorted(state.ids)),
        cards={one.uuid: Share(one.memory_bytes // MIB, one.cores_pct) for one in state.limits.devices},
        namespace=state.owner.namespace,
        pod=state.owner.pod,
        container=state.owner.container,
        tested=tested_word(state, pool),
        why=str(state.verdict.why or "")[:_LONGEST_WHY] if state.verdict is not None else "",
    )
