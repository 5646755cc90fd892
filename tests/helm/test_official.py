"""With the official chart itself, where a copy is at hand: LABSPAWNER_JUPYTERHUB_CHART names its archive.

helm pull jupyterhub --repo https://hub.jupyter.org/helm-chart/ --version 4.4.0
LABSPAWNER_JUPYTERHUB_CHART=$PWD/jupyterhub-4.4.0.tgz pytest tests/helm/test_official.py
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import kubernetes_validate
import pytest
from helm.rendering import CHART, VALUES, Chart, Object, Rendered, helm, read_yaml, values_of

COPY = os.environ.get("LABSPAWNER_JUPYTERHUB_CHART", "")
pytestmark = pytest.mark.skipif(not COPY, reason="LABSPAWNER_JUPYTERHUB_CHART names no copy of the official chart")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chart]:
    """The chart with the official one in place of the stand-in."""
    made = Chart(tmp_path_factory.mktemp("whole"), official=Path(COPY))
    yield made
    made.close()


def hub_of(rendered: Rendered) -> Object:
    (found,) = [
        each
        for objects in rendered.by_file.values()
        for each in objects
        if (each["kind"], each["metadata"]["name"]) == ("Deployment", "hub")
    ]
    return found


def test_the_copy_has_the_version_that_is_pinned() -> None:
    (wanted,) = read_yaml((CHART / "Chart.yaml").read_text(encoding="utf-8"))["dependencies"]

    with helm.Chart.load(COPY) as copy:
        assert (copy.name, copy.version) == (wanted["name"], wanted["version"])


@pytest.mark.parametrize("name", sorted(path.stem for path in VALUES.glob("*.yaml")))
def test_it_takes_our_values_and_makes_valid_objects(whole: Chart, name: str) -> None:
    rendered = whole.render(values_of(name))

    for objects in rendered.by_file.values():
        for each in objects:
            if not each["apiVersion"].startswith("monitoring.coreos.com"):
                kubernetes_validate.validate(each, "1.36", strict=True)


def test_the_hub_has_our_account_volumes_and_configuration(whole: Chart) -> None:
    rendered = whole.render(values_of("minimal"))
    pod = hub_of(rendered)["spec"]["template"]
    (container,) = pod["spec"]["containers"]

    assert pod["spec"]["serviceAccountName"] == "labspawner-hub"
    assert {"/etc/labspawner/settings", "/var/lib/labspawner", "/tmp"} <= {
        each["mountPath"] for each in container["volumeMounts"]
    }
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    policy = rendered.the("NetworkPolicy", "labspawner-servers")["spec"]
    hub = policy["egress"][0]["to"][0]["podSelector"]["matchLabels"]
    assert hub.items() <= pod["metadata"]["labels"].items()


def test_it_gives_the_hub_no_rights_and_runs_no_culler(whole: Chart) -> None:
    rendered = whole.render(values_of("minimal"))
    theirs = [each for name, objects in rendered.by_file.items() if "/charts/" in name for each in objects]

    assert not [each for each in theirs if each["kind"] in ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")]
    assert not [each for each in theirs if each["kind"] == "NetworkPolicy" and each["metadata"]["name"] == "singleuser"]
