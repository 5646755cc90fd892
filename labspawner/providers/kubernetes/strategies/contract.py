"""What a way of slicing GPUs on Kubernetes must answer. A strategy is plain data in and out: it calls nobody.

One strategy serves a whole provider. A later one (`dra`) joins by answering the same five questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from labspawner.model import HeldSlice, HostCapacity, Slice
from labspawner.providers.kubernetes.views import EventView, NodeView, PodView
from labspawner.providers.kubernetes.wishes import GpuWish
from labspawner.sentences import Sentence


class Kind(str, Enum):
    """What a pod that is not ready can look forward to.

    STARTING: it goes on by itself. FULL: it fits, and there is no room now. NEVER: no machine could hold it, even empty.
    FAILED: something is wrong that waiting does not mend.
    """

    STARTING = "starting"
    FULL = "full"
    NEVER = "never"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Why a pod is not ready. message: for the student; detail: for the log, with the cluster's own words.

    percent: how far a healthy start is, 0 to 100; of the others it means nothing.
    stuck: of a start that goes on by itself: what to say where it has not gone on when time ran out.
    again: the same pod, made anew, may well work (`UnexpectedAdmissionError`, an eviction during the start).
    asks_log: the last lines of the container's log would say more; add them to the error.
    """

    kind: Kind
    message: Sentence
    detail: str = ""
    percent: int = 0
    stuck: Sentence | None = None
    again: bool = False
    asks_log: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PodPatch:
    """What a strategy adds to the pod of a server. The first container is the server's; nothing here replaces silently:
    the provider refuses a profile that sets one of these itself.

    limits: extended resources, each also as a request of the same amount. environment: beats whatever else is set.
    volumes, volume_mounts: as the API has them. scheduler_name, runtime_class: None leaves the provider's.
    """

    limits: Mapping[str, int] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    volumes: tuple[Mapping[str, Any], ...] = ()
    volume_mounts: tuple[Mapping[str, Any], ...] = ()
    scheduler_name: str | None = None
    runtime_class: str | None = None


class Strategy(Protocol):
    """Slices GPUs in one way. name: as the provider's settings have it (`hami`, `device-plugin`, `none`)."""

    @property
    def name(self) -> str: ...

    def patch(self, wanted: Slice | None, wish: GpuWish) -> PodPatch:
        """What makes a pod get the slice `wanted`; with None: what keeps it from every card.

        Raises NeverFits where no place of this cluster's layout could hold it, and BadConfig for a wish that this
        strategy cannot grant."""
        ...

    def capacity(self, nodes: Sequence[NodeView], pods: Sequence[PodView]) -> tuple[HostCapacity, ...]:
        """What fits, per node and per card, never summed. A node that takes no pods now has its totals, and nothing free.

        nodes: those of the provider's pool. pods: all of the cluster that are known; those with a node count there."""
        ...

    def why_waiting(
        self, pod: PodView, events: Sequence[EventView], nodes: Sequence[NodeView], pods: Sequence[PodView] = ()
    ) -> Waiting | None:
        """Why `pod` is not ready; None when it is. events: those of this pod, in any order; older than it do no harm
        where they carry its uid."""
        ...

    def granted(self, pod: PodView, nodes: Sequence[NodeView] = ()) -> tuple[HeldSlice, ...] | None:
        """The slices that were given to the server's container; None as long as nobody said which."""
        ...

    def untouched(self, pod: PodView) -> Sentence | None:
        """Why a pod that wants a slice will never be looked at by who should give it one; None: all is well so far."""
        ...
