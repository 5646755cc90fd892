"""What the API server does with a call that is no watch: look up, create, patch, delete, and say so.

Nothing here waits or knows HTTP: `Api.answer` takes a `Call` and gives an `Answer` or raises `Refused`.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any

from labspawner.testing.kube import defaults, deletion, reviews
from labspawner.testing.kube.admission import Admission
from labspawner.testing.kube.clock import new_uid, stamp
from labspawner.testing.kube.patches import APPLY_PATCH, patched
from labspawner.testing.kube.quantities import BadQuantity
from labspawner.testing.kube.resources import CLAIMS, NAMESPACES, NODES, PODS, VOLUMES, Json
from labspawner.testing.kube.routes import Call, read_json
from labspawner.testing.kube.selectors import matcher
from labspawner.testing.kube.statuses import (
    Cause,
    Refused,
    already_exists,
    bad_request,
    field_forbidden,
    from_the_future,
    invalid,
    list_too_old,
    method_not_allowed,
    modified_meanwhile,
    not_found,
)
from labspawner.testing.kube.store import Entry, encode
from labspawner.testing.kube.validation import decoded, not_a_quantity, problems
from labspawner.testing.kube.world import World


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back: a status, a body, and the headers besides the usual."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


def answered(status: int, body: Json) -> Answer:
    return Answer(status, encode(body))


class Api:
    """All verbs but watch, on one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._store = world.store
        self.admission = Admission(world.store)

    def answer(self, call: Call) -> Answer:
        """Do what is asked. Raises Refused."""
        many = {"list": self._list, "create": self._create, "deletecollection": self._delete_all}
        if call.verb in many:
            return self._create_sub(call) if call.sub else many[call.verb](call)
        one = {"get": self._get, "delete": self._delete, "patch": self._patch, "update": self._update}
        if call.verb not in one:
            raise method_not_allowed()
        return one[call.verb](call, self._entry(call))

    @staticmethod
    def _get(_call: Call, entry: Entry) -> Answer:
        return Answer(200, entry.whole())

    def _entry(self, call: Call) -> Entry:
        entry = self._store.get(call.resource, call.namespace if call.resource.namespaced else "", call.name)
        if entry is None:
            raise not_found(call.resource, call.name)
        return entry

    # reading

    def _list(self, call: Call) -> Answer:
        query, version = call.query, self._store.version
        check_version(query, version, self._store.oldest(call.resource))
        matches = matcher(call.resource, query.get("labelSelector", ""), query.get("fieldSelector", ""))
        entries = self._store.entries(call.resource, call.namespace)
        found = [entry for entry in entries if matches is None or matches(entry.obj)]
        found, metadata = _page(found, query, version)
        head = {"kind": f"{call.resource.kind}List", "apiVersion": call.resource.api_version, "metadata": metadata}
        return Answer(200, encode(head)[:-1] + b',"items":[' + b",".join(entry.item() for entry in found) + b"]}")

    # creating

    def _create(self, call: Call) -> Answer:
        resource = call.resource
        body = decoded(resource, call.body(), strict=call.query.get("fieldValidation") == "Strict")
        metadata = dict(body.get("metadata") or {})
        if resource.namespaced and metadata.get("namespace", call.namespace) != call.namespace:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        if metadata.get("generateName") and not metadata.get("name"):
            metadata["name"] = metadata["generateName"] + defaults.suffix()
        obj: Json = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": _born(call, metadata)}
        obj |= {key: value for key, value in body.items() if key not in obj}
        obj = self.admitted(call, obj)
        name = obj["metadata"]["name"]
        where = obj["metadata"].get("namespace", "")
        if (old := self._store.get(resource, where, name)) is not None:
            raise already_exists(resource, name, terminating="deletionTimestamp" in old.obj["metadata"])
        if call.dry:
            return answered(201, obj)
        return Answer(201, self._store.put(resource, obj).whole())

    def admitted(self, call: Call, obj: Json) -> Json:
        """`obj` with all defaults, let in. Raises Refused."""
        name = obj["metadata"].get("name") or ""
        try:
            obj = defaults.complete(call.resource, obj)
        except BadQuantity:
            raise not_a_quantity(call.resource) from None
        if call.resource.namespaced:
            self.admission.namespace(call.resource, call.namespace, name)
            obj = self.admission.change(call.resource, obj)
        if causes := problems(call.resource, obj):
            raise invalid(call.resource, name, causes)
        self.admission.check(call.resource, obj)
        return obj

    def _create_sub(self, call: Call) -> Answer:
        if call.resource.plural == "serviceaccounts" and call.sub == "token":
            return answered(201, reviews.token(self._world, call, self._entry(call).obj))
        entry = self._entry(call)
        if call.resource is PODS and call.sub == "eviction":
            deletion.delete(self._world, PODS, entry.obj, (call.body().get("deleteOptions") or {}))
            return answered(
                201, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
            )
        if call.resource is PODS and call.sub == "binding":
            node = (call.body().get("target") or {}).get("name", "")
            self._store.put(PODS, entry.obj | {"spec": entry.obj["spec"] | {"nodeName": node}})
            return answered(
                201, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
            )
        raise method_not_allowed()

    # changing

    def _patch(self, call: Call, entry: Entry) -> Answer:
        if call.content_type.split(";")[0] == APPLY_PATCH:
            patch = read_json(call.raw, "")  # JSON is YAML; nobody of ours sends the rest
        else:
            patch = read_json(call.raw, "") if call.raw else {}
        return self._replace(call, entry, patched(entry.obj, call.content_type, patch))

    def _update(self, call: Call, entry: Entry) -> Answer:
        return self._replace(call, entry, decoded(call.resource, call.body(), strict=False))

    def _replace(self, call: Call, entry: Entry, new: Json) -> Answer:
        old, resource = entry.obj, call.resource
        asked = (new.get("metadata") or {}).get("resourceVersion")
        if asked and asked != old["metadata"]["resourceVersion"]:
            raise modified_meanwhile(resource, call.name)
        new = _kept_identity(old, new, call.sub, with_status=resource in (PODS, NODES, NAMESPACES, CLAIMS))
        if causes := [*problems(resource, new), *_immutable(call, old, new)]:
            raise invalid(resource, call.name, causes)
        if call.dry:
            return answered(200, new)
        if deletion.was_held(resource, old, new):
            self._store.remove(resource, new["metadata"].get("namespace", ""), call.name)
            return answered(200, new)
        if resource.generations and old.get("spec") != new.get("spec"):
            new = new | {"metadata": new["metadata"] | {"generation": old["metadata"].get("generation", 1) + 1}}
        return Answer(200, self._store.put(resource, new).whole())

    # deleting

    def _delete(self, call: Call, entry: Entry) -> Answer:
        options = call.options()
        deletion.check(call.resource, entry.obj, options)
        if call.dry:
            return Answer(200, entry.whole())
        return answered(200, deletion.delete(self._world, call.resource, entry.obj, options))

    def _delete_all(self, call: Call) -> Answer:
        query, options = call.query, call.options()
        matches = matcher(call.resource, query.get("labelSelector", ""), query.get("fieldSelector", ""))
        version, items = self._store.version, []
        for entry in self._store.entries(call.resource, call.namespace):
            if matches is None or matches(entry.obj):
                items.append(entry.obj)
                deletion.delete(self._world, call.resource, entry.obj, options)
        head = {"kind": f"{call.resource.kind}List", "apiVersion": call.resource.api_version}
        return answered(200, head | {"metadata": {"resourceVersion": str(version)}, "items": items})


