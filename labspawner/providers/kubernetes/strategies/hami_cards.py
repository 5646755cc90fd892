"""What is left of the cards that HAMi shares: min(memory fit, core fit, split count), per card and never a sum. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from labspawner.model import CardCapacity
from labspawner.providers.kubernetes.strategies.hami_notes import MIG, HamiCard, HamiUse
from labspawner.providers.kubernetes.strategies.options import MigInstance, MigModel
from labspawner.providers.kubernetes.strategies.rooms import MIB

_ALONE_PCT = 100
"""HAMi gives all cores of a card only to somebody who has it alone."""


def places(
    card: HamiCard,
    uses: Sequence[HamiUse],
    *,
    alive: bool,
    models: Sequence[MigModel] = (),
    distances: Mapping[str, int] | None = None,
) -> tuple[CardCapacity, ...]:
    """The places of one card for slices. uses: what is held of it. alive: whether HAMi gives anything of it now."""
    geometries = next((model.geometries for model in models if any(name in card.type for name in model.models)), ())
    if card.mode == MIG and geometries:
        return _instances(card, uses, geometries, alive=alive and card.healthy)
    return (_shared(card, uses, alive=alive and card.healthy, distances=distances or {}),)


def _shared(card: HamiCard, uses: Sequence[HamiUse], *, alive: bool, distances: Mapping[str, int]) -> CardCapacity:
    cores = card.cores - sum(use.cores for use in uses)
    if uses and card.cores == _ALONE_PCT:
        cores = min(cores, _ALONE_PCT - 1)
    memory = (card.memory_mib - sum(use.memory_mib for use in uses)) * MIB
    return CardCapacity(
        uuid=card.uuid,
        memory_total_bytes=card.memory_mib * MIB,
        memory_free_bytes=max(0, memory) if alive else 0,
        compute_total_pct=card.cores,
        compute_free_pct=max(0, cores) if alive else 0,
        slots_free=max(0, card.split - len(uses)) if alive else 0,
        slots_total=card.split,
        distances=distances,
    )


def _instances(
    card: HamiCard, uses: Sequence[HamiUse], geometries: Sequence[Sequence[MigInstance]], *, alive: bool
) -> tuple[CardCapacity, ...]:
    """A MIG card: the instances of the geometry that it is cut to. An empty one is cut for its next slice, so with more
    than one geometry it is one place, until that slice is there."""
    largest = max(instance.memory for geometry in geometries for instance in geometry)
    taken = {use.slot for use in uses if use.slot is not None}
    cut = {slot[0] for slot in taken}
    whole = CardCapacity(
        uuid=card.uuid,
        memory_total_bytes=largest * MIB,
        memory_free_bytes=largest * MIB if alive and not uses else 0,
        slots_free=1 if alive and not uses else 0,
        slots_total=1,
    )
    if not uses and len(geometries) > 1:
        return (whole,)
    index = next(iter(cut)) if len(cut) == 1 else 0
    if (uses and (len(cut) != 1 or len(taken) != len(uses))) or index >= len(geometries):
        return (whole,)  # held in a way that we cannot read: nothing of it is offered
    found = _places(card, geometries[index], index, taken, alive=alive)
    return found if len(geometries) == 1 else (*found, whole)


def _places(
    card: HamiCard,
    geometry: Sequence[MigInstance],
    index: int,
    taken: set[tuple[int, int]],
    *,
    alive: bool,
) -> tuple[CardCapacity, ...]:
    sizes = [instance.memory for instance in geometry for _ in range(instance.count)]
    return tuple(
        CardCapacity(
            uuid=f"{card.uuid}[{index}-{place}]",
            memory_total_bytes=size * MIB,
            memory_free_bytes=size * MIB if (free := alive and (index, place) not in taken) else 0,
            slots_free=1 if free else 0,
            slots_total=1,
        )
        for place, size in enumerate(sizes)
    )
