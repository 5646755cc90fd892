"""What an installation would make, for each of the value files."""

from __future__ import annotations

import json
import re
from typing import Any

import kubernetes_validate
import pytest
from helm.rendering import CHART, NAMESPACE, RELEASE, VALUES, Chart, Object, Rendered, at, read_yaml, values_of

from labspawner.config import Labspawner
from labspawner.courses import Catalog

FILES = sorted(path.stem for path in VALUES.glob("*.yaml"))
OLDEST, NEWEST = "1.32", "1.36"
FOREIGN = {"monitoring.coreos.com/v1"}  # kinds of operators, whose schemas are theirs


@pytest.fixture(scope="session")
def rendered(chart: Chart) -> dict[str, Rendered]:
    return {name: chart.render(values_of(name)) for name in FILES}


def pods(rendered: Rendered) -> list[Object]:
    return [each["spec"]["template"]["spec"] for each in rendered if "template" in each.get("spec", {})]


def test_there_are_value_files_for_each_way_to_use_the_chart() -> None:
    assert {"minimal", "hami", "device-plugin", "proxmox-only", "external-database", "locked-down"} <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_lint_finds_nothing_not_even_to_warn_of(chart: Chart, name: str) -> None:
    assert chart.lint(values_of(name)) == []


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("name", FILES)
def test_each_object_is_one_that_kubernetes_knows(rendered: dict[str, Rendered], name: str, version: str) -> None:
    for each in rendered[name]:
        if each["apiVersion"] not in FOREIGN:
            kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("name", FILES)
def test_each_object_says_whose_it_is(rendered: dict[str, Rendered], name: str) -> None:
    for each in rendered[name]:
        labels = each["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == RELEASE
        assert labels["app.kubernetes.io/part-of"] == "labspawner"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"


@pytest.mark.parametrize("name", FILES)
def test_a_file_makes_one_kind_of_object(rendered: dict[str, Rendered], name: str) -> None:
    for objects in rendered[name].by_file.values():
        assert len({each["kind"] for each in objects}) <= 1


@pytest.mark.parametrize("name", FILES)
def test_no_two_objects_have_one_name(rendered: dict[str, Rendered], name: str) -> None:
    names = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in rendered[name]]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", FILES)
def test_no_container_is_privileged_and_each_says_what_it_needs(rendered: dict[str, Rendered], name: str) -> None:
    for pod in pods(rendered[name]):
        assert not pod.get("hostNetwork")
        assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["privileged"] is False
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"]["drop"] == ["ALL"]
            assert set(container["resources"]["requests"]) == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]
            assert not container["image"].endswith(":latest")


@pytest.mark.parametrize("name", FILES)
def test_no_secret_is_made_or_written_where_everybody_reads(rendered: dict[str, Rendered], name: str) -> None:
    assert rendered[name].all("Secret") == []
    for each in rendered[name].all("ConfigMap"):
        text = json.dumps(
            {key: value for key, value in each["data"].items() if key != "hub.py"} if "data" in each else {}
        )
        assert not re.search(r"password|://[^/@\s\"]+:[^/@\s\"]+@|api_token|BEGIN [A-Z ]*PRIVATE KEY", text)


