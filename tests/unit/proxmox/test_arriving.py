"""What is handed to the helper in a VM, what its answers mean, and by which address the VM is reached."""

from __future__ import annotations

import json
from typing import Any

import pytest

from labspawner.errors import SetupError
from labspawner.providers.proxmox.agent import Interface
from labspawner.providers.proxmox.handover import (
    GuestReport,
    answer_of,
    configuration,
    environment_of,
    report_of,
)
from labspawner.providers.proxmox.verdicts import address_of, check_versions
from labspawner.testing.requests import launch_request

MAC = "bc:24:11:00:00:01"


def card(*addresses: str, mac: str = MAC, name: str = "eth0") -> Interface:
    return Interface(name=name, mac=mac, addresses=addresses)


LOOPBACK = card("127.0.0.1", "::1", mac="00:00:00:00:00:00", name="lo")
DOCKER = card("172.17.0.1", mac="02:42:00:00:00:01", name="docker0")


def test_a_static_address_counts_once_its_own_card_has_it() -> None:
    assert address_of((LOOPBACK, card("10.0.0.5")), mac=MAC, wanted="10.0.0.5") == "10.0.0.5"
    assert address_of((LOOPBACK, card("10.0.0.6")), mac=MAC, wanted="10.0.0.5") is None
    assert address_of((card("10.0.0.5", mac="02:42:00:00:00:01"),), mac=MAC, wanted="10.0.0.5") is None
    assert address_of((LOOPBACK, card()), mac=MAC, wanted="10.0.0.5") is None


def test_an_address_from_dhcp_is_the_cards_own_and_never_link_local_or_another_cards() -> None:
    cards = (LOOPBACK, DOCKER, card("fe80::1%eth0", "169.254.3.4", "2001:db8::7", "10.0.0.7"))

    assert address_of(cards, mac=MAC.upper(), wanted="") == "10.0.0.7"
    assert address_of((LOOPBACK, DOCKER, card("169.254.3.4")), mac=MAC, wanted="") is None
    assert address_of((card("2001:db8::7"),), mac=MAC, wanted="") == "2001:db8::7"
    assert address_of((card("10.0.0.7"),), mac="", wanted="") is None


def test_the_environment_names_the_hub_as_vms_reach_it_and_nothing_of_the_hubs_own_machine() -> None:
    request = launch_request(environment={
        "PATH": "/hub/bin", "LANG": "C", "JUPYTERHUB_API_TOKEN": "t", "JUPYTERHUB_API_URL": "http://127.0.0.1:8081/hub/api",
    })  # fmt: skip

    environment = environment_of(
        request,
        url="http://10.0.0.5:8888",
        hub_connect_url="http://10.0.0.1:8081",
        hub_environment={"PATH": "/hub/bin", "LANG": "de"},
    )

    assert environment == {
        "LANG": "C",
        "JUPYTERHUB_API_TOKEN": "t",
        "JUPYTERHUB_API_URL": "http://10.0.0.1:8081/hub/api",
        "JUPYTERHUB_SERVICE_URL": "http://10.0.0.5:8888/user/student1/",
    }


def test_the_configuration_has_the_lease_and_says_whether_the_vm_stays_on() -> None:
    request = launch_request()

    said = json.loads(configuration(request, user="student", command=("x",), environment={"A": "b"}))
    stays = json.loads(configuration(request, user="s", command=("x",), environment={}, home="/h", stays=True))

    assert said == {
        "protocol": 1,
        "user": "student",
        "command": ["x"],
        "environment": {"A": "b"},
        "lease": request.lease_id,
        "when_ended": "poweroff",
    }
    assert (stays["home"], stays["when_ended"]) == ("/h", "stay")


@pytest.mark.parametrize("text", ["", "sh: not found", "[1]", '{"protocol": 1}', "\n\n"])
def test_what_is_no_answer_of_the_helper_is_none(text: str) -> None:
    assert answer_of(text) is None


def test_a_warning_before_the_answer_does_not_hide_it() -> None:
    assert answer_of('locale: cannot set\n{"ok": true, "a": 1}\n') == {"ok": True, "a": 1}


@pytest.mark.parametrize(
    ("cloud_init", "set_up"),
    [("done", True), ("running", False), ("not started", False), ("absent", True), ("error", True), ("degraded", True)],
)
def test_cloud_init_is_waited_for_while_it_works(cloud_init: str, set_up: bool) -> None:
    assert report_of({"cloud_init": cloud_init}).set_up is set_up


def test_a_server_died_when_it_is_of_this_lease_and_not_there_any_more() -> None:
    failed = report_of({"lease": "l1", "server": {"state": "failed", "exit_code": 3}})

    assert failed.died("l1")
    assert failed.exit_code == 3
    assert not failed.died("l2")
    assert not report_of({"lease": "l1", "server": {"state": "activating"}}).died("l1")


@pytest.mark.parametrize(
    "said", [{}, {"server": 1, "versions": [], "activity": "?"}, {"lease": 3, "last_input": "soon"}]
)
def test_a_report_that_cannot_be_read_says_nothing(said: dict[str, Any]) -> None:
    assert report_of(said) == GuestReport(cloud_init="unknown")


def test_activity_is_the_newest_of_server_and_people() -> None:
    report = report_of(
        {
            "activity": {"last_activity": "2026-11-22T10:00:00+00:00", "busy": 0, "connections": 2},
            "last_input": "2026-11-22T10:05:00Z",
            "sessions": [{}],
        }
    )

    assert report.activity is not None
    assert report.activity.last_activity is not None
    assert (report.activity.last_activity.minute, report.activity.busy, report.activity.clients) == (5, False, 2)


def test_another_major_version_of_jupyterhub_is_refused_with_both_versions() -> None:
    with pytest.raises(SetupError, match=r"jupyterhub==1\.5\.0"):
        check_versions(GuestReport(versions={"jupyterhub": "1.5.0"}))
    check_versions(GuestReport())