def check_version(query: Any, current: int, oldest: int) -> None:
    """Refuse a list whose resourceVersion is none, too old for `Exact`, or in the future."""
    text, match = query.get("resourceVersion", ""), query.get("resourceVersionMatch", "")
    if match and not text:
        why = "resourceVersionMatch is forbidden unless resourceVersion is provided"
        cause = field_forbidden("resourceVersionMatch", why)
        details = {
            "group": "meta.k8s.io",
            "kind": "ListOptions",
            "causes": [{"reason": cause.kind, "message": cause.text, "field": cause.field}],
        }
        raise Refused(422, "Invalid", f'ListOptions.meta.k8s.io "" is invalid: {cause}', details)
    if not text:
        return
    if not text.isdigit():
        why = f'Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax'
        raise bad_request(f"invalid resource version: resourceVersion: {why}")
    if match == "Exact" and int(text) < oldest:
        raise list_too_old()
    if int(text) > current:
        raise from_the_future(int(text), current)


def _page(found: list[Entry], query: Any, version: int) -> tuple[list[Entry], Json]:
    start, limit = _start(query.get("continue", "")), int(query.get("limit") or 0)
    if start:
        found = [entry for entry in found if _place(entry) > start]
    metadata: Json = {"resourceVersion": str(version)}
    if limit and len(found) > limit:
        token = {"v": "meta.k8s.io/v1", "rv": version, "start": f"{_place(found[limit - 1])}\u0000"}
        metadata["continue"] = base64.urlsafe_b64encode(encode(token)).decode().rstrip("=")
        metadata["remainingItemCount"] = len(found) - limit
        found = found[:limit]
    return found, metadata


