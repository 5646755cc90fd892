"""The questions on a profile's card (`options`): the fields that a form has for them, and back. Pure.

A question is a row, and each of its answers is one below it; the last row of each is empty, for one more. What stands there
and has no field, for example what else an answer changes, stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

LANGUAGES = ("en", "zh-CN")
MOST_QUESTIONS, MOST_ANSWERS = 20, 100
ANSWER_SETS = ("cpu", "memory", "gpu.memory", "gpu.cores", "image", "template")
"""What an answer changes of the variant, as far as the form shows it."""
_TEXTS = tuple(f"title.{language}" for language in LANGUAGES)
_TYPED = ("unlisted_choice.enabled", "unlisted_choice.validation_regex")
_ROW = re.compile(r"options\.(\d{1,2})\.", re.ASCII)
_ANSWER = re.compile(r"options\.(\d{1,2})\.choices\.(\d{1,3})\.", re.ASCII)


def to_fields(profile: Mapping[str, Any]) -> dict[str, str]:
    """What stands in the form. profile: nested, as `courses.editing` gives it."""
    form: dict[str, str] = {}
    for row, (name, question) in enumerate(_entries(profile.get("options"))):
        at = f"options.{row}."
        form[f"{at}was"] = form[f"{at}name"] = name
        for field in (*_TEXTS, *_TYPED):
            form[at + field] = _shown(_find(question, field))
        answers = list(_entries(question.get("choices")))
        form[f"{at}default"] = str(_default(answers)) if answers else ""
        for number, (key, answer) in enumerate(answers):
            beside = f"{at}choices.{number}."
            form[f"{beside}was"] = form[f"{beside}name"] = key
            for field in _TEXTS:
                form[beside + field] = _shown(_find(answer, field))
            for field in ANSWER_SETS:
                form[f"{beside}set.{field}"] = _shown(_find(answer, f"set.{field}"))
    return form


def rows(form: Mapping[str, str]) -> list[int]:
    """How many rows of answers each question has in the form: those that there are, and an empty one. The last question is
    empty too."""
    answers: dict[int, int] = {}
    for name, value in form.items():
        if value and (match := _ROW.match(name)):
            answers.setdefault(int(match[1]), 0)
        if value and (match := _ANSWER.match(name)):
            answers[int(match[1])] = max(answers.get(int(match[1]), 0), int(match[2]) + 1)
    last = max(answers, default=-1)
    counted = [min(MOST_ANSWERS, answers.get(row, 0) + 1) for row in range(last + 1)]
    return [*counted, 2][:MOST_QUESTIONS]


def merge(profile: dict[str, Any], posted: Mapping[str, str]) -> None:
    """Make the profile say what the form says. A question, or an answer, whose name was emptied is taken out."""
    sent = sorted({int(match[1]) for name in posted if (match := _ROW.match(name))})
    known = dict(_entries(profile.get("options")))
    if not sent or len(known) != len(profile.get("options") or {}):
        return  # not sent, or written in a way that the form did not show
    questions: dict[str, Any] = {}
    for row in sent:
        at = f"options.{row}."
        if name := posted.get(f"{at}name", "").strip():
            questions[_free(name, questions)] = _question(known.get(posted.get(f"{at}was", ""), {}), at, posted)
    shown = {posted.get(f"options.{row}.was", "") for row in sent}
    questions |= {name: question for name, question in known.items() if name not in shown}
    _put(profile, "options", questions)


def _question(before: Mapping[str, Any], at: str, posted: Mapping[str, str]) -> dict[str, Any]:
    question = dict(before)
    for field in (*_TEXTS, *_TYPED):
        if at + field in posted:
            _put_field(question, field, posted[at + field].strip())
    if not (question.get("unlisted_choice") or {}).get("enabled"):
        _drop_closed(question)
    known = dict(_entries(question.get("choices")))
    sent = sorted({int(match[2]) for name in posted if name.startswith(at) and (match := _ANSWER.match(name))})
    if not sent or len(known) != len(question.get("choices") or {}):
        return question
    answers: dict[str, Any] = {}
    wanted = ""
    for number in sent:
        beside = f"{at}choices.{number}."
        if name := posted.get(f"{beside}name", "").strip():
            name = _free(name, answers)
            answers[name] = _answer(known.get(posted.get(f"{beside}was", ""), {}), beside, posted)
            wanted = name if posted.get(f"{at}default") == str(number) else wanted
    shown = {posted.get(f"{at}choices.{number}.was", "") for number in sent}
    answers |= {name: answer for name, answer in known.items() if name not in shown}
    _prefer(answers, wanted)
    _put(question, "choices", answers)
    return question


def _answer(before: Mapping[str, Any], at: str, posted: Mapping[str, str]) -> dict[str, Any]:
    answer = dict(before)
    for field in (*_TEXTS, *(f"set.{name}" for name in ANSWER_SETS)):
        if at + field in posted:
            _put_field(answer, field, posted[at + field].strip())
    return answer


def _prefer(answers: dict[str, Any], wanted: str) -> None:
    """Let `wanted` be the answer that holds where a student says nothing; nothing is written where it is so already."""
    entries = list(_entries(answers))
    if not wanted or not entries or entries[_default(entries)][0] == wanted:
        return
    for name, answer in entries:
        answers[name] = {key: value for key, value in answer.items() if key != "default"}
    if entries[0][0] != wanted:
        answers[wanted]["default"] = True


def _default(answers: list[tuple[str, Mapping[str, Any]]]) -> int:
    """Which of the answers holds where a student says nothing: the marked one, else the first."""
    return next((number for number, (_, answer) in enumerate(answers) if answer.get("default")), 0)


def _drop_closed(question: dict[str, Any]) -> None:
    """Typed answers that are not allowed, and of which nothing else is said, need no words."""
    typed = question.get("unlisted_choice")
    if isinstance(typed, Mapping) and not {key: value for key, value in typed.items() if key != "enabled" and value}:
        question.pop("unlisted_choice")


def _entries(data: object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, value in data.items() if isinstance(data, Mapping) else ():
        if isinstance(value, Mapping):
            yield str(name), value


def _free(name: str, taken: Mapping[str, Any]) -> str:
    """A name that nothing has yet: of two that were given the same, none is lost."""
    number, free = 2, name
    while free in taken:
        number, free = number + 1, f"{name}-{number}"
    return free


def _find(data: object, field: str) -> Any:
    for part in field.split("."):
        if isinstance(data, str) and part == "en":
            return data
        data = data.get(part) if isinstance(data, Mapping) else None
    return data


def _put_field(data: dict[str, Any], field: str, value: str) -> None:
    """Set it, or take it out where it is empty, with what holds nothing any more; what is as it was is left alone."""
    if _shown(_find(data, field)) == value:
        return
    head, _, rest = field.partition(".")
    if not rest:
        _put(data, head, value)
        return
    inner = data.get(head)
    inner = {"en": inner} if isinstance(inner, str) else dict(inner) if isinstance(inner, Mapping) else {}
    _put_field(inner, rest, value)
    _put(data, head, inner)


def _put(data: dict[str, Any], name: str, value: Any) -> None:
    if value in ("", {}, []):
        data.pop(name, None)
    else:
        data[name] = value


def _shown(value: Any) -> str:
    if value is None or value is False:
        return ""
    if value is True:
        return "true"
    return f"{value:g}" if isinstance(value, float) else str(value)
