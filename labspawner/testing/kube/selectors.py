"""Label and field selectors: read from a query, matched against an object. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from labspawner.testing.kube.resources import Json, Resource
from labspawner.testing.kube.statuses import bad_request

Matches = Callable[[Json], bool]
_TOKEN = re.compile(r"\s*(==|!=|=|,|\(|\)|!|<|>|[^\s=!,()<>]+)")
_OPERATORS = "in, notin, =, ==, !=, gt, lt"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One part of a label selector: `key` has one of `values`, or not."""

    key: str
    operator: str  # "in", "notin", "exists", "missing", "gt", "lt"
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        if self.operator in ("exists", "missing"):
            return (self.key in labels) is (self.operator == "exists")
        if self.operator == "notin":
            return labels.get(self.key) not in self.values
        if self.operator == "in":
            return self.key in labels and labels[self.key] in self.values
        try:
            number, limit = int(labels[self.key]), int(next(iter(self.values)))
        except (KeyError, ValueError):
            return False
        return number > limit if self.operator == "gt" else number < limit


def labels(text: str) -> tuple[Requirement, ...]:
    """The requirements in a `labelSelector`. Raises Refused (400) in the words of the API server."""
    tokens = _TOKEN.findall(text)
    found: list[Requirement] = []
    while tokens:
        found.append(_one(tokens))
        if tokens:
            if tokens[0] != ",":
                raise bad_request(f"found '{tokens[0]}', expected: ',' or 'end of string'")
            tokens.pop(0)
    return tuple(found)


def _one(tokens: list[str]) -> Requirement:
    if tokens[0] == "!":
        tokens.pop(0)
        return Requirement(tokens.pop(0) if tokens else "", "missing")
    key = tokens.pop(0)
    if not tokens or tokens[0] == ",":
        return Requirement(key, "exists")
    operator = tokens.pop(0)
    if operator in ("=", "==", "!="):
        value = tokens.pop(0) if tokens and tokens[0] != "," else ""
        return Requirement(key, "notin" if operator == "!=" else "in", frozenset([value]))
    if operator in ("in", "notin"):
        return Requirement(key, operator, _values(tokens))
    if operator in ("gt", "lt", "<", ">"):
        return Requirement(key, {"<": "lt", ">": "gt"}.get(operator, operator), frozenset(tokens[:1]))
    raise bad_request(f"unable to parse requirement: found '{operator}', expected: {_OPERATORS}")


def _values(tokens: list[str]) -> frozenset[str]:
    if not tokens or tokens.pop(0) != "(":
        raise bad_request("unable to parse requirement: found '', expected: '('")
    values = set()
    while tokens and tokens[0] != ")":
        if (token := tokens.pop(0)) != ",":
            values.add(token)
    if not tokens:
        raise bad_request("unable to parse requirement: found '', expected: ',', or ')'")
    tokens.pop(0)
    return frozenset(values)


def fields(resource: Resource, text: str) -> tuple[tuple[tuple[str, ...], str, bool], ...]:
    """The parts of a `fieldSelector` as (path, value, wanted equal). Raises Refused (400) for a field that has none."""
    found = []
    for part in filter(None, text.split(",")):
        match = re.match(r"^(.*?)(==|!=|=)(.*)$", part)
        if not match:
            raise bad_request(f"invalid field selector: {part}")
        name, operator, value = match.groups()
        if name not in ("metadata.name", "metadata.namespace", *resource.fields):
            raise bad_request(f"field label not supported: {name}")
        found.append((tuple(name.split(".")), value, operator != "!="))
    return tuple(found)


def matcher(resource: Resource, label_text: str, field_text: str) -> Matches | None:
    """Whether an object is meant by both selectors; None where all are. Raises Refused for a selector that is none."""
    requirements, parts = labels(label_text), fields(resource, field_text)
    if not requirements and not parts:
        return None

    def matches(obj: Json) -> bool:
        have = obj["metadata"].get("labels") or {}
        if not all(requirement.matches(have) for requirement in requirements):
            return False
        return all((_field(obj, path) == value) is wanted for path, value, wanted in parts)

    return matches


def _field(obj: Json, path: tuple[str, ...]) -> str:
    value: Any = obj
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    if path == ("source",):
        value = (value or {}).get("component")
    return str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)
