"""The form of one profile: the fields that it has, from nested data and back. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from labspawner.service.console.pages import questions

LANGUAGES = ("en", "zh-CN")
_VARIANT = ("provider", "cpu", "memory", "disk", "gpu.memory", "gpu.cores", "image", "template")
_HOURS = ("days", "from", "to")
_PLAIN = (
    "icon",
    "queue",
    "fallback",
    "idle.after",
    "idle.gpu_after",
    "idle.warn",
    "idle.action",
    "idle.extend.step",
    "idle.extend.per_day",
    "limits.max_age",
    "limits.per_user",
)
_TEXTS = tuple(f"{key}.{language}" for key in ("title", "summary") for language in LANGUAGES)
MOST_VARIANTS, MOST_HOURS = 10, 50
USUAL = {"queue": "wait", "fallback": "ask", "idle.action": "stop"}
_INDEX = re.compile(r"(variants|hours)\.(\d{1,2})\.", re.ASCII)


def to_fields(profile: Mapping[str, Any], course: Mapping[str, Any]) -> dict[str, str]:
    """What stands in the form. profile, course: nested, as `courses.editing` gives them."""
    form = {"timezone": _shown(course.get("timezone"))}
    for name in (*_TEXTS, *_PLAIN):
        form[name] = _shown(_find(profile, name.split(".", 1) if name in _TEXTS else name.split(".")))
    for key, names in (("variants", _VARIANT), ("hours", _HOURS)):
        for number, item in enumerate(_items(profile, key)):
            for name in names:
                form[f"{key}.{number}.{name}"] = _shown(_find(item, name.split(".")))
    for name, usual in USUAL.items():
        form[name] = form[name] or usual
    return form | questions.to_fields(profile)


def counts(form: Mapping[str, str]) -> dict[str, Any]:
    """How many variants and rows of hours the form shows: those that there are, and an empty one. questions: the same of the
    answers to each question."""
    found = {"variants": 0, "hours": 0}
    for name, value in form.items():
        if (match := _INDEX.match(name)) and value:
            found[match[1]] = max(found[match[1]], int(match[2]) + 1)
    return {
        "variants": min(MOST_VARIANTS, max(1, found["variants"]) + 1),
        "hours": min(MOST_HOURS, found["hours"] + 1),
        "questions": questions.rows(form),
    }


def merged(profile: Mapping[str, Any], posted: Mapping[str, str]) -> dict[str, Any]:
    """`profile` with what the form says; what the form has no field for stays. An emptied field is left out."""
    result: dict[str, Any] = _copy(profile)
    for name in (*_TEXTS, *_PLAIN):
        if name in posted:
            path = name.split(".", 1) if name in _TEXTS else name.split(".")
            value = posted[name].strip()
            usual = USUAL.get(name) == value and _find(profile, path) is None
            _put(result, path, "" if usual else value)
    for key, names in (("variants", _VARIANT), ("hours", _HOURS)):
        if any(name.startswith(f"{key}.") for name in posted):
            _put(result, [key], _rows(result, key, names, posted))
    questions.merge(result, posted)
    return result


def _rows(result: Mapping[str, Any], key: str, names: tuple[str, ...], posted: Mapping[str, str]) -> list[Any]:
    """The list below `key`. A row whose first field was emptied is taken out; one that the form does not show stays."""
    rows = [_copy(item) for item in _items(result, key)]
    sent = {int(match[2]) for name in posted if (match := _INDEX.match(name)) and match[1] == key}
    for number in sorted(sent):
        given = {name: posted.get(f"{key}.{number}.{name}", "").strip() for name in names}
        if number >= len(rows):
            if not given[names[0]]:
                continue
            rows.append({})
            number = len(rows) - 1  # noqa: PLW2901 - of several new rows none is left out
        row = rows[number]
        for name, value in given.items():
            _put(row, name.split("."), _days(value) if name == "days" else value)
        if not given[names[0]]:
            row.clear()
    return [row for row in rows if row]


def _days(value: str) -> Any:
    return [day for day in value.split(",") if day]


def _copy(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _copy(value) for key, value in data.items()}
    return [_copy(value) for value in data] if isinstance(data, list | tuple) else data


def _items(data: Mapping[str, Any], key: str) -> list[Any]:
    found = data.get(key)
    return [item for item in found if isinstance(item, Mapping)] if isinstance(found, list | tuple) else []


def _find(data: Any, path: list[str]) -> Any:
    for part in path:
        if not isinstance(data, Mapping):
            return None
        data = data.get(part)
    return data


def _put(data: dict[str, Any], path: list[str], value: Any) -> None:
    """Set it, or take it out where it is empty, with what holds nothing any more."""
    head, rest = path[0], path[1:]
    if not rest:
        if value in ("", []):
            data.pop(head, None)
        else:
            data[head] = value
        return
    inner = data.get(head)
    if not isinstance(inner, dict):
        if value in ("", []):
            return
        inner = data[head] = {"en": inner} if isinstance(inner, str) and head in {"title", "summary"} else {}
    _put(inner, rest, value)
    if not inner:
        data.pop(head, None)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        items = [_shown(item) for item in value]
        return ",".join(items) if all(len(item) == 3 and item.isalpha() for item in items) else ", ".join(items)
    if isinstance(value, bool):
        return "true" if value else ""
    return f"{value:g}" if isinstance(value, float) else str(value)
