"""The OpenAPI 3.1 document, made of the route table and of the models; nothing in it is written by hand a second time."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from labspawner import __version__
from labspawner.service.console.api import models
from labspawner.service.console.api.route import ONE, Operation, Route

_REF = "#/components/schemas/{model}"
_ALWAYS = (400, 401, 403, 404, 405, 413, 415, 500, 503)


def document(routes: Iterable[Route], *, prefix: str) -> dict[str, Any]:
    """The document for a console at `prefix`, which ends with a slash."""
    table = tuple(routes)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "labspawner",
            "version": __version__,
            "summary": "Courses, their people and their servers.",
            "description": "Rights come from the token of the hub: those of its owner's groups where it carries "
            "`custom:labspawner:self`, or a scope of its own, which `!group=course-<slug>` narrows to one course.",
        },
        "servers": [{"url": f"{prefix}api/v1"}],
        "security": [{"token": []}],
        "paths": {f"/{route.path}": _path(route) for route in table},
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "`token <token>`: made on the hub's token page, or by its API.",
                }
            },
            "schemas": _schemas(table),
        },
    }


def _path(route: Route) -> dict[str, Any]:
    told: dict[str, Any] = {method: _operation(operation) for method, operation in route.operations.items()}
    if route.fields:
        told["parameters"] = [
            {
                "name": name,
                "in": "path",
                "required": True,
                "schema": {"type": "string", "pattern": f"^{ONE.get(name, '[^/]{1,600}')}$"},
            }
            for name in route.fields
        ]
    return told


def _operation(operation: Operation) -> dict[str, Any]:
    told: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.about,
        "description": f"Needs `{operation.scope}`, or the rights of its owner's groups." if operation.scope else "",
        "responses": _responses(operation),
        **({"security": []} if operation.public else {}),
    }
    parameters = [
        {
            "name": query.name,
            "in": "query",
            "required": query.required,
            "description": query.about,
            "schema": dict(query.schema),
        }
        for query in operation.query
    ]
    if operation.guarded:
        parameters.append(
            {
                "name": "If-Match",
                "in": "header",
                "required": True,
                "description": "The ETag of what was read: another one by now is answered 412, none at all 428.",
                "schema": {"type": "string", "pattern": '^"[A-Za-z0-9.-]+"$'},
            }
        )
    if parameters:
        told["parameters"] = parameters
    if operation.takes is not None or operation.takes_type != "application/json":
        schema: dict[str, Any] = {"$ref": _ref(operation.takes)} if operation.takes else {"type": "string"}
        told["requestBody"] = {"required": True, "content": {operation.takes_type: {"schema": schema}}}
    return told


def _responses(operation: Operation) -> dict[str, Any]:
    schema: dict[str, Any] = {"$ref": _ref(operation.gives)} if operation.gives else {"type": "string"}
    good: dict[str, Any] = {"description": "Done.", "content": {operation.gives_type: {"schema": schema}}}
    if operation.etag:
        good["headers"] = {"ETag": {"description": "Of what was read or written.", "schema": {"type": "string"}}}
    refused = sorted({*_ALWAYS, *operation.refuses, *((412, 428) if operation.guarded else ())})
    problem = {"application/problem+json": {"schema": {"$ref": _ref(models.Problem)}}}
    return {
        str(operation.status): good,
        **{str(status): {"description": _WORDS[status], "content": problem} for status in refused},
    }


_WORDS = {
    400: "The request cannot be read.",
    401: "Nobody's token.",
    403: "The caller may not.",
    404: "There is no such thing, or the caller may not know of it.",
    405: "Not at this address.",
    409: "Something stands in the way.",
    412: "Somebody else changed it: `by` and `at` say who and when.",
    413: "The body is larger than 256 KiB.",
    415: "The body is of another kind.",
    422: "What was sent cannot be: `problems` says what, and where.",
    428: "There is no If-Match.",
    429: "Too much at once: see Retry-After.",
    500: "Something went wrong on our side.",
    503: "The hub or the database does not answer.",
}


def _ref(model: type[BaseModel]) -> str:
    return _REF.format(model=model.__name__)


def _schemas(routes: tuple[Route, ...]) -> dict[str, Any]:
    """Every model that some route takes or gives, and what they are made of."""
    wanted: dict[type[BaseModel], str] = {models.Problem: "serialization"}
    for route in routes:
        for operation in route.operations.values():
            if operation.takes is not None:
                wanted[operation.takes] = "validation"
            if operation.gives is not None:
                wanted[operation.gives] = "serialization"
    pairs: Any = sorted(wanted.items(), key=lambda pair: pair[0].__name__)
    _, schema = models_json_schema(pairs, ref_template=_REF)
    found: dict[str, Any] = schema["$defs"]
    return found


@cache
def cached(prefix: str) -> dict[str, Any]:
    """The document of this console, made once."""
    from labspawner.service.console.api import ROUTES  # noqa: PLC0415 - the table names the handler that serves this

    return document(ROUTES, prefix=prefix)
