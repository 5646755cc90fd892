"""What the nodes show of cards, and whether that is what the provider is set to. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from labspawner.gpu.agent.inventory import resource_of
from labspawner.model import HostCapacity
from labspawner.providers.findings import Finding, error, note, ok, warning
from labspawner.providers.kubernetes.strategies.choosing import seen
from labspawner.providers.kubernetes.strategies.device_plugin import inventory_of
from labspawner.providers.kubernetes.strategies.hami_notes import REGISTER, read_register, silent
from labspawner.providers.kubernetes.strategies.options import SlicingSettings
from labspawner.providers.kubernetes.strategies.rooms import MIB, takes_pods
from labspawner.providers.kubernetes.views import NodeView
from labspawner.units import human_bytes, human_duration

_NAMES = {
    "hami": "HAMi",
    "device-plugin": "labspawner's node agent",
    "whole": "NVIDIA's own device plugin, which gives cards whole",
}
_OLD = timedelta(minutes=15)


def machines(nodes: Sequence[NodeView]) -> tuple[Finding, ...]:
    """Whether there is a node at all that takes pods."""
    if not nodes:
        return (error("nodes", "the cluster has no node", "add one, or look at kubectl get nodes"),)
    able = [node for node in nodes if takes_pods(node)]
    away = [node.name for node in nodes if not takes_pods(node)]
    said = f"{len(able)} of {len(nodes)} nodes take pods"
    found = [ok("nodes", said) if able else error("nodes", said, "look at kubectl describe nodes")]
    if able and away:
        found.append(warning("nodes", f"not ready or cordoned: {_few(away)}"))
    return tuple(found)


def cards(
    nodes: Sequence[NodeView], settings: SlicingSettings, hosts: Sequence[HostCapacity], now: datetime
) -> tuple[Finding, ...]:
    """What shares cards here, and whether the provider is set to it. hosts: capacity by the strategy that is set."""
    signs = seen(nodes)
    found = [note("GPUs", f"{_NAMES[name]} is on {len(names)} node(s): {_few(names)}") for name, names in signs.items()]
    if settings.strategy == "none":
        found += _unused(signs)
    elif settings.strategy not in signs:
        found.append(
            error(
                "GPU strategy",
                f"gpu.strategy is {settings.strategy}, and no node shows {_NAMES[settings.strategy]}",
                "install it, or set gpu.strategy of the provider to "
                + (" or ".join(sorted(set(signs) - {"whole"})) or "none"),
            )
        )
    else:
        found.append(ok("GPU strategy", f"{settings.strategy}: {_room(hosts)}"))
    found += _of_hami(nodes) if settings.strategy == "hami" else ()
    found += _of_agents(nodes, settings, now) if settings.strategy == "device-plugin" else ()
    return tuple(found)


def _unused(signs: Iterable[str]) -> list[Finding]:
    shared = sorted(set(signs) - {"whole"})
    if not shared:
        return [note("GPU strategy", "none: servers have no GPU")]
    return [
        warning(
            "GPU strategy",
            f"none, although {' and '.join(_NAMES[name] for name in shared)} shares cards here",
            f"for profiles with a GPU set {{'gpu': {{'strategy': {shared[0]!r}}}}} of the provider",
        )
    ]


def _room(hosts: Sequence[HostCapacity]) -> str:
    found = [card for host in hosts for card in host.cards]
    free = [card for card in found if card.memory_free_bytes and card.slots_free != 0]
    if not found:
        return "no card that slices can be made of"
    largest = max(card.memory_total_bytes for card in found)
    return f"{len(free)} of {len(found)} places have room, the largest has {human_bytes(largest)}"


def _of_hami(nodes: Sequence[NodeView]) -> list[Finding]:
    found = []
    gone = silent(nodes)
    for node in nodes:
        if REGISTER not in node.annotations:
            continue
        listed = read_register(node.annotations[REGISTER])
        if not listed:
            found.append(
                warning("GPUs", f"{node.name}: the annotation {REGISTER} cannot be read, so nothing is offered")
            )
        if node.name in gone:
            found.append(
                warning("GPUs", f"{node.name}: HAMi's device plugin does not answer", "look at its pod on that node")
            )
        sick = [card.uuid for card in listed if not card.healthy]
        if sick:
            found.append(warning("GPUs", f"{node.name}: HAMi calls these cards not healthy: {_few(sick)}"))
    return found


def _of_agents(nodes: Sequence[NodeView], settings: SlicingSettings, now: datetime) -> list[Finding]:
    found = []
    for name in settings.classes:
        if not any(node.allocatable.get(resource_of(name), 0) > 0 for node in nodes):
            found.append(
                error(
                    "slice classes",
                    f"no node offers {resource_of(name)} now, so profiles that need it do not start",
                    f"set the class {name} in the node agents' configuration, or take it out of gpu.classes",
                )
            )
    for node in nodes:
        inventory = inventory_of(node)
        if inventory is None:
            continue
        if now - inventory.at > _OLD:
            said = human_duration(now - inventory.at)
            found.append(warning("GPUs", f"{node.name}: its agent said nothing for {said}", "look at its pod there"))
        sick = [f"{card.uuid} ({card.why})" if card.why else card.uuid for card in inventory.cards if not card.healthy]
        if sick:
            found.append(warning("GPUs", f"{node.name}: these cards do not answer: {_few(sick)}"))
        failed = [one.pod for one in inventory.slices if one.tested == "failed"]
        if failed:
            found.append(error("GPUs", f"{node.name}: slices that do not hold, of: {_few(failed)}"))
        if inventory.pretended:
            found.append(note("GPUs", f"{node.name}: its cards are pretended, nothing is computed on them"))
        found += _sizes(node, settings)
    return found


def _sizes(node: NodeView, settings: SlicingSettings) -> list[Finding]:
    """Where hub and agent mean different sizes by one name, a student gets another slice than the page says."""
    inventory = inventory_of(node)
    offered = {name: use for card in (inventory.cards if inventory else ()) for name, use in card.classes.items()}
    found = []
    for name, use in offered.items():
        known = settings.classes.get(name)
        if known is None:
            found.append(
                note("slice classes", f"{node.name} offers {name!r}, which gpu.classes of the hub does not list")
            )
        elif (known.memory, known.cores) != (use.memory_mib * MIB, use.cores_pct):
            found.append(
                error(
                    "slice classes",
                    f"{name!r} is {human_bytes(known.memory)} / {known.cores} % for the hub, and "
                    f"{human_bytes(use.memory_mib * MIB)} / {use.cores_pct} % on {node.name}",
                    "write the same sizes into gpu.classes and the node agents' configuration",
                )
            )
    return found


def _few(names: Sequence[str], most: int = 5) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
