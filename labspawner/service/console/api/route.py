"""What one address of the REST API is: enough to serve it, and to describe it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from tornado.web import RequestHandler

_FIELD = re.compile(r"\{(\w+)\}")
ONE = {"slug": r"[a-z0-9-]{1,40}", "profile": r"[a-z0-9-]{1,63}", "number": r"[0-9]{1,9}", "job": r"[A-Za-z0-9-]{1,64}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One value of a query. schema: as JSON Schema has it."""

    name: str
    about: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What one method of an address does. about: one sentence. scope: the right that it needs, in words of a scope.

    takes: the model of the body; takes_type: another kind of body than JSON. gives: the model of the answer; gives_type:
    another kind of answer. public: needs no token. guarded: changes only what the header If-Match names.
    """

    name: str
    about: str
    scope: str
    gives: type[BaseModel] | None = None
    takes: type[BaseModel] | None = None
    takes_type: str = "application/json"
    gives_type: str = "application/json"
    status: int = 200
    guarded: bool = False
    etag: bool = False
    query: tuple[Query, ...] = ()
    refuses: tuple[int, ...] = ()
    public: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """An address and its methods. path: below `api/v1/`, with `{slug}` for what stands in it; the first is a course."""

    path: str
    handler: type[RequestHandler]
    operations: Mapping[str, Operation]

    @property
    def pattern(self) -> str:
        """The path as tornado wants it."""
        parts = _FIELD.split(self.path)
        return "".join(
            f"({ONE.get(part, '[^/]{1,600}')})" if place % 2 else re.escape(part) for place, part in enumerate(parts)
        )

    @property
    def fields(self) -> list[str]:
        """What stands in the path."""
        return _FIELD.findall(self.path)
