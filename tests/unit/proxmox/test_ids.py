"""Which numbers a hub gives to its VMs."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labspawner.providers.proxmox.ids import VmidRange, candidates


@pytest.mark.parametrize("text", ["20000-29999", " 20000 - 29999 ", "100-100", "100-999999999"])
def test_a_range_is_two_numbers_with_a_dash(text: str):
    first, last = (int(part) for part in text.split("-"))

    vmids = VmidRange.parse(text)

    assert (vmids.first, vmids.last, len(vmids)) == (first, last, last - first + 1)
    assert VmidRange.parse(vmids) is vmids
    assert VmidRange.parse(str(vmids)) == vmids


@pytest.mark.parametrize("text", ["", "20000", "99-200", "300-200", "1-1000000000", "a-b", "100-1000000000", 100, None])
def test_what_is_no_range_is_refused_with_an_example(text: object):
    with pytest.raises(ValueError, match="for example 20000-29999"):
        VmidRange.parse(text)


def test_each_hub_begins_with_a_range_that_no_wizard_of_pve_reaches():
    assert str(VmidRange()) == "20000-29999"


@given(st.integers(100, 200), st.integers(0, 60), st.sets(st.integers(90, 270)), st.text())
def test_every_number_of_the_range_that_is_not_seen_is_tried_once(first: int, more: int, seen: set[int], seed: str):
    vmids = VmidRange(first, first + more)

    tried = list(candidates(vmids, seen=seen, seed=seed))

    assert sorted(tried) == [vmid for vmid in range(first, first + more + 1) if vmid not in seen]


def test_starts_of_one_moment_begin_at_different_numbers():
    begins = {next(candidates(VmidRange(), seen=(), seed=f"lease{number}")) for number in range(20)}

    assert len(begins) >= 18


def test_a_start_that_is_tried_again_begins_where_it_did():
    assert list(islice(candidates(VmidRange(), seen=(), seed="a"), 5)) == list(
        islice(candidates(VmidRange(), seen=(), seed="a"), 5)
    )
