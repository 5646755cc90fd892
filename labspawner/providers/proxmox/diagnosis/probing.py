"""Whether somebody answers at an address: without any right, a connection tells."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
from collections.abc import Collection, Iterable, Sequence

PORTS = (22, 80, 445, 8888)
_AT_ONCE = 64
_ALONE_S = 0.7
"""A machine in the same room answers in milliseconds; one that is not there is found out about by silence."""


async def answering(
    addresses: Iterable[str], *, ports: Sequence[int] = PORTS, within_s: float = _ALONE_S
) -> frozenset[str]:
    """The addresses that somebody has: a port is open, or a connection is refused. A machine that drops everything is not
    seen. Of loopback addresses, all of which this machine has, only open ports count."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(address: str) -> str | None:
        async with gate:
            for port in ports:
                if await _answers(address, port, within_s):
                    return address
        return None

    found = await asyncio.gather(*(one(address) for address in addresses))
    return frozenset(address for address in found if address is not None)


def spread(addresses: Sequence[str], most: int, *, without: Collection[str] = ()) -> tuple[str, ...]:
    """At most so many of them, from everywhere in the pool."""
    free = [address for address in addresses if address not in without]
    if len(free) <= most:
        return tuple(free)
    return tuple(free[index * len(free) // most] for index in range(most))


async def _answers(address: str, port: int, within_s: float) -> bool:
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(address, port), within_s)
    except asyncio.TimeoutError:
        return False
    except OSError as exc:
        return exc.errno == errno.ECONNREFUSED and not ipaddress.ip_address(address).is_loopback
    writer.close()
    return True
