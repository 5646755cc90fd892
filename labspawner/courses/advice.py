"""pydantic's errors in words for an instructor: what is wrong, and what to write instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from labspawner.courses.fields import shown
from labspawner.courses.models import Course, VariantKeys
from labspawner.sentences import Sentence, plain

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Place = tuple[str | int, ...]

_TEXT = Sentence("is not text: put it in quotes")
_FLAG = Sentence("is neither true nor false: write true or false")
_WHOLE = Sentence("is not a whole number")
_GROUP = Sentence("stands where keys with values are expected: write key: value below")
_LIST = Sentence("stands where a list is expected: write one line with '- ' for each")
_MEANT = {
    "string_type": _TEXT,
    "bool_type": _FLAG,
    "bool_parsing": _FLAG,
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_from_float": _WHOLE,
    "float_type": Sentence("is not a number"),
    "dict_type": _GROUP,
    "model_type": _GROUP,
    "tuple_type": _LIST,
    "list_type": _LIST,
    "too_short": Sentence("is empty: write at least one"),
    "string_too_short": Sentence("is empty: write some text"),
}


def _beyond(kind: str, value: str, context: Mapping[str, Any]) -> Sentence | None:
    """What is said of a value that is too much or too little; None for other kinds of error."""
    if kind == "string_too_long":
        return Sentence("{value} is too long: at most {most} characters", value=value, most=context["max_length"])
    if kind == "too_long":
        return Sentence("too many: at most {most} here", most=context["max_length"])
    if kind in {"greater_than", "greater_than_equal"}:
        least = context.get("gt", context.get("ge"))
        more = (
            Sentence("more than {least}", least=least) if "gt" in context else Sentence("at least {least}", least=least)
        )
        return Sentence("{value} is too small: write {more}", value=value, more=more)
    if kind in {"less_than", "less_than_equal"}:
        return Sentence(
            "{value} is too large: at most {most} here", value=value, most=context.get("le", context.get("lt"))
        )
    if kind == "string_pattern_mismatch":
        return Sentence("{value} has a character that does not fit here", value=value)
    return None


def follows_from_another(error: ErrorDetails) -> bool:
    """Whether this is only an echo: a list counts as too short when its entries are wrong, and they say so."""
    return error["type"] == "too_short" and bool(error["input"])


def explain(error: ErrorDetails) -> tuple[Place, Sentence, bool]:
    """Where it is, the sentence for it, and whether the key is meant rather than its value."""
    place = error["loc"]
    if place and place[-1] == "[key]":
        return place[:-1], _sentence(error, place[:-1]), True
    kind = error["type"]
    if kind == "extra_forbidden":
        return place, _unknown_key(place), True
    if kind == "missing":
        key = str(place[-1])
        said = Sentence(
            "{name} is missing: write {key}: {example}", name=repr(key), key=key, example=_example(place) or "..."
        )
        return place[:-1], said, False
    return place, _sentence(error, place), False


def _sentence(error: ErrorDetails, place: Place) -> Sentence:
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "value_error":
        return _said(context["error"])
    if kind == "literal_error":
        near = _near(value, context["expected"])
        return Sentence(
            "{value} is not one of {names}: {instead}",
            value=shown(value),
            names=context["expected"],
            instead=Sentence("did you mean {name}?", name=repr(near)) if near else Sentence("write one of them"),
        )
    example = _example(place)
    hint = Sentence(", for example {example}", example=example) if example else ""
    if kind in _MEANT:
        return Sentence("{value} {what}{hint}", value=shown(value), what=_MEANT[kind], hint=hint)
    if beyond := _beyond(kind, shown(value), context):
        return Sentence("{told}{hint}", told=beyond, hint=hint)
    told = error["msg"].removeprefix("Input ").removeprefix("Value ")
    if told == error["msg"]:
        return Sentence("{told}{hint}", told=told, hint=hint)
    return Sentence("{value} does not fit: it {told}{hint}", value=shown(value), told=told, hint=hint)


def _said(error: Exception) -> Sentence:
    """What one of our own checks said."""
    said = error.args[0] if error.args else ""
    return said if isinstance(said, Sentence) else plain(str(error))


def _near(value: object, expected: str) -> str | None:
    words = [word.strip(" '") for word in expected.replace(" or ", ",").split(",")]
    near = get_close_matches(value.lower(), words, n=1, cutoff=0.5) if isinstance(value, str) else []
    return near[0] if near else None


def _unknown_key(place: Place) -> Sentence:
    key = str(place[-1])
    model = _model_at(place[:-1])
    names = [name for name, _ in _fields(model)]
    near = get_close_matches(key.lower(), names, n=1, cutoff=0.6)
    if near:
        return Sentence("unknown key {key}: did you mean {name}?", key=shown(key), name=repr(near[0]))
    if issubclass(model, VariantKeys):
        return Sentence("unknown key {key}: a key that only one provider reads goes below settings:", key=shown(key))
    return Sentence("unknown key {key}: remove it, or write one of {names}", key=shown(key), names=", ".join(names))


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
