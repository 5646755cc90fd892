"""Which cards a command gets, or the sentence that says why none. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from labspawner.gpu.cards import Device, Held, Inventory, capacities, without_strangers
from labspawner.gpu.limits import CorePolicy, DeviceLimit, SliceLimits
from labspawner.gpu.register import Registered
from labspawner.model import CardCapacity, CardPolicy, Slice
from labspawner.placement import choose_cards, has_room
from labspawner.units import human_bytes


class CannotPlace(Exception):
    """No card for this command; the text is for who typed it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What was asked for. named: cards by NVML's number or by UUID, empty for any; count: how many of any."""

    gpu: Slice
    named: tuple[str, ...] = ()
    count: int = 1
    place: CardPolicy = CardPolicy.BINPACK


def choose(
    wish: Wish, inventory: Inventory, slices: Iterable[Registered], *, ours: Collection[int] = frozenset()
) -> tuple[Device, ...]:
    """The devices for `wish`, in CUDA's order. Raises CannotPlace.

    ours: the processes that are in one of `slices`: what others hold of a card is not free.
    """
    if not inventory.cards:
        lost = "".join(f" GPU {one.index} does not answer ({one.why})." for one in inventory.lost)
        raise CannotPlace("There is no GPU on this machine." + lost)
    devices = {device.uuid: device for device in inventory.devices()}
    free = [
        without_strangers(card, devices[card.uuid], frozenset(ours)) for card in capacities(inventory, held_by(slices))
    ]
    if wish.named:
        chosen = [_named(name, inventory) for name in wish.named]
        if len({device.uuid for device in chosen}) < len(chosen):
            raise CannotPlace("The same card was named twice.")
        for device in chosen:
            _check_room(next(card for card in free if card.uuid == device.uuid), device, wish.gpu)
    else:
        cards = choose_cards(free, wish.gpu, count=wish.count, policy=wish.place)
        if cards is None:
            raise CannotPlace(_why_none(wish, free))
        chosen = [devices[card.uuid] for card in cards]
    order = list(devices)
    return tuple(sorted(chosen, key=lambda device: order.index(device.uuid)))


def held_by(slices: Iterable[Registered]) -> list[Held]:
    """What registered slices hold, of each of their devices."""
    return [
        Held(device.uuid, Slice(memory_bytes=device.memory_bytes, compute_pct=_reserved(one.limits, device)))
        for one in slices
        for device in one.limits.devices
    ]


def _reserved(limits: SliceLimits, device: DeviceLimit) -> int:
    """Compute time that is promised: nothing where it is not limited."""
    return 1 if limits.policy is CorePolicy.OFF else device.cores_pct


def _named(name: str, inventory: Inventory) -> Device:
    devices = inventory.devices()
    for card in inventory.cards:
        if name in {str(card.index), card.uuid}:
            if not card.mig:
                return card
            raise CannotPlace(f"GPU {name} is cut into MIG devices. Name one of them:\n{_list(card.parts)}")
    for device in devices:
        if device.uuid == name:
            return device
    raise CannotPlace(f"There is no GPU {name} here. There are:\n{_listing(inventory)}")


def _listing(inventory: Inventory) -> str:
    lines = [f"  {card.index}  {card.uuid}  {card.name}" for card in inventory.cards if not card.mig]
    return "\n".join([*lines, *(_list(card.parts) for card in inventory.cards if card.mig and card.parts)])


def _list(devices: Sequence[Device]) -> str:
    return "\n".join(f"  {device.uuid}  {device.name}" for device in devices)


def _check_room(card: CardCapacity, device: Device, gpu: Slice) -> None:
    if has_room(card, gpu):
        return
    if gpu.memory_bytes > card.memory_total_bytes:
        raise CannotPlace(
            f"{exactly(gpu.memory_bytes)} is more than {device.uuid} has: {exactly(card.memory_total_bytes)}."
        )
    raise CannotPlace(f"{device.uuid} has no room: {_left(card)} are free. {ADVICE}")


ADVICE = "`labspawner gpu ls` shows who holds what."


def _why_none(wish: Wish, free: Sequence[CardCapacity]) -> str:
    largest = max(card.memory_total_bytes for card in free) if free else 0
    if wish.gpu.memory_bytes > largest:
        return f"{exactly(wish.gpu.memory_bytes)} is more than any GPU here has: the largest has {exactly(largest)}."
    if wish.count > len(free):
        return f"{wish.count} GPUs are more than there are: {len(free)}."
    best = max(free, key=lambda card: (card.memory_free_bytes, card.compute_free_pct))
    return f"No GPU has the room now. The most that is free on one: {_left(best)}. {ADVICE}"


def _left(card: CardCapacity) -> str:
    if card.slots_free == 0:
        return "no places"
    return f"{exactly(card.memory_free_bytes)} and {card.compute_free_pct} % of compute time"


def exactly(size: int) -> str:
    """In MiB below 100 GiB: `24564 MiB` is not `24 GiB`, and that is often the point."""
    mib = size / 2**20
    return f"{mib:.0f} MiB" if size % 2**30 and mib < 100 * 1024 else human_bytes(size)
