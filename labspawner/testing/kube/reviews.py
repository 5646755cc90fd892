"""Who am I, may I, and a token for a service account: bodies that are answered and not kept."""

from __future__ import annotations

from datetime import timedelta

from labspawner.testing.kube.clock import new_uid, now, stamp
from labspawner.testing.kube.resources import Json
from labspawner.testing.kube.rights import Attempt, User, service_account
from labspawner.testing.kube.routes import Call
from labspawner.testing.kube.world import World

PATHS = {
    "/apis/authentication.k8s.io/v1/selfsubjectreviews": "SelfSubjectReview",
    "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews": "SelfSubjectAccessReview",
    "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews": "SelfSubjectRulesReview",
}


def review(world: World, path: str, user: User, body: Json) -> Json:
    """The answer to one of `PATHS`."""
    kind, version = PATHS[path], path.removeprefix("/apis/").rpartition("/")[0]
    head: Json = {"kind": kind, "apiVersion": version, "metadata": {}}
    if kind == "SelfSubjectReview":
        extra = {"authentication.kubernetes.io/credential-id": [f"JTI={new_uid()}"]}
        info = {"username": user.name, "uid": new_uid(), "groups": list(user.groups), "extra": extra}
        return head | {"metadata": {"creationTimestamp": stamp()}, "status": {"userInfo": info}}
    spec = body.get("spec") or {}
    if kind == "SelfSubjectRulesReview":
        everything = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
        rules = [everything] if user.admin else list(world.rights.rules(user, spec.get("namespace", "")))
        return head | {"spec": {}, "status": {"resourceRules": rules, "nonResourceRules": [], "incomplete": False}}
    return head | {"spec": spec, "status": {"allowed": may(world, user, spec.get("resourceAttributes") or {})}}


def may(world: World, user: User, asked: Json) -> bool:
    """Whether this user may do what the `resourceAttributes` of an access review say, faults included."""
    resource, sub = asked.get("resource", ""), asked.get("subresource", "")
    what = f"{resource}/{sub}" if sub else resource
    verb = asked.get("verb", "")
    attempt = Attempt(verb, asked.get("group", ""), what, asked.get("namespace", ""), asked.get("name", ""))
    return world.rights.allows(user, attempt) and not world.faults.forbids(verb, what)


def token(world: World, call: Call, account: Json) -> Json:
    """A TokenRequest, answered with a token that is good until it is revoked."""
    spec = call.body().get("spec") or {}
    seconds = spec.get("expirationSeconds", 3600)
    made = world.rights.token_for(service_account(call.namespace, call.name))
    metadata = {key: account["metadata"][key] for key in ("name", "namespace", "uid", "creationTimestamp")}
    return {
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": metadata,
        "spec": {"audiences": ["https://kubernetes.default.svc"], "expirationSeconds": seconds, "boundObjectRef": None},
        "status": {"token": made, "expirationTimestamp": stamp(now() + timedelta(seconds=seconds))},
    }
