"""The kinds of value a course file is made of: text in languages, slugs, sizes and times with units."""

from __future__ import annotations

import re
from datetime import timedelta
from fractions import Fraction
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, PlainSerializer, WithJsonSchema

from labspawner import units
from labspawner.sentences import Sentence

MAX_SLUG = 40
_SLUG = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*", re.ASCII)
_KEY = re.compile(r"[A-Za-z0-9]+(?:[-_.][A-Za-z0-9]+)*", re.ASCII)
_CHOICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/+@-]*", re.ASCII)
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[A-Za-z0-9]{2,8})*", re.ASCII)
_SIZES = (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
_TIMES = (("d", 86400), ("h", 3600), ("m", 60))

NUMBER_TOO_LONG = 40
MAX_TEXT = 2000


class Model(BaseModel):
    """A part of a course file: frozen; an unknown key is an error. Its dicts are shared: never change one."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, str_strip_whitespace=True)


def shown(value: object, limit: int = 60) -> str:
    """`value` as it fits into a message: text in quotes, printable and at most `limit` long; else its kind."""
    if isinstance(value, str):
        text = "".join(char if char.isprintable() else "�" for char in value[: limit + 1])
        return f"'{text}'" if len(text) <= limit else f"'{text[: limit - 1]}…'"
    if value is None:
        return Sentence("nothing")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) or (isinstance(value, int) and abs(value) < 10**15):
        return f"{value}"
    kinds = {
        int: Sentence("a very long number"),
        list: Sentence("a list"),
        tuple: Sentence("a list"),
        dict: Sentence("a group of keys"),
    }
    return kinds.get(type(value), Sentence("something else"))


def _not_too_long(value: object) -> object:
    if isinstance(value, str) and len(value) > NUMBER_TOO_LONG:
        raise ValueError(Sentence("{value} is too long for a number with a unit", value=shown(value)))
    if isinstance(value, int) and abs(value) >= 10**15:
        raise ValueError(
            Sentence(
                "{value} is not a size or time: write a number with its unit, for example 6GiB or 20m",
                value=shown(value),
            )
        )
    return value


def _positive(span: timedelta) -> timedelta:
    if span <= timedelta(0):
        raise ValueError(Sentence("a time here is more than 0: leave the key out if it should never happen"))
    return span


def write_bytes(size: int) -> str:
    """`6442450944` as `6GiB`: the shortest text that `units.parse_bytes` reads as the same number."""
    for unit, factor in _SIZES:
        if size % factor == 0:
            return f"{size // factor}{unit}"
    return f"{size / 1024}KiB"


def write_duration(span: timedelta) -> str:
    """5400 seconds as `1h30m`: a text that `units.parse_duration` reads as the same time."""
    rest = Fraction(span // timedelta(microseconds=1), 10**6)
    parts = []
    for unit, factor in _TIMES:
        count, rest = divmod(rest, factor)
        if count:
            parts.append(f"{count}{unit}")
    if rest or not parts:
        parts.append(f"{float(rest):.6f}".rstrip("0").rstrip(".") + "s")
    return "".join(parts)


def _as_text(value: object) -> dict[str, str]:
    texts = {"en": value} if isinstance(value, str) else value
    if not isinstance(texts, dict) or not texts:
        raise ValueError(
            Sentence(
                "{value} is not a text: write it in quotes, or in languages: {{en: Python Basics, zh-CN: 程序设计}}",
                value=shown(value),
            )
        )
    for language, text in texts.items():
        if not isinstance(language, str) or not _LANGUAGE.fullmatch(language):
            raise ValueError(
                Sentence("{language} is not a language: write en, zh-CN, de, ...", language=shown(language))
            )
        if not isinstance(text, str) or not text.strip():
            raise ValueError(
                Sentence(
                    "the {language} text is {text}: write some text, in quotes", language=language, text=shown(text)
                )
            )
        if len(text) > MAX_TEXT:
            raise ValueError(
                Sentence(
                    "the {language} text has {count} characters: {most} is the most",
                    language=language,
                    count=len(text),
                    most=MAX_TEXT,
                )
            )
    return {language: text.strip() for language, text in texts.items()}


def in_language(text: dict[str, str], language: str) -> str:
    """The text in `language` (`zh-CN`), else in a sister (`zh`, `zh-TW`), else English, else whatever there is."""
    root = language.partition("-")[0]
    for wanted in (language, root):
        if wanted in text:
            return text[wanted]
    for key, value in text.items():
        if key.partition("-")[0] == root:
            return value
    return text.get("en") or next(iter(text.values()))


def _slug(value: str) -> str:
    if len(value) > MAX_SLUG or not _SLUG.fullmatch(value):
        raise ValueError(
            Sentence(
                "{value} is not a short name: write small letters a-z, digits and single dashes, at most "
                "{most}, for example py101 or gpu-small",
                value=shown(value),
                most=MAX_SLUG,
            )
        )
    return value


def _option_key(value: str) -> str:
    if value in {"profile", "options"}:
        raise ValueError(
            Sentence("an option may not be called {value}: the form uses that name; write another", value=repr(value))
        )
    if len(value) > MAX_SLUG or not _KEY.fullmatch(value):
        raise ValueError(
            Sentence(
                "{value} is not an option name: write letters, digits and single - _ . between, for example image",
                value=shown(value),
            )
        )
    return value


def _choice_key(value: str) -> str:
    if len(value) > 80 or not _CHOICE.fullmatch(value) or value == "unlisted-choice":
        raise ValueError(
            Sentence(
                "{value} is not a choice name: write letters, digits and _.:/+-, for example lab", value=shown(value)
            )
        )
    return value


def _image(value: str) -> str:
    if not value or any(char.isspace() or not char.isprintable() for char in value) or len(value) > 300:
        raise ValueError(
            Sentence("{value} is not a name: write it without spaces, for example lab/scipy:2026.2", value=shown(value))
        )
    return value


def _template(value: object) -> object:
    """A template's number as text."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _schema(pattern: str, description: str, *examples: Any, kind: str = "string") -> WithJsonSchema:
    return WithJsonSchema({"type": kind, "pattern": pattern, "description": description, "examples": list(examples)})


Bytes = Annotated[
    int,
    BeforeValidator(lambda value: units.parse_bytes(_not_too_long(value))),
    PlainSerializer(write_bytes, return_type=str, when_used="json"),
    _schema(r"^\s*\d+(\.\d+)?\s*[KMGT]i(B)?\s*$", "A size with its unit: KiB, MiB, GiB or TiB.", "6GiB", "512MiB"),
]
Duration = Annotated[
    timedelta,
    BeforeValidator(lambda value: units.parse_duration(_not_too_long(value))),
    AfterValidator(_positive),
    PlainSerializer(write_duration, return_type=str, when_used="json"),
    _schema(
        r"^\s*(\d+(\.\d+)?\s*[smhdw]\s*)+$",
        "A time with its unit: s, m (minutes), h, d or w; more than 0.",
        *("20m", "1h30m", "14d"),
    ),
]
Percent = Annotated[
    int,
    BeforeValidator(units.parse_percent),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": 100},
                {"type": "string", "pattern": r"^\s*0*([1-9]\d?|100)\s*%?\s*$"},
            ],
            "description": "A share, 1% to 100%.",
            "examples": ["25%", 25],
        }
    ),
]
Text = Annotated[
    dict[str, str],
    BeforeValidator(_as_text),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1, "maxLength": MAX_TEXT},
                {
                    "type": "object",
                    "minProperties": 1,
                    "propertyNames": {"pattern": f"^{_LANGUAGE.pattern}$"},
                    "additionalProperties": {"type": "string", "minLength": 1, "maxLength": MAX_TEXT},
                },
            ],
            "description": "A text, or the same text in several languages.",
            "examples": ["Python Basics", {"en": "Python Basics", "zh-CN": "Python 程序设计基础"}],
        }
    ),
]
Slug = Annotated[
    str,
    AfterValidator(_slug),
    _schema(f"^{_SLUG.pattern}$", "A short name: small letters, digits, single dashes.", "py101", "gpu-small"),
]
OptionKey = Annotated[str, AfterValidator(_option_key), _schema(f"^{_KEY.pattern}$", "Name of an option.", "image")]
ChoiceKey = Annotated[str, AfterValidator(_choice_key), _schema(f"^{_CHOICE.pattern}$", "Name of a choice.", "lab")]
Image = Annotated[str, AfterValidator(_image)]
Template = Annotated[
    str,
    BeforeValidator(_template),
    AfterValidator(_image),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string", "minLength": 1, "maxLength": 300}, {"type": "integer", "minimum": 100}],
            "description": "Name or number of a template.",
            "examples": ["ubuntu-dl", 9100],
        }
    ),
]
