"""TCP ports for servers: free now, and not promised to another launch."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Collection, Iterable

from labspawner.errors import NoRoom
from labspawner.model import LeaseId
from labspawner.sentences import Sentence

_TRIES = 64


class NoFreePort(NoRoom):
    """Every port that a server may use is taken."""

    reason = "no_port"


class Ports:
    """Hands out ports on one address; a port stays promised to its lease until `give_back`."""

    def __init__(self, ip: str, allowed: tuple[int, int] | None) -> None:
        self._ip = ip
        self._allowed = allowed
        self._promised: dict[LeaseId, int] = {}

    def take(self, lease_id: LeaseId, *, avoid: Collection[int] = ()) -> int:
        """A free port for `lease_id`, instead of the one it had; never one in `avoid`. Raises NoFreePort."""
        taken = {*avoid, *self._promised.values()}
        for port in self._candidates():
            if port not in taken and (self._allowed is None or _is_free(self._ip, port)):
                self._promised[lease_id] = port
                return port
        raise NoFreePort(
            Sentence("The server machine has no free network port for one more server. Try again in a few minutes."),
            detail=f"no free port ip={self._ip} range={self._allowed} promised={len(self._promised)}",
        )

    def give_back(self, lease_id: LeaseId) -> None:
        """Forget the promise; by now the server listens, or is gone."""
        self._promised.pop(lease_id, None)

    def _candidates(self) -> Iterable[int]:
        if self._allowed is not None:
            yield from range(self._allowed[0], self._allowed[1] + 1)
            return
        with contextlib.suppress(OSError), contextlib.ExitStack() as held:
            for _ in range(_TRIES):  # all held until one is taken, so that no two tries are the same port
                probe = held.enter_context(socket.socket())
                probe.bind((self._ip, 0))
                yield probe.getsockname()[1]


def _is_free(ip: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ip, port))
        except OSError:
            return False
    return True
