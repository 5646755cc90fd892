"""Addresses of VMs: pools as people write them, and which address is whose. Pure.

The record of truth is the VM itself, its `ipconfig0` and its marker; the hub's table is what makes two starts take two
addresses, and keeps one from being given away before its VM is gone.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TypeAlias

from labspawner.errors import BadConfig, NoRoom
from labspawner.sentences import Sentence

Ip: TypeAlias = IPv4Address | IPv6Address
Span: TypeAlias = tuple[Ip, Ip]

_EXAMPLE = "write for example '10.20.0.50-10.20.0.99/24 gw 10.20.0.1 dns 10.20.0.1'"
_WORDS = frozenset({"gw", "dns", "search"})
_DOMAIN = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", re.ASCII)
MOST = 65_536
"""Addresses in one pool; more are a slip of the pen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressPool:
    """Addresses that the hub gives to VMs, with what a VM needs to use one.

    spans: from and to, both included. prefix: of the network, 24 for a /24. Raises ValueError for what cannot be.
    """

    name: str
    spans: tuple[Span, ...]
    prefix: int
    gateway: Ip | None = None
    dns: tuple[Ip, ...] = ()
    search: str | None = None

    @classmethod
    def parse(cls, text: object, *, name: str) -> AddressPool:
        """Read `10.20.0.50-10.20.0.99/24 gw 10.20.0.1 dns 10.20.0.1,10.20.0.2 search lab.example`. Several ranges stand
        with commas between them; without `/24` it is /24, or /64 for IPv6."""
        if isinstance(text, AddressPool):
            return text
        words = text.split() if isinstance(text, str) else []
        if not words or len(words) % 2 == 0:
            raise ValueError(f"{text!r} is no pool of addresses: {_EXAMPLE}")
        ranges, prefix = _network(words[0])
        given: dict[str, str] = {}
        for key, value in zip(words[1::2], words[2::2], strict=True):
            if key not in _WORDS or key in given:
                raise ValueError(f"{key!r} is not understood here, or twice: {_EXAMPLE}")
            given[key] = value
        search = given.get("search")
        if search is not None and not _DOMAIN.fullmatch(search):
            raise ValueError(f"{search!r} is no domain: {_EXAMPLE}")
        return cls(
            name=name,
            spans=ranges,
            prefix=prefix,
            gateway=_address(given["gw"]) if "gw" in given else None,
            dns=tuple(_address(each) for each in given.get("dns", "").split(",") if each),
            search=search,
        )

    def __post_init__(self) -> None:
        if not self.spans:
            raise ValueError(f"a pool needs addresses: {_EXAMPLE}")
        if sum(int(last) - int(first) + 1 for first, last in self.spans) > MOST:
            raise ValueError(f"a pool of more than {MOST} addresses is most likely not meant: {_EXAMPLE}")
        network = ip_network(f"{self.spans[0][0]}/{self.prefix}", strict=False)
        for first, last in self.spans:
            if first not in network or last not in network:
                raise ValueError(f"{first}-{last} does not lie in one network {network}: {_EXAMPLE}")
        if self.gateway is not None and self.gateway not in network:
            raise ValueError(f"the gateway {self.gateway} is not in the network {network} of its addresses")

    def addresses(self) -> Iterator[str]:
        """Each address that a VM may have, in order: not the gateway, nor the network's own two."""
        network = ip_network(f"{self.spans[0][0]}/{self.prefix}", strict=False)
        kept = {self.gateway, *self.dns}
        if network.num_addresses > 2:
            kept |= {network.network_address, network.broadcast_address}
        seen: set[int] = set()
        for first, last in self.spans:
            for number in range(int(first), int(last) + 1):
                address = type(first)(number)
                if address not in kept and number not in seen:
                    seen.add(number)
                    yield str(address)

    def __contains__(self, address: object) -> bool:
        try:
            found = ip_address(str(address))
        except ValueError:
            return False
        return any(
            first.version == found.version and int(first) <= int(found) <= int(last) for first, last in self.spans
        )

    def ipconfig(self, address: str) -> str:
        """`ipconfig0` of a VM with this address."""
        six = ip_address(address).version == 6
        gateway = f",{'gw6' if six else 'gw'}={self.gateway}" if self.gateway is not None else ""
        return f"{'ip6' if six else 'ip'}={address}/{self.prefix}{gateway}"


def address_of(ipconfig: object) -> str | None:
    """The static address in an `ipconfig0` as PVE has it; None for DHCP, or what cannot be read."""
    if not isinstance(ipconfig, str):
        return None
    for part in ipconfig.split(","):
        key, _, value = part.strip().partition("=")
        if key in {"ip", "ip6"}:
            try:
                return str(ip_address(value.partition("/")[0]))
            except ValueError:
                continue
    return None


