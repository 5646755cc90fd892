"""The chart, rendered offline: a copy of it with a stand-in for the official chart, and what comes out by kind and name.

The official chart is a dependency that is fetched at installation. Its stand-in has its name, its version and those of
its defaults that ours depend on; it makes one ConfigMap of the values that it was given, so that tests can look at them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

try:
    import helm_python as helm
except ImportError:  # there is none for every processor
    helm = None
REFUSED: type[Exception] = helm.errors.HelmError if helm else Exception
"""What Helm raises for values that it, the schema or a template does not take."""

REPOSITORY = Path(__file__).parents[2]
CHART = REPOSITORY / "helm" / "labspawner"
VALUES = Path(__file__).parent / "values"
RELEASE, NAMESPACE = "lab", "teaching"

_STANDIN_DEFAULTS = """\
hub:
  config: {JupyterHub: {authenticator_class: dummy}}
  db: {type: sqlite-pvc}
  serviceAccount: {create: true, name: null}
  extraVolumes: []
  extraVolumeMounts: []
rbac: {create: true}
proxy: {https: {enabled: false, type: letsencrypt}}
singleuser: {networkPolicy: {enabled: true}, cloudMetadata: {blockWithIptables: true}}
scheduling: {userScheduler: {enabled: true}, userPlaceholder: {enabled: true}}
prePuller: {hook: {enabled: true}, continuous: {enabled: true}}
cull: {enabled: true}
"""
_STANDIN_TEMPLATE = """\
apiVersion: v1
kind: ConfigMap
metadata:
  name: standin
data:
  values.json: |
    {{- toPrettyJson .Values | nindent 4 }}
"""

Object = dict[str, Any]


def read_yaml(text: str) -> Any:
    return YAML(typ="safe").load(text)


def copy_of_chart(folder: Path) -> Path:
    """A copy of the chart below `folder`, without its dependency."""
    made = folder / "labspawner"
    shutil.copytree(CHART, made, ignore=shutil.ignore_patterns("charts", "Chart.lock"))
    (made / "charts").mkdir()
    return made


def put_standin(made: Path) -> None:
    """The stand-in, where `helm dependency build` would put the official chart."""
    (wanted,) = read_yaml((CHART / "Chart.yaml").read_text(encoding="utf-8"))["dependencies"]
    standin = made / "charts" / wanted["name"]
    (standin / "templates").mkdir(parents=True)
    head = {"apiVersion": "v2", "name": wanted["name"], "version": wanted["version"]}
    (standin / "Chart.yaml").write_text(json.dumps(head), encoding="utf-8")
    (standin / "values.yaml").write_text(_STANDIN_DEFAULTS, encoding="utf-8")
    (standin / "templates" / "values.yaml").write_text(_STANDIN_TEMPLATE, encoding="utf-8")


class Rendered:
    """The objects that one installation would make."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self.files = {name: text for name, text in files.items() if text.strip()}
        self.notes = next((text for name, text in files.items() if name.endswith("NOTES.txt")), "")
        self.by_file: dict[str, list[Object]] = {
            name: [each for each in YAML(typ="safe").load_all(text) if each]
            for name, text in self.files.items()
            if not name.endswith("NOTES.txt")
        }

    def __iter__(self) -> Iterator[Object]:
        """Ours only."""
        for name, objects in self.by_file.items():
            if "/charts/" not in name:
                yield from objects

    def all(self, kind: str) -> list[Object]:
        return [each for each in self if each["kind"] == kind]

    def the(self, kind: str, name: str) -> Object:
        (found,) = [each for each in self.all(kind) if each["metadata"]["name"] == name]
        return found

    def official(self) -> dict[str, Any]:
        """The values that the official chart is given."""
        (text,) = [
            text for name, text in self.files.items() if name.endswith("charts/jupyterhub/templates/values.yaml")
        ]
        found: dict[str, Any] = json.loads(read_yaml(text)["data"]["values.json"])
        return found

    def settings(self) -> dict[str, Any]:
        """What the hub reads at its start."""
        found: dict[str, Any] = json.loads(self.the("ConfigMap", "labspawner-settings")["data"]["settings.json"])
        return found


class Chart:
    """The chart with its dependency, loaded once. official: an archive of that; else there is the stand-in."""

    def __init__(self, folder: Path, official: Path | None = None) -> None:
        if helm is None:
            pytest.skip("helm-python-sdk is not installed, so the chart cannot be rendered")
        self.path = copy_of_chart(folder)
        if official is None:
            put_standin(self.path)
        else:
            shutil.copy(official, self.path / "charts")
        self._loaded = helm.Chart.load(self.path)

    def render(self, *values: Mapping[str, Any], name: str = RELEASE, namespace: str = NAMESPACE) -> Rendered:
        """As `helm install -f ... -f ...` would."""
        return Rendered(self._loaded.render(merged(*values), name=name, namespace=namespace))

    def lint(self, *values: Mapping[str, Any]) -> list[str]:
        """What `helm lint --strict` finds."""
        report = helm.lint(self.path, merged(*values), strict=True, namespace=NAMESPACE, kube_version="v1.34.0")
        return [each["error"] for each in report["messages"] if each["severity"] >= 2] + report["errors"]

    def close(self) -> None:
        self._loaded.close()


def values_of(name: str) -> dict[str, Any]:
    """One of the value files of the tests."""
    found: dict[str, Any] = read_yaml((VALUES / f"{name}.yaml").read_text(encoding="utf-8"))
    return found


def merged(*values: Mapping[str, Any]) -> dict[str, Any]:
    """One value file over the other, as Helm lays them: mappings are merged, anything else is replaced."""
    result: dict[str, Any] = {}
    for each in values:
        for key, value in each.items():
            before = result.get(key)
            both = isinstance(before, Mapping) and isinstance(value, Mapping)
            result[key] = merged(before, value) if both else value  # type: ignore[arg-type]
    return result


def at(path: str, value: Any) -> dict[str, Any]:
    """`value` at a dotted path, as `--set` would put it."""
    for key in reversed(path.split(".")):
        value = {key: value}
    assert isinstance(value, dict)
    return value
