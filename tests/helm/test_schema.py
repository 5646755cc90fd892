"""values.yaml is the one place where a value is described; the schema is made from it."""

from __future__ import annotations

import importlib.util
import json
from types import ModuleType
from typing import Any

import pytest
from helm.rendering import CHART, REPOSITORY, VALUES, read_yaml
from jsonschema import Draft202012Validator


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("chart_schema", REPOSITORY / "helm" / "schema.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def text() -> str:
    return (CHART / "values.yaml").read_text(encoding="utf-8")


def test_the_schema_is_what_the_values_say(generator: ModuleType, text: str) -> None:
    made = (CHART / "values.schema.json").read_text(encoding="utf-8")

    assert made == generator.render(text), "run: python helm/schema.py"


def test_every_value_has_a_comment(generator: ModuleType, text: str) -> None:
    assert generator.undocumented(text) == []


def test_the_schema_is_a_schema_and_takes_the_defaults(text: str) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))

    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(read_yaml(text))


def test_the_schema_has_the_keys_of_the_values_and_no_others(text: str) -> None:
    def keys_of_schema(node: dict[str, Any], path: str = "") -> set[str]:
        found = set()
        for key, child in node.get("properties", {}).items():
            found |= {f"{path}{key}"} | keys_of_schema(child, f"{path}{key}.")
        return found

    def keys_of_values(node: Any, path: str = "") -> set[str]:
        found = set()
        for key, child in node.items() if isinstance(node, dict) else ():
            found |= {f"{path}{key}"}
            if path or key != "jupyterhub":
                found |= keys_of_values(child, f"{path}{key}.")
        return found

    schema = keys_of_schema(json.loads((CHART / "values.schema.json").read_text(encoding="utf-8")))
    open_mappings = ("gpu.agent.resources.", "monitoring.dashboard.labels.")
    values = {key for key in keys_of_values(read_yaml(text)) if not key.startswith(open_mappings)}

    assert schema == values


def test_each_closed_mapping_lists_its_keys_in_a_refusal(text: str) -> None:
    def closed(node: dict[str, Any]) -> list[dict[str, Any]]:
        mine = [node] if node.get("additionalProperties") is False else []
        return mine + [each for child in node.get("properties", {}).values() for each in closed(child)]

    for each in closed(json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))):
        assert set(each["propertyNames"]["enum"]) == set(each["properties"])


def test_the_value_files_of_the_tests_touch_every_part(text: str) -> None:
    written = {key for path in VALUES.glob("*.yaml") for key in read_yaml(path.read_text(encoding="utf-8"))}

    assert set(read_yaml(text)) - {"global"} == written


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ("a: 1\n", "a has no comment"),
        ("# What a is.\na:\n", "a has no default"),
        ("# What a is.\na: {}\n", "say with @schema what may be in it"),
        ("# What a is.\na:\n  b: 1\n", "a.b has no comment"),
    ],
)
def test_a_value_that_nobody_explains_makes_no_schema(generator: ModuleType, values: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        generator.schema_of(values)


def test_a_comment_may_say_what_a_default_cannot(generator: ModuleType) -> None:
    values = "# How often,\n# in words.\n# @schema {enum: [now, never]}\nwhen: now\n"

    assert generator.schema_of(values)["properties"]["when"] == {
        "description": "How often, in words.",
        "type": "string",
        "enum": ["now", "never"],
    }
