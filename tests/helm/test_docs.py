"""What docs/kubernetes.md shows is what the chart, the command and the provider take."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from helm.rendering import CHART, REPOSITORY, Chart, Rendered, read_yaml, values_of
from pydantic import BaseModel
from traitlets.config import Config

from labspawner.cli import main
from labspawner.config import Labspawner
from labspawner.gpu.agent.settings import AgentSettings, Pool, SliceClass
from labspawner.providers.kubernetes.options import KubernetesSettings, KubernetesVariant
from labspawner.providers.options import read_options

PAGE = REPOSITORY / "docs" / "kubernetes.md"
TEXT = PAGE.read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The page's blocks of code, as one would copy them."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", TEXT, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", body, flags=re.MULTILINE) for indent, body in found]


def commands() -> list[list[str]]:
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip() and "$(" not in line and "|" not in line]


EXAMPLES = [block for block in blocks("yaml") if block.startswith("# values")]


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_values_on_the_page_can_be_installed(chart: Chart, number: int) -> None:
    values = read_yaml(EXAMPLES[number])

    assert chart.lint(values) == []
    assert list(chart.render(values))


def test_the_page_shows_each_way_to_slice() -> None:
    strategies = {values["gpu"]["strategy"] for values in map(read_yaml, EXAMPLES) if "gpu" in values}

    assert strategies == {"hami", "device-plugin"}


def test_files_that_commands_name_are_there() -> None:
    named = [word for words in commands() for word in words if re.match(r"(helm|docs|courses)/", word)]

    assert named
    for word in named:
        assert (REPOSITORY / word).exists(), word


def test_commands_of_labspawner_exist_with_their_options() -> None:
    said = [words[words.index("labspawner") + 1 :] for words in commands() if "labspawner" in words]

    assert said
    for words in said:
        command: click.Command | None = main
        while isinstance(command, click.Group):
            command = command.get_command(click.Context(command), words.pop(0))
        assert command is not None, words
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word.partition("=")[0] for word in words if word.startswith("-")} <= known


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", TEXT):
        assert (PAGE.parent / target).exists(), target


def test_links_within_the_page_lead_to_a_heading() -> None:
    headings = {re.sub(r"[^a-z0-9 -]", "", line.strip("# ").lower()).replace(" ", "-") for line in TEXT.splitlines()}

    for anchor in re.findall(r"\]\(#([^)]*)\)", TEXT):
        assert anchor in headings


def test_each_setting_of_the_provider_is_explained() -> None:
    for name in set(KubernetesSettings.model_fields) - {"hub_config"}:
        assert f"`{name}`" in TEXT or f'"{name}":' in TEXT, name


def test_each_setting_of_a_variant_is_explained() -> None:
    for name in KubernetesVariant.model_fields:
        assert f"`{name}`" in TEXT, name


def test_the_configuration_on_the_page_is_one_that_a_hub_takes() -> None:
    (block,) = blocks("python")
    c = Config()
    exec(block, {"c": c})

    (given,) = Labspawner(config=c).providers.values()
    settings = read_options(KubernetesSettings, given, where="kubernetes")
    assert settings.gpu.strategy == "device-plugin"


@pytest.mark.parametrize("model", [AgentSettings, Pool, SliceClass])
def test_each_setting_of_the_node_agent_is_explained(model: type[BaseModel]) -> None:
    for name in model.model_fields:
        assert re.search(rf"`{name}:?`", TEXT), name


def test_each_right_on_the_page_is_one_that_the_chart_gives_and_the_other_way_round(chart: Chart) -> None:
    table = TEXT[TEXT.index("## What the rights are for") : TEXT.index("An agent's account")]
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| `")]
    shown = {
        (resource, verb, where.strip().startswith("its namespace"))
        for right, where in rows
        for resource in re.findall(r"`([a-z/]+)`", right)
        for verb in re.findall(r"\b(get|list|watch|create|delete|patch|update)\b", right.replace(f"`{resource}`", ""))
    }

    everything = {
        "rbac": {"podsOfAllNamespaces": True},
        "jupyterhub": {"hub": {"config": {"KubeSpawner": {"services_enabled": True}}}},
    }

    assert shown == rights_of_the_hub(chart.render(values_of("hami"), everything))


def rights_of_the_hub(rendered: Rendered) -> set[tuple[str, str, bool]]:
    """(resource, verb, whether in the hub's own namespace)"""
    return {
        (resource, verb, role["kind"] == "Role" and "namespace" not in role["metadata"])
        for role in [*rendered.all("Role"), *rendered.all("ClusterRole")]
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_versions_on_the_page_are_those_of_the_chart() -> None:
    head = read_yaml((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    oldest = re.search(r"\d+\.\d+", head["kubeVersion"])
    assert oldest is not None

    assert f"Kubernetes {oldest[0]} or later" in TEXT
    assert set(re.findall(r"labspawner-(?:hub|agent):([\w.]+)", TEXT)) == {head["appVersion"]}


def test_the_page_is_linked_from_where_people_look() -> None:
    for path in (Path("README.md"), Path("docs/architecture.md"), Path("docs/providers.md")):
        if "kubernetes.md" in (REPOSITORY / path).read_text(encoding="utf-8"):
            return
    pytest.fail("nobody links to docs/kubernetes.md")