def pool_for(pools: Mapping[str, AddressPool], *, profile: str, wanted: str | None = None) -> AddressPool | None:
    """The pool of a profile (`course/slug`): the one that its variant names, else the one called after the profile, after
    its course, or `default`; None where there is none. Raises BadConfig for a name that is no pool's."""
    if wanted is not None:
        if wanted not in pools:
            raise BadConfig(
                Sentence(
                    "This profile takes its addresses from the pool {name}, which this hub does not have. "
                    "Tell your instructor.",
                    name=wanted,
                ),
                detail=f"no address pool {wanted!r} (there are: {', '.join(sorted(pools)) or 'none'})",
            )
        return pools[wanted]
    return next((pools[key] for key in (profile, profile.partition("/")[0], "default") if key in pools), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """An address that a VM has. lease_id: of its marker; None: the VM is not this hub's."""

    address: str
    vmid: int
    lease_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What VMs and table say together.

    taken: no start may have these. missing: in use by a VM of this hub and not in the table, which has to learn it.
    foreign: in use by a VM that is not this hub's, by address; somebody has to look. twice: addresses of several VMs.
    stale: held in the table by a lease that has no VM: its own start is under way, or it is to be freed.
    """

    taken: frozenset[str]
    missing: tuple[Use, ...] = ()
    foreign: Mapping[str, int] = field(default_factory=dict)
    twice: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    stale: Mapping[str, str] = field(default_factory=dict)


def merge(uses: Iterable[Use], table: Mapping[str, str | None]) -> Merged:
    """What is taken. table: address to the lease that holds it, None: set aside or at rest. A VM is always right."""
    by_address: dict[str, list[Use]] = {}
    for use in uses:
        by_address.setdefault(use.address, []).append(use)
    owned = {use.lease_id for each in by_address.values() for use in each if use.lease_id is not None}
    firsts: Sequence[Use] = [each[0] for each in by_address.values()]
    return Merged(
        taken=frozenset(by_address) | frozenset(table),
        missing=tuple(use for use in firsts if use.lease_id is not None and table.get(use.address) != use.lease_id),
        foreign={use.address: use.vmid for use in firsts if use.lease_id is None},
        twice={
            address: tuple(sorted({use.vmid for use in each}))
            for address, each in by_address.items()
            if len({use.vmid for use in each}) > 1
        },
        stale={address: lease for address, lease in table.items() if lease is not None and lease not in owned},
    )


def candidates(pool: AddressPool, *, taken: Collection[str], seed: str) -> Iterator[str]:
    """The addresses that may be tried, each once; seed: the lease, which always begins at the same one."""
    every = list(pool.addresses())
    out = frozenset(taken)
    offset = zlib.crc32(seed.encode("utf-8", "surrogatepass")) % len(every) if every else 0
    for address in (*every[offset:], *every[:offset]):
        if address not in out:
            yield address


def none_left(pool: AddressPool, *, taken: Collection[str]) -> NoRoom | BadConfig:
    """The error for a pool that has no address to give: full now, or it never had one."""
    every = list(pool.addresses())
    if not every:
        return BadConfig(
            Sentence("This profile has no network addresses to give. Tell your instructor."),
            detail=f"address pool {pool.name!r} is empty after its gateway and name servers",
        )
    return NoRoom(
        Sentence(
            "All {count} network addresses of this course are in use. Try again in a few minutes.", count=len(every)
        ),
        detail=f"address pool {pool.name!r} is full count={len(every)} taken={len(frozenset(taken))}",
        retry_after_s=60.0,
    )


def _network(text: str) -> tuple[tuple[Span, ...], int]:
    ranges: list[Span] = []
    prefixes: set[int] = set()
    for part in text.split(","):
        span, slash, prefix = part.partition("/")
        first, dash, last = span.partition("-")
        low = _address(first)
        high = _address(last) if dash else low
        if low.version != high.version or int(low) > int(high):
            raise ValueError(f"{part!r} is no range: write the smaller address first; {_EXAMPLE}")
        ranges.append((low, high))
        if slash:
            if not prefix.isascii() or not prefix.isdigit() or not 1 <= int(prefix) <= low.max_prefixlen:
                raise ValueError(f"'/{prefix}' is no size of a network: {_EXAMPLE}")
            prefixes.add(int(prefix))
    if len(prefixes) > 1:
        raise ValueError(f"all ranges of a pool lie in one network: {_EXAMPLE}")
    return tuple(ranges), prefixes.pop() if prefixes else (24 if ranges[0][0].version == 4 else 64)


def _address(text: str) -> Ip:
    try:
        return ip_address(text)
    except ValueError:
        raise ValueError(f"{text!r} is no address: {_EXAMPLE}") from None
