"""Which rights the hub needs on the cluster, which of them it has, and the lines of the Role for the others.

What KubeSpawner and our reflectors ask for, recorded from a real API server: shared facts, "Least rights for KubeSpawner".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from labspawner.providers.findings import Finding, Level, ok


@dataclass(frozen=True, slots=True)
class Right:
    """One verb on one kind of object. resource: with its subresource, for example `pods/log`. everywhere: in all
    namespaces, so of a ClusterRole. namespace: another one than that of the servers. loss: what happens without it; level:
    how bad that is."""

    verb: str
    resource: str
    level: Level
    loss: str
    everywhere: bool = False
    namespace: str = ""
    name: str = ""

    def review(self, namespace: str) -> dict[str, object]:
        """The question to the API server, as the body of a SelfSubjectAccessReview."""
        resource, _, below = self.resource.partition("/")
        attributes = {
            "verb": self.verb,
            "group": "",
            "resource": resource,
            "subresource": below,
            "name": self.name,
            "namespace": "" if self.everywhere else self.namespace or namespace,
        }
        return {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {key: value for key, value in attributes.items() if value}},
        }


_NO_START = "no server starts"
_ALWAYS = (
    Right("list", "pods", Level.ERROR, _NO_START),
    Right("watch", "pods", Level.WARNING, "pods are listed again and again, which loads the API server"),
    Right("create", "pods", Level.ERROR, _NO_START),
    Right("delete", "pods", Level.ERROR, "no server stops"),
    Right("list", "events", Level.WARNING, "students do not read why a start fails"),
    Right("watch", "events", Level.WARNING, "students do not read why a start fails"),
    Right("get", "pods/log", Level.NOTE, "the last lines of a failed server are not shown"),
    Right("list", "nodes", Level.WARNING, "room is not counted, and nobody stands in line", everywhere=True),
    Right("watch", "nodes", Level.WARNING, "room is counted late", everywhere=True),
    Right("list", "pods", Level.NOTE, "what others run on the nodes is not counted", everywhere=True),
    Right("watch", "pods", Level.NOTE, "what others run on the nodes is counted late", everywhere=True),
)
_CLAIMS = (
    Right("create", "persistentvolumeclaims", Level.ERROR, "profiles with a disk do not start"),
    Right("get", "persistentvolumeclaims", Level.ERROR, "profiles with a disk do not start"),
    Right("delete", "persistentvolumeclaims", Level.WARNING, "disks of deleted users stay"),
)
# The cluster deletes a service with its pod, which owns it.
_SERVICES = (Right("create", "services", Level.ERROR, "c.KubeSpawner.services_enabled is set, so no server starts"),)


def wanted(*, claims: bool, services: bool, config_map: str | None) -> tuple[Right, ...]:
    """The rights that a hub with these settings uses. config_map: HAMi's device config, as namespace/name."""
    found = [*_ALWAYS, *(_CLAIMS if claims else ()), *(_SERVICES if services else ())]
    if config_map:
        namespace, _, name = config_map.partition("/")
        loss = "HAMi's resource names are not read"
        found.append(Right("get", "configmaps", Level.WARNING, loss, namespace=namespace, name=name))
    return tuple(found)


def judge(allowed: Mapping[Right, bool], *, namespace: str) -> tuple[Finding, ...]:
    """One finding for all rights that are there, and one for each object of which some are missing. Pure."""
    missing = [right for right, yes in allowed.items() if not yes]
    found = [_lacking(list(rights), namespace) for rights in _by_object(missing)]
    held = len(allowed) - len(missing)
    first = (ok("rights", f"{held} of {len(allowed)} rights are there, in {namespace} and beyond"),) if held else ()
    return (*first, *found)


def _by_object(rights: Iterable[Right]) -> Iterable[Iterable[Right]]:
    def key(right: Right) -> tuple[str, bool, str]:
        return right.resource, right.everywhere, right.namespace

    return [list(group) for _, group in groupby(sorted(rights, key=key), key=key)]


def _lacking(rights: Sequence[Right], namespace: str) -> Finding:
    worst = max(rights, key=lambda right: list(Level).index(right.level))
    verbs = [right.verb for right in rights]
    one = rights[0]
    where = "in all namespaces" if one.everywhere else f"in {one.namespace or namespace}"
    kind = "ClusterRole" if one.everywhere else f"Role in {one.namespace or namespace}"
    names = f", resourceNames: [{one.name}]" if one.name else ""
    return Finding(
        worst.level,
        "rights",
        f"the hub may not {', '.join(verbs)} {one.resource} {where}: {worst.loss}",
        f'add to its {kind}: - {{apiGroups: [""], resources: [{one.resource}]{names}, verbs: [{", ".join(verbs)}]}}',
    )
