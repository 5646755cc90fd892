"""A GPU for a virtual machine, as a course file says it, and what that forbids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import ValidationError
from unit.courses.course_files import profile_of

from labspawner.cli.profiles import profiles
from labspawner.courses import course_schema
from labspawner.courses.resolve import resolve_profile

VM: dict[str, Any] = {"provider": "proxmox", "template": "ubuntu-dl"}
PCI = {"settings": {"pci": {"mapping": "gpu"}}}
COURSE = """course: dl101
title: Deep Learning
profiles:
  - slug: gpu
    title: A GPU of your own
    variants:
      - {provider: proxmox, template: 9100, settings: {pci: {mapping: gpu}}}
    idle: {after: 20m, action: ACTION}
"""


def _asked(**choices: Any) -> dict[str, Any]:
    return {"variants": [VM], "options": {"gpu": {"title": "GPU", **choices}}}


@pytest.mark.parametrize(
    "changes",
    [
        {"variants": [{**VM, **PCI}]},
        {"variants": [{"provider": "local"}, {**VM, **PCI}]},
        _asked(choices={"yes": {"title": "yes", "set": PCI}}),
        _asked(unlisted_choice={"enabled": True, "validation_regex": "[a-z]+", "set": PCI}),
    ],
    ids=["its variant", "its second variant", "a choice", "what is typed"],
)
def test_servers_that_may_hold_a_device_cannot_be_hibernated(changes: dict[str, Any]):
    with pytest.raises(ValidationError, match=r"cannot be hibernated.*write action: stop"):
        profile_of(**changes, idle={"action": "hibernate"})

    assert profile_of(**changes, idle={"action": "stop"}).idle.action == "stop"


def test_an_empty_wish_is_no_device():
    assert profile_of(variants=[{**VM, "settings": {"pci": {}}}], idle={"action": "hibernate"}).variants


def test_a_slice_of_a_gpu_is_nothing_for_a_virtual_machine():
    with pytest.raises(ValidationError, match=r"a whole GPU or a vGPU, no slice: .*\{pci: "):
        profile_of(variants=[{**VM, "gpu": {"memory": "6GiB"}}])


@pytest.mark.parametrize("written", ["9100", 9100])
def test_a_template_may_be_given_by_its_number(written: object):
    profile = profile_of(variants=[{"provider": "proxmox", "template": written}])

    assert resolve_profile(profile, {}, 0).settings == {"template": "9100"}


def test_a_host_hears_that_it_has_to_keep_room_for_the_memory():
    idle = {"action": "hibernate"}
    profile = profile_of(variants=[VM, {"provider": "local"}, {**VM, "settings": {"hibernate": False}}], idle=idle)

    settings = [resolve_profile(profile, {}, index).settings for index in range(3)]

    assert settings == [
        {"template": "ubuntu-dl", "hibernate": True},
        {},
        {"template": "ubuntu-dl", "hibernate": False},
    ]


def test_lint_says_where_and_what_to_write_instead(tmp_path: Path):
    file = tmp_path / "dl101.yaml"
    file.write_text(COURSE.replace("ACTION", "hibernate"))

    refused = CliRunner().invoke(profiles, ["lint", str(file)])
    file.write_text(COURSE.replace("ACTION", "stop"))
    accepted = CliRunner().invoke(profiles, ["lint", str(file)])

    assert refused.exit_code == 1
    assert f"{file}:4:" in refused.output
    assert "write action: stop" in refused.output
    assert accepted.exit_code == 0, accepted.output


def test_editors_know_that_a_template_is_a_name_or_a_number():
    kinds = course_schema()["$defs"]["Variant"]["properties"]["template"]["anyOf"]

    assert {each.get("type") for kind in kinds for each in kind.get("anyOf", [kind])} == {"string", "integer", "null"}
