"""The capacity map: which card is cut into whose slices, what is free, and what nobody can have. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from labspawner.model import Slice
from labspawner.sentences import Sentence
from labspawner.service.console.administration.answers import (
    CapacityAnswer,
    CardAnswer,
    HostAnswer,
    ProviderAnswer,
    ServerAnswer,
    SliceAnswer,
    Texts,
)
from labspawner.units import human_bytes

WIDTH = 1000
"""The length of a bar in its own units; the page scales it."""
TONES = 6
_MIG = "MIG-"
_SMALL_BYTES = 64 * 2**20
"""What is left over in counting (a driver's own memory) and is nobody's loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One stretch of a bar. x, width: of `WIDTH`. tone: 1 to `TONES`, the same for the same course; 0 for nobody's."""

    x: int
    width: int
    tone: int
    server: ServerAnswer | None = None
    share: SliceAnswer | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """One thing of a machine, used and in all, in words. used: of `WIDTH`."""

    label: Sentence
    text: Sentence
    used: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CardView:
    """A card. name: short enough to be read out. lost: free memory that no slice can have, and why."""

    name: str
    uuid: str
    mig: bool
    text: Sentence
    parts: tuple[Part, ...]
    lost_bytes: int = 0
    lost: Sentence | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """A machine with its cards, and what runs on it without a card."""

    name: str
    meters: tuple[Meter, ...]
    cards: tuple[CardView, ...]
    servers: tuple[ServerAnswer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderView:
    """A provider. trouble: why it does not answer; what is shown of it then is what was known last."""

    name: str
    nodes: tuple[NodeView, ...]
    unplaced: tuple[ServerAnswer, ...]
    text: Sentence
    pretended: bool = False
    trouble: Texts | None = None


def view(
    capacity: CapacityAnswer, servers: Iterable[ServerAnswer], asked: Mapping[str, Collection[Slice]] | None = None
) -> tuple[ProviderView, ...]:
    """The whole map, provider by provider. A lease that is on the map and not among `servers` has just ended. asked: the
    slices that profiles ask of each provider."""
    known = {server.lease: server for server in servers}
    courses = sorted({known[lease].course for lease in _on_cards(capacity) if lease in known})
    drawing = _Drawing(known, {course: number % TONES + 1 for number, course in enumerate(courses)}, asked or {})
    return tuple(drawing.provider(one) for one in capacity.providers)


def _on_cards(capacity: CapacityAnswer) -> list[str]:
    return [
        lease
        for provider in capacity.providers
        for host in provider.hosts
        for card in host.cards
        for lease in card.leases
    ]


@dataclass(frozen=True, slots=True)
class _Drawing:
    """servers: by lease. tones: by course, the same as long as there are the same courses."""

    servers: Mapping[str, ServerAnswer]
    tones: Mapping[str, int]
    asked: Mapping[str, Collection[Slice]]

    def provider(self, provider: ProviderAnswer) -> ProviderView:
        return ProviderView(
            name=provider.name,
            nodes=tuple(self.node(host, self.asked.get(provider.name, ())) for host in provider.hosts),
            unplaced=self.known(provider.unplaced),
            text=_summary(provider),
            pretended=provider.pretended,
            trouble=provider.error,
        )

    def node(self, host: HostAnswer, asked: Collection[Slice]) -> NodeView:
        sliced = {lease for card in host.cards for lease in card.leases}
        return NodeView(
            name=host.name,
            meters=tuple(_meters(host)),
            cards=tuple(self.card(card, asked) for card in host.cards),
            servers=self.known(lease for lease in host.leases if lease not in sliced),
        )

    def known(self, leases: Iterable[str]) -> tuple[ServerAnswer, ...]:
        found = (self.servers[lease] for lease in leases if lease in self.servers)
        return tuple(sorted(found, key=lambda one: (one.course, one.user, one.server, one.lease)))

    def card(self, card: CardAnswer, asked: Collection[Slice]) -> CardView:
        free = max(0, card.memory_free_bytes)
        lost = _why_lost(card, asked)
        return CardView(
            name=short(card.uuid),
            uuid=card.uuid,
            mig=card.uuid.startswith(_MIG) if card.mig is None else card.mig,
            text=Sentence(
                "{free} of {total} free, and {cores} of {all_cores} % of its computing time",
                free=human_bytes(free),
                total=human_bytes(card.memory_total_bytes),
                cores=max(0, card.compute_free_pct),
                all_cores=card.compute_total_pct,
            ),
            parts=tuple(self.parts(card)),
            lost_bytes=free if lost is not None else 0,
            lost=lost,
        )

    def parts(self, card: CardAnswer) -> list[Part]:
        """The slices from the left; then what else is used; what is free is left open."""
        parts: list[Part] = []
        x = 0
        for server in self.known(card.leases):
            gpu = server.slice or server.reserves.gpu
            width = min(WIDTH - x, _part(gpu.memory_bytes if gpu else 0, card.memory_total_bytes))
            parts.append(Part(x=x, width=width, tone=self.tones.get(server.course, TONES), server=server, share=gpu))
            x += width
        other = WIDTH - x - _part(card.memory_free_bytes, card.memory_total_bytes)
        if other > WIDTH // 100:
            parts.append(Part(x=x, width=other, tone=0))
        return parts


def _summary(provider: ProviderAnswer) -> Sentence:
    cards = [card for host in provider.hosts for card in host.cards]
    held = len({lease for host in provider.hosts for lease in host.leases} | set(provider.unplaced))
    if not cards:
        return Sentence("Machines: {nodes}. Servers: {held}.", nodes=len(provider.hosts), held=held)
    return Sentence(
        "Machines: {nodes}. Cards: {cards}, cut into {slices} slices. Servers: {held}.",
        nodes=len(provider.hosts),
        cards=len(cards),
        slices=sum(len(card.leases) for card in cards),
        held=held,
    )


def _meters(node: HostAnswer) -> list[Meter]:
    found = []
    if node.servers_total is not None and node.servers_free is not None:
        used = max(0, node.servers_total - node.servers_free)
        text = Sentence("{used} of {total}", used=used, total=node.servers_total)
        found.append(Meter(label=Sentence("Servers"), text=text, used=_part(used, node.servers_total)))
    if node.cpu_total is not None and node.cpu_free is not None:
        cores = max(0.0, node.cpu_total - node.cpu_free)
        text = Sentence("{used} of {total} cores", used=f"{cores:g}", total=f"{node.cpu_total:g}")
        found.append(Meter(label=Sentence("CPU"), text=text, used=_part(cores, node.cpu_total)))
    if node.memory_total_bytes is not None and node.memory_free_bytes is not None:
        taken = max(0, node.memory_total_bytes - node.memory_free_bytes)
        text = Sentence("{used} of {total}", used=human_bytes(taken), total=human_bytes(node.memory_total_bytes))
        found.append(Meter(label=Sentence("Memory"), text=text, used=_part(taken, node.memory_total_bytes)))
    return found


def _part(used: float, total: float) -> int:
    return 0 if total <= 0 else max(0, min(WIDTH, round(WIDTH * used / total)))


def _why_lost(card: CardAnswer, asked: Collection[Slice]) -> Sentence | None:
    """Why no slice can have what is free on this card; None where one can, or where nothing worth naming is free."""
    if card.memory_free_bytes < _SMALL_BYTES or not card.leases:
        return None
    free = human_bytes(card.memory_free_bytes)
    if card.slots_free is not None and card.slots_free <= 0:
        return Sentence("{free} are lost: no more slices may share this card.", free=free)
    if card.compute_free_pct <= 0:
        return Sentence("{free} are lost: all of its computing time is given away.", free=free)
    if asked and not any(_fits(one, card) for one in asked):
        return Sentence("{free} are lost: every profile here asks for more than is left.", free=free)
    return None


def _fits(wanted: Slice, card: CardAnswer) -> bool:
    return wanted.memory_bytes <= card.memory_free_bytes and wanted.compute_pct <= card.compute_free_pct


def short(uuid: str) -> str:
    """The name of a card as a person compares it: its kind and the first eight characters."""
    for kind in (_MIG, "GPU-"):
        if uuid.startswith(kind):
            return kind + uuid.removeprefix(kind)[:8]
    return uuid if len(uuid) <= 24 else f"{uuid[:24]}…"