def _place(entry: Entry) -> str:
    metadata = entry.obj["metadata"]
    return f"{metadata.get('namespace', '')}/{metadata['name']}"


def _start(token: str) -> str:
    if not token:
        return ""
    raw = b""
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        return str(json.loads(raw)["start"]).rstrip("\u0000")
    except (ValueError, KeyError, TypeError):
        wrong = raw[:1].decode(errors="replace")
        what = f"invalid character '{wrong}' looking for beginning of value"
        raise bad_request(f"invalid continue token: continue key is not valid: {what}") from None


def _born(call: Call, metadata: Json) -> Json:
    """The metadata of a new object, in the order in which the server writes it."""
    first: Json = {key: metadata[key] for key in ("name", "generateName") if metadata.get(key)}
    if call.resource.namespaced:
        first["namespace"] = call.namespace
    first |= {"uid": new_uid(), "resourceVersion": ""}
    if call.resource.generations:
        first["generation"] = 1
    first["creationTimestamp"] = stamp()
    for key in ("labels", "annotations", "ownerReferences", "finalizers"):
        if metadata.get(key):
            first[key] = metadata[key]
    if call.resource is NAMESPACES:
        first["labels"] = {"kubernetes.io/metadata.name": metadata.get("name", ""), **(metadata.get("labels") or {})}
    if call.resource in (CLAIMS, VOLUMES):
        what = "pvc" if call.resource is CLAIMS else "pv"
        first["finalizers"] = [*first.get("finalizers", []), f"kubernetes.io/{what}-protection"]
    return first


_FIXED = (
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
)


def _kept_identity(old: Json, new: Json, sub: str, *, with_status: bool) -> Json:
    """`new` with what no client may change: identity, and status or everything but status."""
    metadata = {key: value for key, value in (new.get("metadata") or {}).items() if key not in _FIXED and value}
    fixed = {key: old["metadata"][key] for key in _FIXED if key in old["metadata"]}
    whole = {"metadata": fixed | metadata | {"resourceVersion": old["metadata"]["resourceVersion"]}}
    if sub == "status":
        return old | whole | {"status": new.get("status", {})}
    result = {"kind": old["kind"], "apiVersion": old["apiVersion"], **whole}
    result |= {key: value for key, value in new.items() if key not in ("kind", "apiVersion", "metadata", "status")}
    if with_status and "status" in old:
        return result | {"status": old["status"]}
    return result | ({"status": new["status"]} if "status" in new else {})


_POD_UPDATES = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n"
)


def _immutable(call: Call, old: Json, new: Json) -> list[Cause]:
    if call.resource is PODS and call.sub != "status" and _fixed_spec(old["spec"]) != _fixed_spec(new["spec"]):
        return [field_forbidden("spec", _POD_UPDATES)]
    if call.resource is CLAIMS and call.sub != "status":
        return deletion.shrinks(old, new)
    return []


def _fixed_spec(spec: Json) -> Json:
    free = ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds")
    fixed = {key: value for key, value in spec.items() if key not in free}
    fixed["containers"] = [container | {"image": ""} for container in spec["containers"]]
    return fixed
