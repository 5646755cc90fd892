"""A part of 127.77.0.0/16 for the guests of one double: all on this machine, and no two doubles have the same."""

from __future__ import annotations

import random
import socket

_LOCK_PORT = 28999  # labspawner.testing.addresses claims its parts of 127.64.0.0/10 by the same


class Net:
    """127.77.x.0/24, claimed on this machine until `close`."""

    def __init__(self) -> None:
        self._claim: socket.socket | None = None
        for _ in range(1000):
            self.prefix = f"127.77.{random.randint(0, 255)}"  # noqa: S311 - no secret
            claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                claim.bind((f"{self.prefix}.255", _LOCK_PORT))
            except OSError:
                claim.close()
                continue
            self._claim = claim
            return
        raise RuntimeError("no free part of 127.77.0.0/16 was found in 1000 tries")

    @property
    def pool(self) -> str:
        return f"{self.prefix}.10-{self.prefix}.250"

    @property
    def gateway(self) -> str:
        return f"{self.prefix}.1"

    @property
    def leased(self) -> str:
        """An address outside the pool, for what asks DHCP."""
        return f"{self.prefix}.251"

    def close(self) -> None:
        if self._claim is not None:
            self._claim.close()
            self._claim = None