@pytest.mark.parametrize("name", FILES)
def test_a_second_release_in_another_namespace_shares_no_name_of_the_cluster(chart: Chart, name: str) -> None:
    def of_the_cluster(rendered: Rendered) -> set[tuple[str, str]]:
        kinds = ("ClusterRole", "ClusterRoleBinding", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
        wide = {(each["kind"], each["metadata"]["name"]) for each in rendered if each["kind"] in kinds}
        elsewhere = {
            (each["kind"], each["metadata"]["name"])
            for each in rendered
            if each["metadata"].get("namespace") == "kube-system"
        }
        return wide | elsewhere

    here, there = chart.render(values_of(name)), chart.render(values_of(name), namespace="physics")

    assert not of_the_cluster(here) & of_the_cluster(there)


def test_the_consoles_service_leads_to_the_hubs_pod_also_before_that_is_ready(rendered: dict[str, Rendered]) -> None:
    service = rendered["minimal"].the("Service", "labspawner-console")["spec"]
    settings = rendered["minimal"].settings()["console"]

    assert service["selector"] == {"app": "jupyterhub", "component": "hub", "release": RELEASE}
    assert service["publishNotReadyAddresses"] is True
    (port,) = service["ports"]
    assert settings["url"] == f"http://labspawner-console:{port['port']}"
    assert settings["listen"] == f"http://0.0.0.0:{port['targetPort']}"
    assert "/services/labspawner/" in rendered["minimal"].notes


def test_without_the_console_there_is_no_service_and_nobody_is_sent_there(rendered: dict[str, Rendered]) -> None:
    assert rendered["locked-down"].all("Service") == []
    assert "/services/labspawner/" not in rendered["locked-down"].notes


def test_the_official_chart_is_given_what_labspawner_needs(rendered: dict[str, Rendered]) -> None:
    official = rendered["minimal"].official()

    assert official["cull"]["enabled"] is False
    assert official["hub"]["concurrentSpawnLimit"] == 0
    assert official["hub"]["consecutiveFailureLimit"] == 0
    assert official["hub"]["serviceAccount"] == {"create": False, "name": "labspawner-hub"}
    assert official["rbac"]["create"] is False
    assert official["scheduling"]["userScheduler"]["enabled"] is False
    assert official["singleuser"]["cloudMetadata"]["blockWithIptables"] is False
    assert "hub.py" in official["hub"]["extraConfig"]["00-labspawner"]
    assert official["hub"]["containerSecurityContext"]["readOnlyRootFilesystem"] is True
    assert set(official["hub"]["resources"]["requests"]) == {"cpu", "memory"}


def test_values_of_single_user_servers_pass_untouched(chart: Chart) -> None:
    wished = {"storage": {"capacity": "5Gi"}, "extraEnv": {"COURSE": "dl101"}, "nodeSelector": {"pool": "students"}}

    official = chart.render(values_of("minimal"), {"jupyterhub": {"singleuser": wished}}).official()

    for key, value in wished.items():
        assert official["singleuser"][key] == value


def test_volumes_of_the_hub_name_what_the_chart_makes(rendered: dict[str, Rendered]) -> None:
    made = {each["metadata"]["name"] for each in rendered["minimal"].all("ConfigMap")}
    volumes = rendered["minimal"].official()["hub"]["extraVolumes"]

    assert {each["configMap"]["name"] for each in volumes if "configMap" in each} <= made


def test_courses_are_files_that_labspawner_reads(rendered: dict[str, Rendered], tmp_path: Any) -> None:
    for name in ("minimal", "hami"):
        for file, text in rendered[name].the("ConfigMap", "labspawner-courses")["data"].items():
            (tmp_path / file).write_text(text, encoding="utf-8")

    catalog = Catalog(tmp_path)
    catalog.refresh()

    assert catalog.problems == ()
    assert catalog.profile("py101/base") is not None
    assert catalog.profile("dl101/gpu") is not None


def test_settings_are_those_that_labspawner_has(rendered: dict[str, Rendered]) -> None:
    known = set(Labspawner.class_trait_names(config=True))
    for each in rendered.values():
        assert set(each.settings()["Labspawner"]) <= known


def test_the_hub_is_known_by_its_namespace_and_release_unless_values_say_otherwise(chart: Chart) -> None:
    values = values_of("minimal")

    def hub_id(rendered: Rendered) -> str:
        return str(rendered.settings()["Labspawner"]["hub_id"])

    assert hub_id(chart.render(values)) == f"{NAMESPACE}-{RELEASE}"
    assert hub_id(chart.render(values, name="jhub", namespace="jhub")) == "jhub"
    assert hub_id(chart.render(values, at("hubId", "campus"))) == "campus"


def test_leases_live_on_the_hubs_volume_or_in_the_database_that_a_secret_names(rendered: dict[str, Rendered]) -> None:
    by_default, outside = rendered["minimal"].settings(), rendered["external-database"].settings()

    assert by_default["Labspawner"]["data_dir"].startswith("/srv/jupyterhub/")
    assert by_default["database_in_secret"] is False
    assert outside["database_in_secret"] is True
    assert "database_url" not in outside["Labspawner"]


def test_without_pods_the_hub_has_no_rights_at_all(rendered: dict[str, Rendered]) -> None:
    only = rendered["proxmox-only"]

    assert not {each["kind"] for each in only} & {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"}
    assert set(only.settings()["Labspawner"]["providers"]) == {"lab-pve"}


def test_an_administrator_who_makes_rights_gets_none_made(rendered: dict[str, Rendered]) -> None:
    names = {(each["kind"], each["metadata"]["name"]) for each in rendered["locked-down"]}

    assert ("Role", "labspawner-hub") not in names
    assert ("ServiceAccount", "labspawner-hub") not in names


def test_the_chart_pins_the_official_chart_and_the_oldest_kubernetes() -> None:
    head = read_yaml((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    (wanted,) = head["dependencies"]

    assert re.fullmatch(r"\d+\.\d+\.\d+", wanted["version"])
    assert head["kubeVersion"] == f">={OLDEST}.0-0"
