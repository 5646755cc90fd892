"""Who asks, and what they may: tokens, service accounts, and the Roles and bindings that are kept in the store."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass

from labspawner.testing.kube.resources import (
    CLUSTER_ROLE_BINDINGS,
    CLUSTER_ROLES,
    ROLE_BINDINGS,
    ROLES,
    Json,
    Resource,
)
from labspawner.testing.kube.statuses import unauthorized
from labspawner.testing.kube.store import Store


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who asks. An administrator may everything."""

    name: str
    groups: tuple[str, ...] = ()
    admin: bool = False


ANONYMOUS = User("system:anonymous", ("system:unauthenticated",))
ADMIN = User("kubernetes-admin", ("system:masters", "system:authenticated"), admin=True)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One thing that somebody wants to do, as RBAC sees it."""

    verb: str
    group: str
    resource: str  # "pods", or "pods/log" for a subresource
    namespace: str = ""
    name: str = ""


def service_account(namespace: str, name: str) -> User:
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
    return User(f"system:serviceaccount:{namespace}:{name}", groups)


class Rights:
    """Tokens and what their owners may do. The rights of service accounts are read from the store at every question."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._owners: dict[str, User] = {}

    def token_for(self, user: User) -> str:
        """A new token of this user; older ones stay good until they are revoked."""
        token = secrets.token_urlsafe(24)
        self._owners[token] = user
        return token

    def revoke(self, token: str) -> None:
        self._owners.pop(token, None)

    def owner(self, authorization: str) -> User:
        """Who sends this header. Raises Refused (401) for a token that nobody has; without one it is anonymous."""
        if not authorization:
            return ANONYMOUS
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or token.strip() not in self._owners:
            raise unauthorized()
        return self._owners[token.strip()]

    def allows(self, user: User, attempt: Attempt) -> bool:
        return user.admin or any(_covers(rule, attempt) for rule in self.rules(user, attempt.namespace))

    def rules(self, user: User, namespace: str) -> Iterator[Json]:
        """The rules that hold for this user in this namespace; those of the whole cluster when it is ""."""
        for binding in self._store.objects(CLUSTER_ROLE_BINDINGS):
            if _binds(binding, user):
                yield from self._role(CLUSTER_ROLES, "", binding)
        if namespace:
            for binding in self._store.objects(ROLE_BINDINGS, namespace):
                if _binds(binding, user):
                    of_cluster = binding["roleRef"].get("kind") == "ClusterRole"
                    yield from self._role(
                        CLUSTER_ROLES if of_cluster else ROLES, "" if of_cluster else namespace, binding
                    )

    def _role(self, resource: Resource, namespace: str, binding: Json) -> list[Json]:
        entry = self._store.get(resource, namespace, binding["roleRef"]["name"])
        return list(entry.obj.get("rules") or []) if entry else []


def _binds(binding: Json, user: User) -> bool:
    for subject in binding.get("subjects") or []:
        kind, name = subject.get("kind"), subject.get("name", "")
        where = subject.get("namespace") or binding["metadata"].get("namespace", "")
        if kind == "ServiceAccount" and user.name == f"system:serviceaccount:{where}:{name}":
            return True
        if (kind == "User" and user.name == name) or (kind == "Group" and name in user.groups):
            return True
    return False


def _covers(rule: Json, attempt: Attempt) -> bool:
    def has(key: str, wanted: str) -> bool:
        values = rule.get(key) or []
        return wanted in values or "*" in values

    names = rule.get("resourceNames") or []
    return (
        has("verbs", attempt.verb)
        and has("apiGroups", attempt.group)
        and has("resources", attempt.resource)
        and (not names or attempt.name in names)
    )
