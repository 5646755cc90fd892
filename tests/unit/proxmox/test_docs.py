"""docs/proxmox.md and docs/templates.md say what the code does."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from labspawner import guest
from labspawner.providers.proxmox.addresses import AddressPool
from labspawner.providers.proxmox.diagnosis.rights import role_privileges
from labspawner.providers.proxmox.ids import VmidRange
from labspawner.providers.proxmox.options import ProxmoxSettings, ProxmoxVariant

DOCS = Path(__file__).parents[3] / "docs"
ONE_LEVEL_UP = {"template"}


@pytest.fixture(scope="module")
def page():
    return (DOCS / "proxmox.md").read_text(encoding="utf-8")


def keys_after(page: str, heading: str) -> set[str]:
    """What stands in backquotes in the first column of the first table after `heading`."""
    lines = page.split(heading, 1)[1].splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("|"))
    rows = list(itertools.takewhile(lambda line: line.startswith("|"), lines[first:]))
    return {key for line in rows[2:] for key in re.findall(r"`([a-z_]+)`", line.split("|")[1])}


def test_each_setting_of_the_provider_stands_in_the_table(page):
    assert keys_after(page, "## Settings of the provider") == set(ProxmoxSettings.model_fields)


def test_each_setting_of_a_variant_stands_in_the_table(page):
    said = keys_after(page, "A profile's variant takes")

    assert said == set(ProxmoxVariant.model_fields) - ONE_LEVEL_UP


def test_the_role_is_the_one_that_doctor_asks_for(page):
    said = re.search(r'role add LabSpawner --privs "([^"]+)"', page)

    assert said is not None
    assert set(said[1].replace("\\\n", " ").split()) == set(role_privileges(8))


def test_the_addresses_and_ids_of_the_example_can_be_read(page):
    pool = re.search(r'"addresses": \{"default": "([^"]+)"\}', page)
    ids = re.search(r'"vmids": "([^"]+)"', page)
    assert pool is not None
    assert ids is not None

    assert len(list(AddressPool.parse(pool[1], name="default").addresses())) == 200
    assert len(VmidRange.parse(ids[1])) == 10_000


def test_the_page_about_templates_names_each_check_of_the_helper():
    page = (DOCS / "templates.md").read_text(encoding="utf-8")
    line = next(line for line in page.splitlines() if "codes of the helper" in line)

    for code in guest.CHECKS:
        assert code.replace("-", " ") in line or code in line, code
