"""Monitors find what they are for, and the dashboard asks for metrics that labspawner has."""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

import pytest
from helm.rendering import CHART, Chart, Rendered, at, values_of
from prometheus_client import REGISTRY

from labspawner import metrics
from labspawner.gpu.agent import metrics as agent


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((CHART / "files" / "dashboard.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def device_plugin(chart: Chart) -> Rendered:
    return chart.render(values_of("device-plugin"))


def test_the_dashboard_asks_for_metrics_that_there_are(dashboard: dict[str, Any]) -> None:
    declared = set(re.findall(r'"(labspawner_gpu_[a-z_]+)"', inspect.getsource(agent)))
    of_hub = {each.name for each in REGISTRY.collect() if each.name.startswith("labspawner_")}
    assert metrics.STARTS._name in of_hub
    suffixes = ("", "_total", "_bucket", "_count", "_sum")
    there = {name + suffix for name in declared | of_hub for suffix in suffixes}

    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"\b(labspawner_[a-z_]+)\b", target["expr"])
    }

    assert asked
    assert asked <= there


def test_panels_do_not_cover_one_another(dashboard: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_the_dashboard_is_a_configmap_that_grafanas_sidecar_finds(chart: Chart, dashboard: dict[str, Any]) -> None:
    made = chart.render(values_of("hami")).the("ConfigMap", "labspawner-dashboard")

    assert json.loads(made["data"]["labspawner.json"]) == dashboard
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_the_hubs_monitor_reads_with_the_token_of_the_secret(chart: Chart) -> None:
    monitor = chart.render(values_of("hami"), at("jupyterhub.hub.baseUrl", "/jupyter/")).the(
        "ServiceMonitor", "labspawner-hub"
    )
    (endpoint,) = monitor["spec"]["endpoints"]

    assert endpoint["path"] == "/jupyter/hub/metrics"
    assert endpoint["authorization"]["credentials"] == {"name": "labspawner-hub", "key": "metrics-token"}
    assert monitor["metadata"]["labels"]["release"] == "prometheus"


def test_the_agents_monitor_selects_the_agents_and_their_port(device_plugin: Rendered) -> None:
    monitor = device_plugin.the("PodMonitor", "labspawner-agent")
    daemons = device_plugin.all("DaemonSet")

    assert len(daemons) == 2
    for each in daemons:
        labels = each["spec"]["template"]["metadata"]["labels"]
        assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
        (container,) = each["spec"]["template"]["spec"]["containers"]
        assert monitor["spec"]["podMetricsEndpoints"][0]["port"] in {port["name"] for port in container["ports"]}


def test_without_an_operator_nothing_of_it_is_made(chart: Chart) -> None:
    kinds = {each["kind"] for each in chart.render(values_of("minimal"))}

    assert not kinds & {"ServiceMonitor", "PodMonitor"}
