"""What is passed on to the hub of pods that end by themselves: at once, and with the reason as soon as it is known."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from labspawner.model import LeaseId, ServerState
from labspawner.providers.contract import Ear
from labspawner.providers.kubernetes import words
from labspawner.providers.kubernetes.cluster import Cluster, Seen
from labspawner.providers.kubernetes.state import state_of_pod
from labspawner.providers.kubernetes.views import PodView
from labspawner.providers.kubernetes.words import containers
from labspawner.sentences import Sentence

_SECOND_LOOK_S = 0.5  # a kubelet tells that a container ended a moment before it tells that it evicted the pod
_DELETED = Sentence("Your server was deleted from the cluster. Start it again.")


class Announcer:
    """Listens to the pods of one cluster for one ear. ours: whether a start of ours is at work on a lease; that hears by
    itself."""

    def __init__(self, cluster: Cluster, ours: Callable[[LeaseId], bool]) -> None:
        self._cluster = cluster
        self._ours = ours
        self._later: dict[str, asyncio.TimerHandle] = {}
        self._told: set[str] = set()
        self.ear: Ear | None = None
        cluster.on_pod = self._changed

    def close(self) -> None:
        """Nothing is passed on any more."""
        self.ear = None
        for timer in self._later.values():
            timer.cancel()
        self._later.clear()

    def _changed(self, before: Seen, now: Seen | None) -> None:
        if self.ear is None:
            return
        if now is None or (now.view.ended and not before.view.ended):
            self.ear.freed()
        name = before.view.name
        if now is None:
            self._tell(before, deleted=state_of_pod(before.view) is not ServerState.GONE)
            self._told.discard(name)
        elif now.view.terminating or (now.view.ended and now.view.reason):
            self._tell(now)
        elif state_of_pod(now.view) is ServerState.GONE and name not in self._later:
            self._later[name] = asyncio.get_running_loop().call_later(_SECOND_LOOK_S, self._again, name)

    def _again(self, name: str) -> None:
        """A container ended some moments ago: what has become of its pod says why, unless that was told meanwhile."""
        seen = self._cluster.known(name)
        if seen is not None:
            self._tell(seen)

    def _tell(self, seen: Seen, *, deleted: bool = False) -> None:
        name = seen.view.name
        if (timer := self._later.pop(name, None)) is not None:
            timer.cancel()
        if self.ear is None or name in self._told or self._ours(seen.lease_id):
            return
        self._told.add(name)
        self.ear.ended(seen.lease_id, _DELETED if deleted else why_ended(seen.view))


def why_ended(view: PodView) -> Sentence:
    """Why the server of this pod, which answered before, does not any more. Pure."""
    found = words.ended(view, was_ready=True)
    main = containers.main_of(view)
    if found is None and main is not None and (main.state == "terminated" or main.last_reason):
        found = containers.died(main, was_ready=True)
    return found.message if found is not None else _DELETED
