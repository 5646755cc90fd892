"""Which resources the double knows: one table that routing, bodies and messages share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One row of the API. `plural` is its name in paths and messages, `kind` in bodies; group "" is the core group."""

    plural: str
    kind: str
    namespaced: bool = True
    group: str = ""
    version: str = "v1"
    fields: tuple[str, ...] = ()  # field selectors besides metadata.name and metadata.namespace
    generations: bool = False  # metadata.generation is kept

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


_POD_FIELDS = (
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.nominatedNodeName",
)
_EVENT_FIELDS = (
    *(f"involvedObject.{key}" for key in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion")),
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
)
_RBAC, _APPS = "rbac.authorization.k8s.io", "apps"

PODS = Resource(plural="pods", kind="Pod", fields=_POD_FIELDS, generations=True)
EVENTS = Resource(plural="events", kind="Event", fields=_EVENT_FIELDS)
NODES = Resource(plural="nodes", kind="Node", namespaced=False, fields=("spec.unschedulable",))
NAMESPACES = Resource(plural="namespaces", kind="Namespace", namespaced=False, fields=("status.phase",))
CLAIMS = Resource(plural="persistentvolumeclaims", kind="PersistentVolumeClaim")
VOLUMES = Resource(plural="persistentvolumes", kind="PersistentVolume", namespaced=False)
QUOTAS = Resource(plural="resourcequotas", kind="ResourceQuota")
LIMIT_RANGES = Resource(plural="limitranges", kind="LimitRange")
ACCOUNTS = Resource(plural="serviceaccounts", kind="ServiceAccount")
SERVICES = Resource(plural="services", kind="Service")
SECRETS = Resource(plural="secrets", kind="Secret", fields=("type",))
CONFIG_MAPS = Resource(plural="configmaps", kind="ConfigMap")
ROLES = Resource(plural="roles", kind="Role", group=_RBAC)
ROLE_BINDINGS = Resource(plural="rolebindings", kind="RoleBinding", group=_RBAC)
CLUSTER_ROLES = Resource(plural="clusterroles", kind="ClusterRole", group=_RBAC, namespaced=False)
CLUSTER_ROLE_BINDINGS = Resource(plural="clusterrolebindings", kind="ClusterRoleBinding", group=_RBAC, namespaced=False)
PRIORITY_CLASSES = Resource(plural="priorityclasses", kind="PriorityClass", group="scheduling.k8s.io", namespaced=False)
RUNTIME_CLASSES = Resource(plural="runtimeclasses", kind="RuntimeClass", group="node.k8s.io", namespaced=False)
STORAGE_CLASSES = Resource(plural="storageclasses", kind="StorageClass", group="storage.k8s.io", namespaced=False)

RESOURCES: tuple[Resource, ...] = (
    *(PODS, EVENTS, NODES, NAMESPACES, CLAIMS, VOLUMES, QUOTAS, LIMIT_RANGES, ACCOUNTS, SERVICES, SECRETS, CONFIG_MAPS),
    *(ROLES, ROLE_BINDINGS, CLUSTER_ROLES, CLUSTER_ROLE_BINDINGS),
    *(PRIORITY_CLASSES, RUNTIME_CLASSES, STORAGE_CLASSES),
    # Stored and served, with nobody behind them: what a chart installs and a doctor looks for.
    Resource(plural="deployments", kind="Deployment", group=_APPS, generations=True),
    Resource(plural="daemonsets", kind="DaemonSet", group=_APPS, generations=True),
    Resource(plural="statefulsets", kind="StatefulSet", group=_APPS, generations=True),
    Resource(plural="leases", kind="Lease", group="coordination.k8s.io"),
    Resource(plural="poddisruptionbudgets", kind="PodDisruptionBudget", group="policy"),
    Resource(plural="networkpolicies", kind="NetworkPolicy", group="networking.k8s.io"),
    Resource(plural="ingresses", kind="Ingress", group="networking.k8s.io"),
    Resource(
        plural="mutatingwebhookconfigurations",
        kind="MutatingWebhookConfiguration",
        group="admissionregistration.k8s.io",
        namespaced=False,
    ),
)
BY_PATH: Mapping[tuple[str, str, str], Resource] = {(r.group, r.version, r.plural): r for r in RESOURCES}
BY_KIND: Mapping[tuple[str, str], Resource] = {(r.api_version, r.kind): r for r in RESOURCES}
GROUPS: frozenset[tuple[str, str]] = frozenset((r.group, r.version) for r in RESOURCES)
SUBRESOURCES: Mapping[str, tuple[str, ...]] = {
    "pods": ("log", "status", "binding", "eviction"),
    "nodes": ("status",),
    "namespaces": ("status", "finalize"),
    "persistentvolumeclaims": ("status",),
    "serviceaccounts": ("token",),
}
