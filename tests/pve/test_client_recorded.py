"""What the client makes of a real cluster's answers, as they were recorded."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from labspawner.providers.proxmox.answers import Fault, PveRefused, TaskEnd, classify
from labspawner.providers.proxmox.snapshot import View

FILE = Path(__file__).with_name("recorded-pve-8.4.jsonl.gz")
NO_NAME = ("reserved name", "to get ready!", "query-spice")
"""Parts of texts that need no fault of their own: nothing of ours can meet them."""


@pytest.fixture(scope="module")
def recorded() -> list[dict[str, Any]]:
    with gzip.open(FILE, "rt") as lines:
        return [line for line in map(json.loads, lines) if line.get("request") and line.get("response")]


def data_of(line: dict[str, Any]) -> Any:
    body = line["response"].get("body")
    return body.get("data") if isinstance(body, dict) else None


def test_each_refusal_has_a_fault(recorded):
    nameless = []
    for line in recorded:
        response = line["response"]
        body = response["body"] if isinstance(response.get("body"), dict) else {}
        if (response.get("status") or 0) >= 400:
            text = str(body.get("message") or response["reason"]).strip()
            if classify(response["status"], text, body.get("errors")) is Fault.OTHER:
                nameless.append(text)

    assert [text for text in nameless if not any(part in text for part in NO_NAME)] == []


def test_each_end_of_a_task_is_success_or_has_a_fault(recorded):
    ends = [
        TaskEnd.of(str(data["upid"]), str(data["exitstatus"]))
        for data in map(data_of, recorded)
        if isinstance(data, dict) and data.get("exitstatus")
    ]

    assert len(ends) > 50
    assert [end.exitstatus for end in ends if end.fault is Fault.OTHER] == []


def test_a_vm_that_was_deleted_is_never_told_as_a_missing_right(recorded):
    refused = [
        PveRefused(403, str(line["response"]["body"]["message"]))
        for line in recorded
        if line["response"].get("status") == 403 and "deleted" in line["step"]
    ]

    assert refused
    assert {each.fault for each in refused} == {Fault.GONE_OR_FORBIDDEN}


def test_each_listing_can_be_read_by_whoever_made_it(recorded):
    views = [
        View.of(data_of(line), taken_at=0.0)
        for line in recorded
        if line["request"]["path"] == "/cluster/resources" and isinstance(data_of(line), list)
    ]

    assert len(views) > 10
    assert any(vm.status == "unknown" and vm.template is None for view in views for vm in view.vms.values())


def test_the_quorum_told_from_the_nodes_is_what_the_cluster_said_itself(recorded):
    told, compared = None, 0
    for line in recorded:
        path, data = line["request"]["path"], data_of(line)
        if path == "/cluster/status" and isinstance(data, list):
            told = next((bool(each["quorate"]) for each in data if each.get("type") == "cluster"), None)
        elif path == "/nodes" and isinstance(data, list) and line["scenario"] == "faults" and told is not None:
            compared += 1
            assert View.of(data, taken_at=0.0).quorate is told, line["step"]

    assert compared >= 4
