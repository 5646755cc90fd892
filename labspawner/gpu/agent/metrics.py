"""What Prometheus reads of a node: its cards, its slices, and what the agent does. Names carry their unit."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from labspawner.gpu.agent.inventory import resource_of
from labspawner.gpu.agent.snapshot import SliceState, Snapshot, tested_word
from labspawner.gpu.limits import MAX_MEMORY_BYTES

_OF_CARD = ["uuid", "card"]
_OF_SLICE = ["namespace", "pod", "container", "class", "uuid"]
_MOST_S = 10 * 366 * 86400.0


class AgentMetrics:
    """All metrics of one agent, in a registry of their own. now: the moment that they are of; None: nothing is known yet."""

    def __init__(self, now: Callable[[], Snapshot | None]) -> None:
        self.registry = CollectorRegistry()
        self.allocate_seconds = Histogram(
            "labspawner_gpu_agent_allocate_seconds",
            "How long the kubelet waited for the slices of a container",
            ["class"],
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5),
            registry=self.registry,
        )
        self.refused = Counter(
            "labspawner_gpu_agent_allocations_refused",
            "Containers that did not get their slices",
            ["class"],
            registry=self.registry,
        )
        self.publish_failures = Counter(
            "labspawner_gpu_agent_publish_failures",
            "Times that the API server did not take the node's annotation",
            registry=self.registry,
        )
        self.killed = Counter(
            "labspawner_gpu_watchdog_killed",
            "Processes that were ended because their slice held more than it may",
            registry=self.registry,
        )
        self.registry.register(_Now(now))


class _Now(Collector):
    """Cards and slices as they are at the moment of the question."""

    def __init__(self, now: Callable[[], Snapshot | None]) -> None:
        self._now = now

    def collect(self) -> Iterable[Metric]:
        """One family per figure."""
        snapshot = self._now()
        return [] if snapshot is None else [*_of_cards(snapshot), *_of_units(snapshot), *_of_slices(snapshot)]

    def describe(self) -> Iterable[Metric]:
        """Nothing is said before there is something: keeps the registry from collecting at registration."""
        return []


def _of_cards(snapshot: Snapshot) -> Iterable[Metric]:
    healthy = GaugeMetricFamily("labspawner_gpu_card_healthy", "1 where the card answers, else 0", labels=_OF_CARD)
    total = GaugeMetricFamily("labspawner_gpu_card_memory_bytes", "Memory, as NVML reports it", labels=_OF_CARD)
    used = GaugeMetricFamily("labspawner_gpu_card_memory_used_bytes", "Memory in use, whoever uses it", labels=_OF_CARD)
    busy = GaugeMetricFamily(
        "labspawner_gpu_card_utilisation_ratio", "Part of the time in use, 0 to 1", labels=_OF_CARD
    )
    seen = {card.uuid: card for card in snapshot.seen.cards}
    for uuid, known in snapshot.layout.cards.items():
        labels = [uuid, known.name]
        healthy.add_metric(labels, 0.0 if uuid in snapshot.lost else 1.0)
        total.add_metric(labels, known.memory_total_bytes)
        if (card := seen.get(uuid)) is None:
            continue
        if card.memory_used_bytes is not None:
            used.add_metric(labels, card.memory_used_bytes)
        if card.utilisation_pct is not None:
            busy.add_metric(labels, card.utilisation_pct / 100)
    return healthy, total, used, busy


def _of_units(snapshot: Snapshot) -> Iterable[Metric]:
    there = GaugeMetricFamily("labspawner_gpu_slices", "Slices that there are", labels=["class", "uuid"])
    taken = GaugeMetricFamily("labspawner_gpu_slices_used", "Slices that containers have", labels=["class", "uuid"])
    known = GaugeMetricFamily(
        "labspawner_gpu_agent_registered", "1 where the kubelet knows the resource, else 0", labels=["resource"]
    )
    for uuid in snapshot.layout.cards:
        for name in snapshot.pool.classes:
            units = [unit for unit in snapshot.layout.of_class(name) if unit.card == uuid]
            if units:
                there.add_metric([name, uuid], len(units))
                taken.add_metric([name, uuid], sum(unit.id in snapshot.in_use for unit in units))
    for name, registered in snapshot.registered.items():
        known.add_metric([resource_of(name)], float(registered))
    return there, taken, known


def _of_slices(snapshot: Snapshot) -> Iterable[Metric]:
    limit = GaugeMetricFamily("labspawner_gpu_slice_memory_limit_bytes", "What the slice may hold", labels=_OF_SLICE)
    used = GaugeMetricFamily("labspawner_gpu_slice_memory_used_bytes", "What the slice holds", labels=_OF_SLICE)
    time = CounterMetricFamily("labspawner_gpu_slice_gpu_seconds", "GPU time that the slice had", labels=_OF_SLICE)
    refused = CounterMetricFamily(
        "labspawner_gpu_slice_refused_allocations", "Times that the slice was full", labels=_OF_SLICE
    )
    tested = GaugeMetricFamily(
        "labspawner_gpu_slice_tested", "1 for what the self-test came to", labels=["namespace", "pod", "verdict"]
    )
    for state in snapshot.slices:
        owner = state.owner
        tested.add_metric([owner.namespace, owner.pod, tested_word(state, snapshot.pool)], 1.0)
        for number, device in enumerate(state.limits.devices):
            labels = [owner.namespace, owner.pod, owner.container, state.class_name, device.uuid]
            limit.add_metric(labels, device.memory_bytes)
            _use(state, number, labels, used, time, refused)
    return limit, used, time, refused, tested


def _use(
    state: SliceState,
    number: int,
    labels: list[str],
    used: GaugeMetricFamily,
    time: CounterMetricFamily,
    refused: CounterMetricFamily,
) -> None:
    """Students' processes write these figures: none is believed beyond sense."""
    if state.reading is None or number >= len(state.reading.devices):
        return
    device = state.reading.devices[number]
    used.add_metric(labels, min(device.used_bytes, MAX_MEMORY_BYTES))
    time.add_metric(labels, min(device.gpu_time_s, _MOST_S))
    refused.add_metric(labels, device.refusals)
