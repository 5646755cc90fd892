"""A course and its profiles as plain values for a form, and back. Pure; whether a value is good is for the loader to say.

Values are as written, with their units: `1024MiB` stays `1024MiB`. Texts are by language. The keys are the file's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from labspawner import units
from labspawner.courses.roundtrip import plain

TEXTS = frozenset({"title", "summary", "display_name_in_choices", "validation_message"})
_SIZES = frozenset({"memory", "disk"})
_TIMES = frozenset({"after", "gpu_after", "step", "hold", "retain", "max_age", "queue_for", "start_timeout"})
_WHOLE = frozenset({"cards", "per_user", "per_day"})
_FLAGS = frozenset({"default", "enabled", "everyone"})
_LISTS = {"warn": r"[,;\s]+", "days": r"[,;\s]+", "type": r"[,;]", "not_type": r"[,;]"}
_TRUE = frozenset({"true", "on", "yes", "1"})


def course_form(data: Mapping[str, Any]) -> dict[str, Any]:
    """`course`, `title` and `summary` by language, and `timezone`, of a course's data."""
    return {
        "course": plain(data.get("course", "")),
        "title": by_language(data.get("title")),
        "summary": by_language(data.get("summary")),
        "timezone": plain(data.get("timezone")) or "",
    }


def profile_form(data: Mapping[str, Any]) -> dict[str, Any]:
    """A profile's data for a form: groups that are not there are there and empty, but for a `gpu`."""
    form: dict[str, Any] = _shaped(data)
    for name in ("summary", "options", "idle", "limits"):
        form.setdefault(name, {})
    for name in ("variants", "hours"):
        form.setdefault(name, [])
    for variant in _list(form["variants"]):
        if isinstance(variant, dict):
            variant.setdefault("settings", {})
    return form


def form_as_profile(form: Mapping[str, Any]) -> dict[str, Any]:
    """What a form holds as a profile's data: the texts of fields become numbers and lists where such are expected, and what
    is empty is left out. What cannot be read stays as it was typed, for the loader to complain of."""
    read = _read(form)
    return read if isinstance(read, dict) else {}


def by_language(value: Any) -> dict[str, str]:
    """A text as the file has it, plain or by language, as texts by language."""
    if isinstance(value, (str, int, float)):  # a number is a text that its writer forgot to quote
        return {"en": str(value)}
    if isinstance(value, Mapping):
        return {str(language): str(text) for language, text in value.items() if text is not None}
    return {}


def nothing(name: str, value: Any) -> bool:
    """Whether it is as good as not there."""
    return value is None or value in ("", {}, []) or (name in _FLAGS and value is False)


def same(name: str, old: Any, new: Any) -> bool:
    """Whether two ways to write the value of the key `name` mean the same: `1GiB` and `1024MiB`, or a text and an English
    one."""
    old, new = plain(old), plain(new)
    if nothing(name, old) or nothing(name, new):
        return nothing(name, old) and nothing(name, new)
    return bool(_meaning(name, old) == _meaning(name, new))


def _meaning(name: str, value: Any) -> Any:
    """What a value of the key `name` means, to be compared with another one."""
    try:
        if name in TEXTS:
            return _stripped(by_language(value))
        if name == "warn":
            return [units.parse_duration(item) for item in _list(value)]
        read: Callable[[Any], Any] = _READ.get(name, _strictly)
        return read(value)
    except (units.UnitError, OverflowError, ValueError):
        return _strictly(value)


def _strictly(value: Any) -> tuple[type, Any]:
    return type(value), value


def _cores(value: Any) -> Any:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else _strictly(value)


_READ: dict[str, Callable[[Any], Any]] = {
    "template": str,
    "cpu": _cores,
    "cores": units.parse_percent,
    **dict.fromkeys(_SIZES, units.parse_bytes),
    **dict.fromkeys(_TIMES, units.parse_duration),
}


def _stripped(texts: Mapping[str, str]) -> dict[str, str]:
    return {language: text.strip() for language, text in texts.items() if text.strip()}


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _shaped(value: Any) -> Any:
    """The data with all texts by language; settings as they are."""
    if isinstance(value, Mapping):
        return {
            str(key): by_language(item) if key in TEXTS else plain(item) if key == "settings" else _shaped(item)
            for key, item in value.items()
            if item is not None
        }
    if isinstance(value, (list, tuple)):
        return [_shaped(item) for item in value]
    return plain(value)


def _read(value: Any) -> Any:
    if isinstance(value, Mapping):
        found = {str(key): plain(item) if key == "settings" else _value(str(key), item) for key, item in value.items()}
        return {key: item for key, item in found.items() if not nothing(key, item)}
    if isinstance(value, (list, tuple)):
        return [read for item in value if not nothing("", read := _read(item))]
    return value.strip() if isinstance(value, str) else plain(value)


def _value(name: str, value: Any) -> Any:
    """The value of the key `name` of a form."""
    if name in TEXTS:
        return _stripped(by_language(value))
    if not isinstance(value, str):
        return _read(value)
    text = value.strip()
    if name in _FLAGS:
        return text.lower() in _TRUE
    if name in _LISTS:
        return [item.strip() for item in re.split(_LISTS[name], text) if item.strip()]
    return _number(name, text)


def _number(name: str, text: str) -> str | int | float:
    """The text as a number, where the key takes one and it is one."""
    if (name in _WHOLE or name in {"cores", "cpu"}) and re.fullmatch(r"\d{1,6}", text, re.ASCII):
        return int(text)
    if name == "cpu" and re.fullmatch(r"\d{1,6}\.\d{1,6}", text, re.ASCII):
        return float(text)
    return text
