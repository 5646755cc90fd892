"""The launches that one provider object has under way: none twice, not more than fit, and none after its release."""

from __future__ import annotations

from collections.abc import Collection

from labspawner.errors import LeaseConflict, NoRoom, StartFailed
from labspawner.model import LeaseId
from labspawner.sentences import Sentence


class Launches:
    """Which leases are being launched here, and which of these were released meanwhile."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._under_way: set[LeaseId] = set()
        self._released: set[LeaseId] = set()

    def __contains__(self, lease_id: LeaseId) -> bool:
        return lease_id in self._under_way

    def leases(self) -> frozenset[LeaseId]:
        """The leases that are being launched now."""
        return frozenset(self._under_way)

    def begin(self, lease_id: LeaseId, *, running: Collection[LeaseId]) -> None:
        """Count a launch. running: the leases that have a server.

        Raises LeaseConflict when this lease has one, or is being launched; NoRoom when `most` is reached.
        """
        if lease_id in self._under_way or lease_id in running:
            raise LeaseConflict(
                Sentence("Your server is already starting or running. Reload this page."),
                detail=f"launched twice lease={lease_id}",
            )
        held = self._under_way.union(running)
        if self._most is not None and len(held) >= self._most:
            raise NoRoom(
                Sentence("All {count} places for servers are taken. Try again in a few minutes.", count=self._most),
                detail=f"no room max_servers={self._most} held={len(held)}",
            )
        self._under_way.add(lease_id)

    def end(self, lease_id: LeaseId) -> None:
        """The launch is over, one way or the other."""
        self._under_way.discard(lease_id)
        self._released.discard(lease_id)

    def release(self, lease_id: LeaseId) -> None:
        """A launch that is under way must make nothing more."""
        if lease_id in self._under_way:
            self._released.add(lease_id)

    def go_on(self, lease_id: LeaseId) -> None:
        """Raises StartFailed when the lease was released since `begin`."""
        if lease_id in self._released:
            raise StartFailed(
                Sentence("Your server was stopped while it was starting."),
                detail=f"released while starting lease={lease_id}",
            )
