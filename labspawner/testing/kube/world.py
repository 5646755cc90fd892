"""What all parts of the double share: the store, the faults, the pace, the events, and how to run something soon."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from labspawner.testing.kube.events import EventLog
from labspawner.testing.kube.faults import FaultBoard, RequestLog
from labspawner.testing.kube.rights import Rights
from labspawner.testing.kube.store import Store


@dataclass(slots=True)
class Pace:
    """How long things take, in seconds. All at once, but for waits that would otherwise turn in a circle."""

    schedule_s: float = 0.0
    pull_s: float = 0.0  # an image that is not on the node
    start_s: float = 0.0  # from ContainerCreating to Running
    ready_s: float = 0.0  # from Running to Ready, without a probe
    stop_s: float = 0.0  # a pod without a process: how long its end takes
    restart_backoff_s: float = 10.0  # after the second death; doubles up to 5 minutes
    pull_backoff_s: float = 10.0
    bind_claim_s: float = 0.0
    bookmark_s: float = 1.0
    future_list_s: float = 0.0  # a list from a future resourceVersion; the real one takes 3 s
    end_namespace_s: float = 0.0


@dataclass(slots=True)
class World:
    """The cluster's inside. Lives in one event loop; every part gets it."""

    store: Store = field(default_factory=Store)
    faults: FaultBoard = field(default_factory=FaultBoard)
    requests: RequestLog = field(default_factory=RequestLog)
    pace: Pace = field(default_factory=Pace)
    dns: bool = False  # as in the recording: without, each pod gets a MissingClusterDNS event
    broken: list[BaseException] = field(default_factory=list)  # faults of the double itself, not of a test
    rights: Rights = field(init=False)
    events: EventLog = field(init=False)

    def __post_init__(self) -> None:
        self.rights = Rights(self.store)
        self.events = EventLog(self.store)

    def soon(self, act: Callable[[], None], after_s: float = 0.0) -> asyncio.Handle:
        loop = asyncio.get_running_loop()
        return loop.call_later(after_s, act) if after_s > 0 else loop.call_soon(act)
