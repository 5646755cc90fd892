"""Which request is meant: path, method and query read into a `Call`. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from labspawner.testing.kube.resources import BY_PATH, GROUPS, SUBRESOURCES, Resource
from labspawner.testing.kube.rights import ANONYMOUS, Attempt, User
from labspawner.testing.kube.statuses import bad_request, method_not_allowed, no_such_resource, unknown_media_type

_FALSE = ("false", "0")
_JSON = ("application/json", "application/strategic-merge-patch+json", "")


@dataclass(frozen=True, slots=True)
class Call:
    """One request to a resource, read. `namespace` is "" at cluster scope and for a list of all namespaces."""

    verb: str
    resource: Resource
    namespace: str = ""
    name: str = ""
    sub: str = ""
    path: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    raw: bytes = b""
    content_type: str = ""
    user: User = ANONYMOUS

    @property
    def what(self) -> str:
        """The resource as RBAC names it."""
        return f"{self.resource.plural}/{self.sub}" if self.sub else self.resource.plural

    @property
    def attempt(self) -> Attempt:
        return Attempt(self.verb, self.resource.group, self.what, self.namespace, self.name)

    def body(self) -> dict[str, Any]:
        """The body as JSON. Raises Refused (400, 415)."""
        if self.content_type.split(";")[0] not in _JSON:
            raise unknown_media_type()
        what = (
            f"the object provided is unrecognized (must be of type {self.resource.kind}): couldn't get version/kind; "
        )
        if not self.raw:
            raise bad_request(what + "json parse error: unexpected end of JSON input (<empty>)")
        body = read_json(self.raw, what)
        if not isinstance(body, dict):
            raise bad_request(what + "json parse error: the object is none")
        return body

    def options(self) -> dict[str, Any]:
        """The DeleteOptions of a DELETE, from body or query."""
        body = read_json(self.raw, "") if self.raw.strip() else {}
        found = dict(body) if isinstance(body, dict) else {}
        if "gracePeriodSeconds" in self.query:
            found["gracePeriodSeconds"] = int(self.query["gracePeriodSeconds"])
        return found

    @property
    def dry(self) -> bool:
        return self.query.get("dryRun") == "All"


def read_json(raw: bytes, what: str) -> Any:
    """`raw` as JSON; raises Refused (400) in Go's words for the mistakes that were recorded, ours for others."""
    try:
        return json.loads(raw)
    except ValueError as error:
        text, place = raw.decode(errors="replace"), getattr(error, "pos", 0)
        wrong = text[place : place + 1]
        looking = "object key string" if "property name" in str(error) else "value"
        raise bad_request(
            f"{what}json parse error: invalid character '{wrong}' looking for beginning of {looking} ({text})"
        ) from None


def is_known_group(path: str) -> bool:
    """Whether `path` is in a group and version that the API has; others are plain 404 pages."""
    parts = path.strip("/").split("/")
    if parts[:2] == ["api", "v1"]:
        return True
    return len(parts) >= 3 and parts[0] == "apis" and (parts[1], parts[2]) in GROUPS


def read(method: str, path: str, query: Mapping[str, str]) -> Call:
    """The call in a path of a known group. Raises Refused (404, 405)."""
    parts = path.strip("/").split("/")
    group, version, rest = ("", parts[1], parts[2:]) if parts[0] == "api" else (parts[1], parts[2], parts[3:])
    namespace = ""
    if rest[:1] == ["namespaces"] and len(rest) >= 3 and rest[2] not in SUBRESOURCES["namespaces"]:
        namespace, rest = rest[1], rest[2:]
    resource = BY_PATH.get((group, version, rest[0])) if rest else None
    name, sub = rest[1] if len(rest) > 1 else "", rest[2] if len(rest) > 2 else ""
    if resource is None or len(rest) > 3 or (namespace and not resource.namespaced):
        raise no_such_resource()
    if sub and sub not in SUBRESOURCES.get(resource.plural, ()):
        raise no_such_resource()
    if resource.namespaced and not namespace and (name or method != "GET"):
        raise no_such_resource()
    verb = _verb(method, name, sub, query)
    namespace = name if resource.plural == "namespaces" else namespace
    return Call(verb, resource, namespace, name, sub, path, query)


def _verb(method: str, name: str, sub: str, query: Mapping[str, str]) -> str:
    if method == "GET":
        if name:
            return "get"
        return "watch" if query.get("watch", "0").lower() not in _FALSE else "list"
    named = {"PUT": "update", "PATCH": "patch", "DELETE": "delete"} | ({"POST": "create"} if sub else {})
    unnamed = {"POST": "create", "DELETE": "deletecollection"}
    verb = (named if name else unnamed).get(method)
    if verb is None:
        raise method_not_allowed()
    return verb
