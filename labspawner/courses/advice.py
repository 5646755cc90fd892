"""pydantic's errors in words for an instructor: what is wrong, and what to write instead."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from labspawner.courses.fields import shown
from labspawner.courses.models import Course, VariantKeys

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Place = tuple[str | int, ...]

_MEANT = {
    "string_type": "is not text: put it in quotes",
    "bool_type": "is neither true nor false: write true or false",
    "bool_parsing": "is neither true nor false: write true or false",
    "int_type": "is not a whole number",
    "int_parsing": "is not a whole number",
    "int_from_float": "is not a whole number",
    "float_type": "is not a number",
    "dict_type": "stands where keys with values are expected: write key: value below",
    "model_type": "stands where keys with values are expected: write key: value below",
    "tuple_type": "stands where a list is expected: write one line with '- ' for each",
    "list_type": "stands where a list is expected: write one line with '- ' for each",
    "too_short": "is empty: write at least one",
    "string_too_short": "is empty: write some text",
}


def follows_from_another(error: ErrorDetails) -> bool:
    """Whether this is only an echo: a list counts as too short when its entries are wrong, and they say so."""
    return error["type"] == "too_short" and bool(error["input"])


def explain(error: ErrorDetails) -> tuple[Place, str, bool]:
    """Where it is, the sentence for it, and whether the key is meant rather than its value."""
    place = error["loc"]
    if place and place[-1] == "[key]":
        return place[:-1], _sentence(error, place[:-1]), True
    kind = error["type"]
    if kind == "extra_forbidden":
        return place, _unknown_key(place), True
    if kind == "missing":
        key = str(place[-1])
        return place[:-1], f"{key!r} is missing: write {key}: {_example(place) or '...'}", False
    return place, _sentence(error, place), False


def _sentence(error: ErrorDetails, place: Place) -> str:
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"{shown(value)} is not one of {context['expected']}{_did_you_mean(value, context['expected'])}"
    example = _example(place)
    hint = f", for example {example}" if example else ""
    if kind in _MEANT:
        return f"{shown(value)} {_MEANT[kind]}{hint}"
    told = error["msg"].removeprefix("Input ").removeprefix("Value ")
    return f"{shown(value)} does not fit: it {told}{hint}" if told != error["msg"] else f"{told}{hint}"


def _did_you_mean(value: object, expected: str) -> str:
    words = [word.strip(" '") for word in expected.replace(" or ", ",").split(",")]
    near = get_close_matches(value.lower(), words, n=1, cutoff=0.5) if isinstance(value, str) else []
    return f": did you mean {near[0]!r}?" if near else ": write one of them"


def _unknown_key(place: Place) -> str:
    key = str(place[-1])
    model = _model_at(place[:-1])
    names = [name for name, _ in _fields(model)]
    near = get_close_matches(key.lower(), names, n=1, cutoff=0.6)
    if near:
        return f"unknown key {shown(key)}: did you mean {near[0]!r}?"
    if issubclass(model, VariantKeys):
        return f"unknown key {shown(key)}: a key that only one provider reads goes below settings:"
    return f"unknown key {shown(key)}: remove it, or write one of {', '.join(names)}"


def _example(place: Place) -> str:
    for name, field in _fields(_model_at(place[:-1])):
        if place and name == place[-1] and field.examples:
            return _written(field.examples[0])
    return ""


def _written(value: object) -> str:
    """`value` as one would write it in YAML, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_written(item) for item in value) + "]"
    return f'"{value}"' if isinstance(value, str) and ":" in value else str(value)


def _fields(model: type[BaseModel]) -> Iterable[tuple[str, FieldInfo]]:
    return [(field.alias or name, field) for name, field in model.model_fields.items()]


def _model_at(place: Place) -> type[BaseModel]:
    """The model that the keys at `place` belong to; list positions and names that people chose lead no deeper."""
    model: type[BaseModel] = Course
    for part in place:
        for name, field in _fields(model):
            if name == part:
                model = _inner(field.annotation) or model
    return model


def _inner(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _inner(part))), None)
