"""Refusals, as the API server writes them: code, reason, message and details of each `Status` body. Pure.

The texts are those of a recorded Kubernetes 1.34; tests/kube/test_double_replay.py compares them with the recording.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labspawner.testing.kube.resources import Resource


class Refused(Exception):
    """What the API server answers instead of doing it. reason "" and details None are left out of the body."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        details: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message
        self.details, self.headers = details, dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The `Status` object."""
        body: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        body["message"] = self.message
        if self.reason:
            body["reason"] = self.reason
        if self.details is not None:
            body["details"] = dict(self.details)
        return body | {"code": self.code}


@dataclass(frozen=True, slots=True)
class Cause:
    """One field that is wrong. `kind` is the reason in `details.causes`, `text` the message without the field's name."""

    field: str
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.field}: {self.text}"


def invalid_value(where: str, value: str, why: str) -> Cause:
    return Cause(where, "FieldValueInvalid", f'Invalid value: "{value}": {why}')


def required(where: str, why: str = "") -> Cause:
    return Cause(where, "FieldValueRequired", f"Required value: {why}" if why else "Required value")


def duplicate(where: str, value: str) -> Cause:
    return Cause(where, "FieldValueDuplicate", f'Duplicate value: "{value}"')


def field_forbidden(where: str, why: str) -> Cause:
    return Cause(where, "FieldValueForbidden", f"Forbidden: {why}")


def unsupported(where: str, value: str, known: Sequence[str]) -> Cause:
    names = ", ".join(f'"{name}"' for name in known)
    return Cause(where, "FieldValueNotSupported", f'Unsupported value: "{value}": supported values: {names}')


def _details(resource: Resource, name: str = "", kind: str = "", **more: Any) -> dict[str, Any]:
    details: dict[str, Any] = {"name": name} if name else {}
    if resource.group:
        details["group"] = resource.group
    return details | {"kind": kind or resource.plural} | more


def _qualified(resource: Resource) -> str:
    return f"{resource.plural}.{resource.group}" if resource.group else resource.plural


def not_found(resource: Resource, name: str) -> Refused:
    return Refused(404, "NotFound", f'{_qualified(resource)} "{name}" not found', _details(resource, name))


def no_such_resource() -> Refused:
    return Refused(404, "NotFound", "the server could not find the requested resource", {})


def method_not_allowed() -> Refused:
    return Refused(405, "MethodNotAllowed", "the server does not allow this method on the requested resource", {})


def already_exists(resource: Resource, name: str, *, terminating: bool = False) -> Refused:
    """409; `terminating` is the second text, of an object that is still being deleted."""
    before = "object is being deleted: " if terminating else ""
    text = f'{before}{_qualified(resource)} "{name}" already exists'
    return Refused(409, "AlreadyExists", text, _details(resource, name))


def modified_meanwhile(resource: Resource, name: str) -> Refused:
    text = f'Operation cannot be fulfilled on {_qualified(resource)} "{name}": the object has been modified; '
    return Refused(
        409,
        "Conflict",
        text + "please apply your changes to the latest version and try again",
        _details(resource, name),
    )


def precondition(resource: Resource, name: str, what: str, wanted: str, found: str) -> Refused:
    """409 of a DELETE whose `preconditions` do not hold; what: "UID" or "ResourceVersion"."""
    more = "deleted and then recreated" if what == "UID" else "modified"
    text = f'Operation cannot be fulfilled on {resource.kind} "{name}": the {what} in the precondition ({wanted}) does '
    text += f"not match the {what} in record ({found}). The object might have been {more}"
    return Refused(409, "Conflict", text, _details(resource, name, resource.kind))


def denied(user: str, verb: str, resource: Resource, sub: str, namespace: str, name: str) -> Refused:
    """403 of somebody who has not the right."""
    subject = f'{_qualified(resource)} "{name}"' if name else _qualified(resource)
    what = f"{resource.plural}/{sub}" if sub else resource.plural
    where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    text = (
        f'{subject} is forbidden: User "{user}" cannot {verb} resource "{what}" in API group "{resource.group}" {where}'
    )
    return Refused(403, "Forbidden", text, _details(resource, name))


def path_denied(user: str, verb: str, path: str) -> Refused:
    return Refused(403, "Forbidden", f'forbidden: User "{user}" cannot {verb} path "{path}"', {})


def not_admitted(resource: Resource, name: str, why: str, causes: Sequence[Cause] = ()) -> Refused:
    """403 of admission: quota, missing service account, a namespace that ends, pod security."""
    more: dict[str, Any] = {"causes": _causes(causes)} if causes else {}
    text = f'{_qualified(resource)} "{name}" is forbidden: {why}'
    return Refused(403, "Forbidden", text, _details(resource, name, **more))


def invalid(resource: Resource, name: str, causes: Sequence[Cause]) -> Refused:
    """422 with every field that is wrong."""
    text = str(causes[0]) if len(causes) == 1 else "[" + ", ".join(map(str, causes)) + "]"
    details = _details(resource, name, resource.kind, causes=_causes(causes))
    return Refused(422, "Invalid", f'{resource.kind} "{name}" is invalid: {text}', details)


def _causes(causes: Sequence[Cause]) -> list[dict[str, str]]:
    return [{"reason": cause.kind, "message": cause.text, "field": cause.field} for cause in causes]


def patch_failed() -> Refused:
    """422 of a JSON patch whose test fails or whose path is missing."""
    return Refused(422, "Invalid", "the server rejected our request due to an error in our request", {})


def bad_request(message: str) -> Refused:
    return Refused(400, "BadRequest", message)


def unauthorized() -> Refused:
    return Refused(401, "Unauthorized", "Unauthorized")


def unknown_media_type() -> Refused:
    accepted = "application/json, application/yaml, application/vnd.kubernetes.protobuf"
    text = f"the body of the request was in an unknown format - accepted media types include: {accepted}"
    return Refused(415, "UnsupportedMediaType", text)


def unknown_patch_type() -> Refused:
    return Refused(415, "UnsupportedMediaType", "415: Unsupported Media Type", {})


def list_too_old() -> Refused:
    return Refused(410, "Expired", "The resourceVersion for the provided list is too old.")


def watch_too_old(asked: int, oldest: int) -> Refused:
    """410 that a watch gets as its only line."""
    return Refused(410, "Expired", f"too old resource version: {asked} ({oldest})")


def from_the_future(asked: int, current: int) -> Refused:
    details = {
        "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
        "retryAfterSeconds": 1,
    }
    text = f"Timeout: Too large resource version: {asked}, current: {current}"
    return Refused(504, "Timeout", text, details, {"Retry-After": "1"})


def broken(code: int, message: str = "") -> Refused:
    """A fault that a test asked for, in the words that the real one uses for that code."""
    known = {
        429: ("TooManyRequests", "the server has received too many requests and has asked us to try again later"),
        500: ("InternalError", "Internal error occurred: etcdserver: request timed out"),
        503: ("ServiceUnavailable", "the server is currently unable to handle the request"),
        504: ("Timeout", "the server was unable to return a response in the time allotted"),
    }
    reason, text = known.get(code, ("", f"refused with {code}"))
    headers = {"Retry-After": "1"} if code in (429, 503) else {}
    return Refused(code, reason, message or text, {}, headers)
