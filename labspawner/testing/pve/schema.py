"""Parameters: their types and limits, and the words of a refusal."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from labspawner.testing.pve.call import Params, invalid

Check = Callable[[str, str], str | None]  # (name, value) -> what is wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A parameter. many: may be given more than once, and is a list."""

    check: Check | None = None
    required: bool = False
    integer: bool = False
    boolean: bool = False
    many: bool = False
    least: int | None = None
    most: int | None = None
    longest: int | None = None
    values: tuple[str, ...] = ()
    pattern: str = ""


TEXT = Kind()
FLAG = Kind(boolean=True)
INT = Kind(integer=True)
Schema = Mapping[str, Kind]


def fmt(pattern: str, told: str) -> Check:
    compiled = re.compile(pattern)
    return lambda name, value: None if compiled.fullmatch(value) else f"invalid format - {told}\n"


def _config_id(name: str, value: str) -> str | None:
    good = re.fullmatch(r"[a-z][a-z0-9_-]+", value, re.IGNORECASE)
    return None if good else f"invalid format - invalid configuration ID '{value}'\n"


VMID = Kind(check=fmt(r"[1-9][0-9]{2,8}", "value does not look like a valid VM ID"))
NEW_VMID = Kind(check=VMID.check, required=True)
DNS_NAME = Kind(
    check=fmt(
        r"([a-zA-Z0-9]([a-zA-Z0-9\-]*[a-zA-Z0-9])?)(\.[a-zA-Z0-9]([a-zA-Z0-9\-]*[a-zA-Z0-9])?)*",
        "value does not look like a valid DNS name",
    )
)
CONFIG_ID = Kind(check=_config_id, required=True, longest=40)
NODE = Kind(check=fmt(r"[a-zA-Z0-9]([a-zA-Z0-9\-]*[a-zA-Z0-9])?", "value does not look like a valid node name"))
STORAGE = Kind(check=fmt(r"[a-zA-Z][a-zA-Z0-9\-_.]*[a-zA-Z0-9]", "storage ID contains illegal characters"))


def urlencoded(name: str, value: str) -> str | None:
    if re.fullmatch(r"[-%a-zA-Z0-9_.!~*'()]*", value):
        return None
    return f"invalid format - invalid urlencoded string: {value}\n"


def tags(name: str, value: str) -> str | None:
    bad = [tag for tag in re.split(r"[;, ]", value) if tag and not re.fullmatch(r"[a-zA-Z0-9_][a-zA-Z0-9_\-+.]*", tag)]
    return "invalid format - invalid characters in tag\n" if bad else None


def memory(name: str, value: str) -> str | None:
    amount = value.partition("=")[2] if value.startswith("current=") else value.partition(",")[0]
    if amount.isdigit():
        return None
    return f"invalid format - format error\nmemory.current: type check ('integer') failed - got '{amount}'\n"


def ipconfig(name: str, value: str) -> str | None:
    for part in value.split(","):
        key, _, text = part.partition("=")
        if key == "ip" and text != "dhcp" and not _is_network(text):
            told = "value does not look like a valid ipv4 network configuration"
            return f"invalid format - format error\n{name}.ip: invalid format - {told}\n\n"
    return None


def _is_network(text: str) -> bool:
    address, _, prefix = text.partition("/")
    parts = address.split(".")
    good = len(parts) == 4 and all(part.isdigit() and int(part) <= 255 for part in parts)
    return good and prefix.isdigit() and 8 <= int(prefix) <= 32


def checked(schema: Schema, given: Mapping[str, list[str]], extra: Callable[[str], Kind | None]) -> Params:
    """The parameters of a request. Raises Refused(400) with all that is wrong. `extra`: kinds by pattern, as net0."""
    params: Params = {}
    wrong: dict[str, str] = {}
    for name, values in given.items():
        kind = schema.get(name) or extra(name)
        if kind is None:
            wrong[name] = "property is not defined in schema and the schema does not allow additional properties"
            continue
        found = next((text for value in values if (text := problem(kind, name, value)) is not None), None)
        if found is not None:
            wrong[name] = found
            continue
        params[name] = list(values) if kind.many else _value(kind, values[-1])
    for name, kind in schema.items():
        if kind.required and name not in given:
            wrong[name] = "property is missing and it is not optional"
    if wrong:
        raise invalid(**wrong)
    return params


def problem(kind: Kind, name: str, value: str) -> str | None:
    """What is wrong with one value; None when nothing is."""
    if kind.boolean:
        return None if value.lower() in _BOOLEANS else f"type check ('boolean') failed - got '{value}'"
    if kind.integer:
        return _integer_problem(kind, value)
    if kind.longest is not None and len(value) > kind.longest:
        return f"value may only be {kind.longest} characters long"
    if kind.values and value not in kind.values:
        return f"value '{value}' does not have a value in the enumeration '{', '.join(kind.values)}'"
    if kind.pattern and not re.fullmatch(kind.pattern, value):
        return "value does not match the regex pattern"
    return kind.check(name, value) if kind.check is not None else None


_BOOLEANS = {"0": 0, "1": 1, "true": 1, "false": 0, "on": 1, "off": 0, "yes": 1, "no": 0, "": 0}


def _integer_problem(kind: Kind, value: str) -> str | None:
    if not re.fullmatch(r"[+-]?\d+", value):
        return f"type check ('integer') failed - got '{value}'"
    if kind.least is not None and int(value) < kind.least:
        return f"value must have a minimum value of {kind.least}"
    if kind.most is not None and int(value) > kind.most:
        return f"value must have a maximum value of {kind.most}"
    return None


def _value(kind: Kind, value: str) -> Any:
    if kind.boolean:
        return _BOOLEANS[value.lower()]
    return int(value) if kind.integer else value
