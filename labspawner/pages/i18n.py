"""Which language a reader wants, and our sentences in it. English is the source; the catalogs are `.po` files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from pathlib import Path

from babel.messages.pofile import read_po
from markupsafe import Markup, escape

from labspawner.sentences import Sentence

ENGLISH = "en"
CHINESE = "zh-CN"
LANGUAGES: Mapping[str, str] = {ENGLISH: "English", CHINESE: "中文"}
LOCALE_DIR = Path(__file__).parent / "locale"

_DURATION_UNITS = {CHINESE: {"d": "天", "h": "小时", "min": "分钟", "s": "秒"}}
_DURATION = re.compile(r"\d+ (?:d|h|min|s)(?: \d+ (?:d|h|min|s))?", re.ASCII)
_FIELD = re.compile(r"\{(\w+)\}")
_HTTP_ERROR = re.compile(r"HTTP \d{3}: [^(]*\((?P<text>.*)\)", re.DOTALL)
_MIN_LITERAL_CHARS = 8
_MAX_RECOGNISED_CHARS = 1000
_MAX_HEADER_CHARS = 1000


@cache
def catalog(language: str) -> Mapping[str, str]:
    """The msgids that have a translation in `language`; empty for English and for languages we do not speak."""
    path = LOCALE_DIR / language.replace("-", "_") / "LC_MESSAGES" / "labspawner.po"
    if language not in LANGUAGES or not path.is_file():
        return {}
    with path.open("rb") as file:
        messages = read_po(file, abort_invalid=True)
    return {
        message.id: message.string
        for message in messages
        if isinstance(message.id, str) and message.id and isinstance(message.string, str) and message.string
    }


def translate(text: str, language: str, /, **params: object) -> str:
    """`text` in `language`. A `Sentence` is translated as its template, then filled, nested sentences too.

    What has no translation stays English. Times as `human_duration` writes them (`1 h 30 min`) are localised too.
    params: fill the fields of a plain `text`, as if it were a `Sentence` made with them.
    """
    if params:
        text = Sentence(text, **params)
    if not isinstance(text, Sentence):
        return catalog(language).get(text, text)
    values = {name: _value(value, language) for name, value in text.params.items()}
    for template in (catalog(language).get(text.template), text.template):
        if template is not None:
            try:
                return template.format(**values) if values else template
            except (LookupError, ValueError, AttributeError):
                continue
    return str(text)


def _value(value: object, language: str) -> object:
    if isinstance(value, Sentence):
        return translate(value, language)
    if isinstance(value, datetime):
        return clock(value)
    if isinstance(value, Mapping):
        return pick(value, language)
    if isinstance(value, str) and language in _DURATION_UNITS and _DURATION.fullmatch(value):
        units = _DURATION_UNITS[language]
        return re.sub(r"[a-z]+", lambda match: units[match[0]], value)
    return value


def markup(text: str, language: str) -> Markup:
    """`text` in `language` as HTML, escaped; an instant in it is a `<time>`, in the hub's time zone until a script of
    the page puts it into the reader's."""
    if not isinstance(text, Sentence):
        return escape(catalog(language).get(text, text))
    values = {name: _html_value(value, language) for name, value in text.params.items()}
    for template in (catalog(language).get(text.template), text.template):
        if template is not None:
            try:
                return escape(template).format(**values) if values else escape(template)
            except (LookupError, ValueError, AttributeError):
                continue
    return escape(str(text))


def _html_value(value: object, language: str) -> object:
    if isinstance(value, Sentence):
        return markup(value, language)
    if isinstance(value, datetime):
        return html_instant(value)
    return _value(value, language)


def html_instant(instant: datetime) -> Markup:
    """`instant` as `clock` says it, in a `<time>`."""
    return Markup('<time class="lab-at" datetime="{}">{}</time>').format(instant.isoformat(), clock(instant))


def clock(instant: datetime) -> str:
    """`16:00` today, `2026-11-02 16:00` on other days; in the time zone of this machine."""
    local = instant.astimezone()
    return f"{local:%H:%M}" if local.date() == datetime.now().astimezone().date() else f"{local:%Y-%m-%d %H:%M}"


def recognise(text: str) -> str:
    """The `Sentence` that `text` once was, where it lost its template on the way; else `text`.

    JupyterHub 5 hands `str(exception)` to the spawn form, so `HTTP 403: Forbidden (...)` is unwrapped as well.
    """
    if isinstance(text, Sentence) or not text or len(text) > _MAX_RECOGNISED_CHARS:
        return text
    wrapped = _HTTP_ERROR.fullmatch(text)
    text = wrapped["text"] if wrapped else text
    if text in catalog(CHINESE):
        return Sentence(text)
    for template, pattern in _patterns():
        if match := pattern.fullmatch(text):
            return Sentence(template, **match.groupdict())
    return text


@cache
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Templates with fields as patterns, the one with most literal text first."""
    found = []
    for template in catalog(CHINESE):
        names = _FIELD.findall(template)
        literals = _FIELD.split(template)[::2]
        if not names or len(set(names)) != len(names) or len("".join(literals)) < _MIN_LITERAL_CHARS:
            continue
        source = re.escape(literals[0]) + "".join(
            f"(?P<{name}>.+?){re.escape(literal)}" for name, literal in zip(names, literals[1:], strict=True)
        )
        found.append((len("".join(literals)), template, re.compile(source, re.DOTALL)))
    return tuple((template, pattern) for _, template, pattern in sorted(found, key=lambda item: -item[0]))


def both(sentence: str) -> str:
    """HTML that carries `sentence` in every language; our style sheet shows the one of the page. Escaped."""
    return "".join(
        f'<span class="lab-t" lang="{language}">{escape(translate(sentence, language))}</span>'
        for language in LANGUAGES
    )


def pick(texts: Mapping[str, str], language: str) -> str:
    """What an instructor wrote in `language`, else in English, else in any language; empty where there is nothing."""
    return texts.get(language) or texts.get(ENGLISH) or next(iter(texts.values()), "")


def negotiate(accept_language: str = "", cookie: str | None = None, query: str | None = None) -> str:
    """The language to answer in: what was asked for now, else what was chosen before, else the browser's wish.

    Any Chinese is answered in zh-CN; what we do not speak, or cannot read, in English.
    """
    for wish in (query, cookie):
        if wish and (language := _spoken(wish)):
            return language
    wishes = []
    for place, part in enumerate(accept_language[:_MAX_HEADER_CHARS].split(",")):
        tag, _, parameter = part.partition(";")
        quality = _quality(parameter)
        language = _spoken(tag)
        if quality > 0 and language:
            wishes.append((-quality, place, language))
    return min(wishes)[2] if wishes else ENGLISH


def _spoken(tag: str) -> str | None:
    primary = re.split(r"[-_]", tag.strip().lower(), maxsplit=1)[0]
    return {"en": ENGLISH, "zh": CHINESE, "*": ENGLISH}.get(primary)


def _quality(parameter: str) -> float:
    match = re.fullmatch(r"\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*", parameter, re.ASCII)
    if match:
        return float(match[1])
    return 0.0 if parameter.strip() else 1.0
