"""Make `values.schema.json` of the chart from the comments of its `values.yaml`.

    python helm/schema.py            # writes helm/labspawner/values.schema.json
    python helm/schema.py --check    # exits 1 where the file is not what the values say

A key's description is the comment above it, its type that of its default. What a default cannot say follows
`# @schema` in that comment: one flow mapping on the same line, or a block of YAML up to `# @end`. A mapping takes the
keys that it has and no others, unless it says `additionalProperties`; one with `open: true` takes anything, and its
children are defaults of somebody else's chart.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

CHART = Path(__file__).parent / "labspawner"
TYPES: dict[type, str] = {bool: "boolean", int: "integer", str: "string", list: "array", dict: "object"}


def schema_of(text: str) -> dict[str, Any]:
    """The schema of a values.yaml. Raises ValueError for a key without a comment, or whose type nobody says."""
    tree = YAML(typ="rt").load(text)
    made = _object(tree, text.splitlines(), ())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Values of labspawner", **made}


def undocumented(text: str) -> list[str]:
    """Keys that have no comment of their own; below an `open` mapping only leaves need one."""
    found: list[str] = []
    lines = text.splitlines()

    def walk(node: CommentedMap, path: tuple[str, ...], *, foreign: bool) -> None:
        for key, value in node.items():
            words, extra = _comment(lines, node.lc.key(key)[0])
            deeper = isinstance(value, CommentedMap) and bool(value) and node.lc.key(key)[0] != value.lc.line
            if not words and not (foreign and deeper):
                found.append(".".join((*path, str(key))))
            if deeper:
                walk(value, (*path, str(key)), foreign=foreign or bool(extra.get("open")))

    walk(YAML(typ="rt").load(text), (), foreign=False)
    return found


def _object(node: CommentedMap, lines: list[str], path: tuple[str, ...]) -> dict[str, Any]:
    properties = {str(key): _property(node, key, lines, (*path, str(key))) for key in node}
    return {
        "type": "object",
        "additionalProperties": False,
        "propertyNames": {"enum": list(properties)},  # so that a refusal lists what may be typed instead
        "properties": properties,
    }


def _property(node: CommentedMap, key: str, lines: list[str], path: tuple[str, ...]) -> dict[str, Any]:
    value = node[key]
    words, extra = _comment(lines, node.lc.key(key)[0])
    if not words:
        raise ValueError(f"values.yaml: {'.'.join(path)} has no comment above it")
    if extra.pop("open", False):
        return {"description": words, "type": "object"}
    if isinstance(value, CommentedMap) and value and "additionalProperties" not in extra:
        return {"description": words, **_object(value, lines, path), **extra}
    kind = next((name for base, name in TYPES.items() if isinstance(value, base)), None)
    if kind is None and "type" not in extra:
        raise ValueError(f"values.yaml: {'.'.join(path)} has no default to see its type from: say it with @schema")
    if kind == "object" and "additionalProperties" not in extra:
        raise ValueError(f"values.yaml: {'.'.join(path)} is empty: say with @schema what may be in it")
    return {"description": words, "type": kind, **extra}


def _comment(lines: list[str], row: int) -> tuple[str, dict[str, Any]]:
    """The words of the comment above line `row`, and what its `@schema` says."""
    indent = len(lines[row]) - len(lines[row].lstrip())
    block: list[str] = []
    for line in reversed(lines[:row]):
        if not line.startswith(" " * indent + "#"):
            break
        block.insert(0, line.strip()[1:].removeprefix(" "))
    words: list[str] = []
    rules: list[str] = []
    inside = False
    for line in block:
        if line.startswith("@schema"):
            rules.append(line.removeprefix("@schema").strip())
            inside = rules[-1] == ""
        elif line.startswith("@end"):
            inside = False
        else:
            (rules if inside else words).append(line)
    extra = YAML(typ="safe").load("\n".join(rules)) or {}
    return " ".join(" ".join(words).split()), extra


def render(text: str) -> str:
    """The file's text: sorted as the values are, readable in a diff."""
    return json.dumps(schema_of(text), indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Write the schema, or with `--check` only say whether it is up to date."""
    made = render((CHART / "values.yaml").read_text(encoding="utf-8"))
    target = CHART / "values.schema.json"
    if "--check" not in arguments:
        target.write_text(made, encoding="utf-8")
        return 0
    if target.exists() and target.read_text(encoding="utf-8") == made:
        return 0
    sys.stderr.write(f"{target} is not what values.yaml says; run: python helm/schema.py\n")
    return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
