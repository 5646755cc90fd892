"""Pools of addresses, and which address is whose."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labspawner.errors import BadConfig, NoRoom
from labspawner.providers.proxmox.addresses import (
    AddressPool,
    Use,
    address_of,
    candidates,
    merge,
    none_left,
    pool_for,
)


def _pool(text: str = "10.20.0.50-10.20.0.52/24 gw 10.20.0.1", name: str = "default") -> AddressPool:
    return AddressPool.parse(text, name=name)


def test_a_pool_says_all_that_a_vm_needs():
    pool = _pool("10.20.0.50-10.20.0.52/23 gw 10.20.1.1 dns 10.20.0.1,9.9.9.9 search lab.example")

    assert list(pool.addresses()) == ["10.20.0.50", "10.20.0.51", "10.20.0.52"]
    assert pool.ipconfig("10.20.0.51") == "ip=10.20.0.51/23,gw=10.20.1.1"
    assert [str(each) for each in pool.dns] == ["10.20.0.1", "9.9.9.9"]
    assert pool.search == "lab.example"
    assert AddressPool.parse(pool, name="other") is pool


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("10.0.0.9", ["10.0.0.9"]),
        ("10.0.0.9-10.0.0.10,10.0.0.20", ["10.0.0.9", "10.0.0.10", "10.0.0.20"]),
        ("10.0.0.0-10.0.0.3/30", ["10.0.0.1", "10.0.0.2"]),
        ("10.0.0.1-10.0.0.4/24 gw 10.0.0.2 dns 10.0.0.3", ["10.0.0.1", "10.0.0.4"]),
        ("10.0.0.9-10.0.0.10,10.0.0.10-10.0.0.11", ["10.0.0.9", "10.0.0.10", "10.0.0.11"]),
        ("10.0.0.254-10.0.0.255/31", ["10.0.0.254", "10.0.0.255"]),
        ("127.77.4.10-127.77.4.12", ["127.77.4.10", "127.77.4.11", "127.77.4.12"]),
        ("fd00::8-fd00::9/64 gw fd00::1", ["fd00::8", "fd00::9"]),
    ],
)
def test_no_vm_gets_the_address_of_the_network_or_of_a_machine_that_it_needs(text: str, addresses: list[str]):
    assert list(_pool(text).addresses()) == addresses


def test_of_ipv6_the_words_are_those_of_ipv6():
    assert _pool("fd00::8-fd00::9/64 gw fd00::1").ipconfig("fd00::8") == "ip6=fd00::8/64,gw6=fd00::1"
    assert _pool("10.0.0.9").ipconfig("10.0.0.9") == "ip=10.0.0.9/24"


@pytest.mark.parametrize(
    "text",
    [
        *("", "10.0.0.9-10.0.0.8", "10.0.0.9/24 gw", "10.0.0.9/33", "10.0.0.9/0", "10.0.0.9/x", "ten", "10.0.0.9-9"),
        *("10.0.0.9/24 gw 10.0.1.1", "10.0.0.9 gw a", "10.0.0.9 gw 10.0.0.1 gw 10.0.0.2", "10.0.0.9 via 10.0.0.1"),
        *("10.0.0.250-10.0.1.10/24", "10.0.0.9/24,10.0.0.10/25", "10.0.0.9-fd00::9", "10.0.0.9 search a_b"),
        *("10.0.0.0-10.9.0.0/8", 17, None, ["10.0.0.9"]),
    ],
)
def test_what_is_no_pool_is_refused_in_a_sentence(text: object):
    with pytest.raises(ValueError, match=r"[a-z]{4}"):
        AddressPool.parse(text, name="default")


@given(st.lists(st.integers(0, 255), min_size=1, max_size=4), st.integers(0, 40), st.integers(16, 32))
def test_whatever_a_pool_gives_lies_in_it_and_once(starts: list[int], length: int, prefix: int):
    text = ",".join(f"10.1.2.{start}-10.1.2.{min(255, start + length)}" for start in starts)
    try:
        pool = _pool(f"{text}/{prefix}")
    except ValueError:
        return  # not within one network

    addresses = list(pool.addresses())

    assert len(addresses) == len(set(addresses))
    assert all(address in pool for address in addresses)
    assert "10.1.3.1" not in pool
    assert "no address" not in pool


@pytest.mark.parametrize(
    ("ipconfig", "address"),
    [
        ("ip=10.99.0.160/24,gw=10.99.0.1", "10.99.0.160"),
        ("gw=10.99.0.1,ip=10.99.0.160/24", "10.99.0.160"),
        ("ip6=fd00::8/64", "fd00::8"),
        ("ip=dhcp", None),
        ("ip=dhcp,ip6=auto", None),
        ("", None),
        (None, None),
        (5, None),
    ],
)
def test_the_address_of_a_vm_is_read_from_its_configuration(ipconfig: object, address: str | None):
    assert address_of(ipconfig) == address


@given(st.integers(1, 254))
def test_what_a_pool_writes_is_read_back(last: int):
    pool = _pool("10.0.0.1-10.0.0.254/24 gw 10.0.0.1")

    assert address_of(pool.ipconfig(f"10.0.0.{last}")) == f"10.0.0.{last}"


def test_a_profile_has_its_own_pool_or_its_courses_or_everybodys():
    pools = {name: _pool(name=name) for name in ("dl101/gpu", "dl101", "default", "guests")}

    found = [
        pool_for(pools, profile="dl101/gpu"),
        pool_for(pools, profile="dl101/base"),
        pool_for(pools, profile="py101/base"),
        pool_for(pools, profile="dl101/gpu", wanted="guests"),
    ]

    assert [pool and pool.name for pool in found] == ["dl101/gpu", "dl101", "default", "guests"]
    assert pool_for({}, profile="dl101/gpu") is None


def test_a_pool_that_does_not_exist_is_said_with_those_that_do():
    with pytest.raises(BadConfig, match="there are: default") as refused:
        pool_for({"default": _pool()}, profile="dl101/gpu", wanted="guests")

    assert "the pool guests, which this hub does not have" in refused.value.message


def test_vms_and_table_together_say_what_is_taken():
    uses = [Use(address="10.0.0.1", vmid=1, lease_id="a"), Use(address="10.0.0.2", vmid=2, lease_id="b")]

    merged = merge(uses, {"10.0.0.1": "a", "10.0.0.3": None})

    assert merged.taken == {"10.0.0.1", "10.0.0.2", "10.0.0.3"}
    assert [use.address for use in merged.missing] == ["10.0.0.2"]
    assert not merged.foreign
    assert not merged.twice
    assert not merged.stale


def test_a_table_that_was_lost_is_told_by_the_vms_and_gives_nothing_twice():
    uses = [Use(address=f"10.20.0.{last}", vmid=last, lease_id=f"lease{last}") for last in (50, 52)]
    pool = _pool()

    merged = merge(uses, {})

    assert set(merged.missing) == set(uses)
    assert list(candidates(pool, taken=merged.taken, seed="new")) == ["10.20.0.51"]


def test_a_vm_is_right_and_the_table_is_not():
    merged = merge([Use(address="10.0.0.1", vmid=1, lease_id="a")], {"10.0.0.1": "b"})

    assert [use.lease_id for use in merged.missing] == ["a"]
    assert merged.stale == {"10.0.0.1": "b"}


def test_a_strangers_vm_and_two_of_ours_on_one_address_are_reported():
    uses = [
        Use(address="10.0.0.1", vmid=700),
        Use(address="10.0.0.2", vmid=2, lease_id="a"),
        Use(address="10.0.0.2", vmid=3, lease_id="b"),
    ]

    merged = merge(uses, {})

    assert merged.foreign == {"10.0.0.1": 700}
    assert merged.twice == {"10.0.0.2": (2, 3)}
    assert merged.taken == {"10.0.0.1", "10.0.0.2"}


def test_a_lease_without_a_vm_still_holds_its_address():
    merged = merge([], {"10.0.0.1": "a"})

    assert merged.taken == {"10.0.0.1"}
    assert merged.stale == {"10.0.0.1": "a"}


@given(st.sets(st.integers(50, 60)), st.text())
def test_every_address_that_is_not_taken_is_tried_once(taken: set[int], seed: str):
    pool = _pool("10.20.0.50-10.20.0.60/24")

    tried = list(candidates(pool, taken={f"10.20.0.{last}" for last in taken}, seed=seed))

    assert sorted(tried) == sorted(f"10.20.0.{last}" for last in range(50, 61) if last not in taken)


def test_a_full_pool_is_a_matter_of_minutes_and_an_empty_one_is_not():
    full = none_left(_pool(), taken=["10.20.0.50", "10.20.0.51", "10.20.0.52"])
    empty = none_left(_pool("10.20.0.1-10.20.0.1/24 gw 10.20.0.1"), taken=[])

    assert isinstance(full, NoRoom)
    assert "All 3 network addresses" in full.message
    assert isinstance(empty, BadConfig)
    assert "no network addresses" in empty.message
