"""Addresses in 127.64.0.0/10 for pods and guests: all on this machine, and no two doubles have the same."""

from __future__ import annotations

import random
import socket

_LOCK_PORT = 28999  # whoever has bound this UDP port on x.y.z.255 owns x.y.z.*


class Addresses:
    """Gives out loopback addresses. Each /24 that it uses is claimed on this machine until `close`."""

    def __init__(self) -> None:
        self._claims: list[socket.socket] = []
        self._free: list[str] = []
        self._used: set[str] = set()

    def take(self) -> str:
        if not self._free:
            self._claim()
        address = self._free.pop(0)
        self._used.add(address)
        return address

    def give_back(self, address: str) -> None:
        """The address may be used again, after all others."""
        if address in self._used:
            self._used.discard(address)
            self._free.append(address)

    def close(self) -> None:
        for claim in self._claims:
            claim.close()
        self._claims.clear()
        self._free.clear()

    def _claim(self) -> None:
        for _ in range(1000):
            prefix = f"127.{random.randint(64, 127)}.{random.randint(0, 255)}"  # noqa: S311 - no secret
            claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                claim.bind((f"{prefix}.255", _LOCK_PORT))
            except OSError:
                claim.close()
                continue
            self._claims.append(claim)
            self._free += [f"{prefix}.{last}" for last in range(1, 255)]
            return
        raise RuntimeError("no free part of 127.64.0.0/10 was found in 1000 tries")
