"""A VM says whose it is, whatever its student is called."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from unit.proxmox.clusters import TEMPLATE_CONFIG, config_of, marker_of

from labspawner.model import LeaseId
from labspawner.naming import new_lease_id
from labspawner.providers.proxmox.marks import (
    QUARANTINE,
    Marker,
    address_of_tags,
    clone_name,
    describe,
    host_name,
    lease_of_name,
    lease_of_tags,
    mac_of,
    read_marker,
    same_vm,
    tags_of,
    uuid_of,
)

DNS_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
TAG = re.compile(r"[a-z0-9_][a-z0-9_+.-]*")
ANY_NAME = st.text(st.characters(exclude_categories=()), max_size=255)  # lone surrogates included


@given(ANY_NAME, ANY_NAME, ANY_NAME)
@example("%41;=&", "a b\n#", "marker=labspawner1.x")
@example("\U0001f600" * 255, "\U0001f600" * 255, "\x00" * 100)
def test_any_marker_is_read_back_from_the_description(user: str, server: str, profile: str):
    marker = marker_of(user=user, server_name=server, profile=profile, address="10.0.0.7")

    description = describe(marker)

    assert read_marker(description) == marker
    assert description.isascii()
    assert "%" not in description
    assert len(description) < 8192


@pytest.mark.parametrize("around", ["{}\n", "<p>{}</p>", "# Notes\n\n{}\n\nmy own words", "  {}"])
def test_the_marker_is_found_whatever_somebody_wrote_around_it(around: str):
    marker = marker_of(user="Ann Ö")

    assert read_marker(around.format(describe(marker))) == marker


@pytest.mark.parametrize(
    "description",
    [
        *(None, 5, "", "labspawner: alice", "labspawner1.", "labspawner1.####", "labspawner1.W10", "labspawner1.eyJ9"),
        *("labspawner1.WyJhIl0", "labspawner1.WzEsMiwzLDQsNSw2XQ", "labspawner1." + "W" * 6000),
    ],
)
def test_what_is_no_marker_is_none(description: object):
    assert read_marker(description) is None


def test_a_marker_that_was_cut_is_none():
    description = describe(marker_of())

    assert read_marker(description[:-9]) is None


def test_people_can_read_whose_it_is():
    description = describe(marker_of(lease_id=LeaseId("l123"), server_name="gpu"))

    assert "hub=lab lease=l123 user=alice server=gpu " in description


def test_one_listing_tells_the_lease():
    lease = new_lease_id()
    tags = tags_of("lab", lease, address="10.0.0.7")

    assert tags == tags.lower()
    assert tags.split(";") == sorted(tags.split(";"))
    assert all(TAG.fullmatch(tag) for tag in tags.split(";"))
    assert lease_of_tags(tags.split(";"), "lab") == lease
    assert address_of_tags(tags.split(";")) == "10.0.0.7"


@pytest.mark.parametrize(
    ("tags", "lease"),
    [
        ("labspawner;ls-hub-other;ls-lease-l1", None),
        ("labspawner;ls-hub-lab", None),
        ("labspawner;ls-hub-lab;ls-lease-l1;ls-lease-l2", None),
        ("ls-lease-l1", None),
        ("", None),
        ("backup;labspawner;ls-hub-lab;ls-lease-l1;nightly", "l1"),
    ],
)
def test_another_hubs_vm_is_nobodys_here(tags: str, lease: str | None):
    assert lease_of_tags(tags.split(";"), "lab") == lease


def test_a_vm_in_quarantine_says_so_and_still_whose_it_is():
    tags = tags_of("lab", LeaseId("l1"), quarantined=True).split(";")

    assert QUARANTINE in tags
    assert lease_of_tags(tags, "lab") == "l1"


def test_an_address_of_ipv6_stands_in_a_tag_too():
    tags = tags_of("lab", LeaseId("l1"), address="fd00::8").split(";")

    assert all(TAG.fullmatch(tag) for tag in tags)
    assert address_of_tags(tags) == "fd00::8"
    assert address_of_tags(["labspawner"]) == ""


@given(ANY_NAME)
@example("-")
@example("Ann.Smith@example.org")
def test_any_user_has_a_host_name_and_the_clones_name_holds_the_lease(user: str):
    lease = new_lease_id()

    names = clone_name(user, lease), host_name(user, lease)

    assert all(DNS_NAME.fullmatch(name) for name in names)
    assert lease_of_name(names[0]) == lease
    assert lease_of_name("alice-lab") is None


def test_a_student_recognises_the_name():
    assert host_name("alice", LeaseId("labcdefghijk7w2d")) == "alice-7w2d"


def test_uuid_and_mac_are_read_from_a_configuration():
    assert uuid_of(TEMPLATE_CONFIG) == "6b2d53b7-4e35-4173-bd6c-21b71f07e3f8"
    assert mac_of(TEMPLATE_CONFIG) == "bc:24:11:72:53:8d"
    assert mac_of({"net0": "model=virtio,macaddr=BC:24:11:72:53:8D,bridge=vmbr0"}) == "bc:24:11:72:53:8d"
    assert uuid_of({"smbios1": "base64=1,uuid=6B2D53B7-4E35-4173-BD6C-21B71F07E3F8,serial=eA=="}) is not None
    assert uuid_of({}) is None
    assert mac_of({"net0": "virtio,bridge=vmbr0"}) is None


def _config(marker: Marker, **changes: Any) -> dict[str, Any]:
    return config_of(description=describe(marker), **changes)


def test_a_vm_that_got_the_number_later_is_another_one():
    marker, other = marker_of(), marker_of()
    mine = {"hub_id": marker.hub_id, "lease_id": marker.lease_id}
    uuid = uuid_of(TEMPLATE_CONFIG)

    assert same_vm(_config(marker), **mine)
    assert same_vm(_config(marker), **mine, uuid=str(uuid).upper())
    assert not same_vm(_config(marker), **mine, uuid="00000000-0000-0000-0000-000000000000")
    assert not same_vm(_config(other), **mine)
    assert not same_vm(_config(marker), hub_id="other", lease_id=marker.lease_id)
    assert not same_vm(config_of(description="my own VM"), **mine)
    assert not same_vm({}, **mine)
