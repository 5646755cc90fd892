"""The questions to a cluster, one after the other; each one's trouble is its own finding."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Protocol

from labspawner.errors import LabError
from labspawner.model import Slice
from labspawner.providers.findings import Finding, error, note, ok, trouble, warning
from labspawner.providers.kubernetes.answers import ApiRefused, ApiSilent
from labspawner.providers.kubernetes.diagnosis import nodes as looking
from labspawner.providers.kubernetes.diagnosis.rights import Right, judge, wanted
from labspawner.providers.kubernetes.strategies.choosing import strategy
from labspawner.providers.kubernetes.strategies.contract import PodPatch, Strategy
from labspawner.providers.kubernetes.strategies.hami_config import FILE
from labspawner.providers.kubernetes.strategies.options import SlicingSettings
from labspawner.providers.kubernetes.views import NodeView, PodView
from labspawner.providers.kubernetes.wishes import GpuWish
from labspawner.providers.kubernetes.words import refusal

_DEFAULT_CLASS = (
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
)
_OLDEST = (1, 28)
_TRIAL = Slice(memory_bytes=2**20, compute_pct=1)


class Call(Protocol):
    """One call to the API server, as `providers.kubernetes.api.Api.call`."""

    def __call__(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: Mapping[str, Any] | None = None
    ) -> Awaitable[dict[str, Any]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is looked at. call: the API server, as the hub; namespace: where servers run; attributes: KubeSpawner's, as they
    are configured (`storage_pvc_ensure`, `image_pull_secrets`, ...)."""

    call: Call
    namespace: Callable[[], Awaitable[str]]
    slicing: SlicingSettings = SlicingSettings()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)


async def diagnose(subject: Subject) -> tuple[Finding, ...]:
    """Everything that a start will need of this cluster. Changes nothing: the pod that is tried out is a dry run."""
    try:
        namespace = await subject.namespace()
        version = await subject.call("GET", "/version")
    except LabError as exc:
        return (trouble("cluster", exc),)
    except ApiSilent as exc:
        return (error("cluster", f"the API server does not answer: {exc}", "check its address, and the way there"),)
    except ApiRefused as exc:
        if exc.status == 401:
            return (error("cluster", f"the API server does not know this hub: {exc}", "renew its token or kubeconfig"),)
        return (error("cluster", f"the API server refuses to say its version: {exc}"),)
    found: list[Finding] = list(_version(version))
    allowed = await _rights(subject, namespace)
    found += allowed if isinstance(allowed, list) else judge(allowed, namespace=namespace)
    found += await _namespace(subject, namespace)
    chosen, configured = await _strategy(subject)
    found += configured
    found += await _nodes(subject, chosen)
    found += await _dry_run(subject, namespace, chosen)
    found += await _disks(subject)
    found += await _secrets(subject, namespace)
    found += await _dra(subject)
    return tuple(found)


def _version(said: Mapping[str, Any]) -> tuple[Finding, ...]:
    text = str(said.get("gitVersion") or "?")
    try:
        number = (int(str(said["major"])), int(str(said["minor"]).rstrip("+")))
    except (KeyError, ValueError):
        return (note("cluster", f"Kubernetes {text}"),)
    if number < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        return (warning("cluster", f"Kubernetes {text} answers; labspawner is tested with {oldest} and later"),)
    return (ok("cluster", f"Kubernetes {text} answers"),)


async def _rights(subject: Subject, namespace: str) -> dict[Right, bool] | list[Finding]:
    """Each right, asked of the API server; what it answers, or the finding that it does not."""
    rights = wanted(
        claims=bool(subject.attributes.get("storage_pvc_ensure", True)),
        services=bool(subject.attributes.get("services_enabled")),
        config_map=subject.slicing.hami.config_map if subject.slicing.strategy == "hami" else None,
    )
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    try:
        answers = await asyncio.gather(*(subject.call("POST", path, body=right.review(namespace)) for right in rights))
    except (ApiRefused, ApiSilent) as exc:
        return [warning("rights", f"they cannot be asked for: {exc}")]
    allowed = [(answer.get("status") or {}).get("allowed") is True for answer in answers]
    return dict(zip(rights, allowed, strict=True))


async def _namespace(subject: Subject, namespace: str) -> list[Finding]:
    try:
        found = await subject.call("GET", f"/api/v1/namespaces/{namespace}")
    except ApiRefused as exc:
        if exc.status == 404:
            return [error("namespace", f"{namespace} does not exist", f"kubectl create namespace {namespace}")]
        return []  # the hub need not see it; the dry run tells
    except ApiSilent as exc:
        return [warning("namespace", str(exc))]
    if (found.get("status") or {}).get("phase") == "Terminating":
        return [error("namespace", f"{namespace} is being deleted")]
    return [ok("namespace", f"servers run in {namespace}")]


async def _strategy(subject: Subject) -> tuple[Strategy, list[Finding]]:
    """The strategy that is set, with HAMi's own names where they can be read."""
    settings, text = subject.slicing, ""
    found: list[Finding] = []
    if settings.strategy == "hami" and settings.hami.config_map:
        namespace, _, name = settings.hami.config_map.partition("/")
        try:
            config = await subject.call("GET", f"/api/v1/namespaces/{namespace}/configmaps/{name}")
            text = str((config.get("data") or {}).get(FILE) or "")
            if not text:
                found.append(
                    error("HAMi", f"the ConfigMap {namespace}/{name} has no {FILE}", "check gpu.hami.config_map")
                )
        except (ApiRefused, ApiSilent) as exc:
            found.append(error("HAMi", f"its device config cannot be read: {exc}", "check gpu.hami.config_map"))
    try:
        chosen = strategy(settings, device_config=text)
    except LabError as exc:
        return strategy(SlicingSettings()), [*found, trouble("GPU strategy", exc)]
    if text:
        found.append(ok("HAMi", f"its device config is read from {settings.hami.config_map}"))
    return chosen, found


async def _nodes(subject: Subject, chosen: Strategy) -> list[Finding]:
    try:
        listed = await subject.call("GET", "/api/v1/nodes")
    except ApiRefused as exc:
        if exc.status == 403:
            return [note("nodes", "the hub may not see them, so cards and room are not looked at")]
        return [warning("nodes", str(exc))]
    except ApiSilent as exc:
        return [warning("nodes", str(exc))]
    nodes = [NodeView.of(item) for item in listed.get("items") or ()]
    hosts = chosen.capacity(nodes, [])
    return [*looking.machines(nodes), *looking.cards(nodes, subject.slicing, hosts, subject.now())]


async def _dry_run(subject: Subject, namespace: str, chosen: Strategy) -> list[Finding]:
    """A small server that the API server, its policies and webhooks look at as at a real one, and that never exists."""
    try:
        patch = chosen.patch(_trial(chosen, subject.slicing), GpuWish())
    except LabError as exc:
        return [trouble("GPU strategy", exc)]
    path = f"/api/v1/namespaces/{namespace}/pods"
    try:
        answer = await subject.call("POST", path, query={"dryRun": "All"}, body=_pod(patch, namespace))
    except ApiRefused as exc:
        words = refusal(exc.status, exc.body, doing="create pods")
        if exc.status == 403 and "cannot create resource" in exc.message:
            return []  # said with the rights
        return [error("a server", f"the cluster would refuse one: {exc.message or exc}", str(words.message))]
    except ApiSilent as exc:
        return [warning("a server", f"it could not be tried out: {exc}")]
    made = PodView.of(answer)
    unseen = chosen.untouched(made)
    if unseen is not None:
        said = (
            f"HAMi's webhook did not touch one with a slice: it is for the scheduler {made.scheduler_name}, and "
            f"gpu.hami.scheduler is {subject.slicing.hami.scheduler}"
        )
        return [error("a server", said, str(unseen))]
    return [ok("a server", "the cluster would accept one (dry run)")]


def _trial(chosen: Strategy, settings: SlicingSettings) -> Slice | None:
    if chosen.name == "none":
        return None
    sizes = [Slice(memory_bytes=each.memory, compute_pct=each.cores) for each in settings.classes.values()]
    return min(sizes, key=lambda size: size.memory_bytes) if chosen.name == "device-plugin" and sizes else _TRIAL


def _pod(patch: PodPatch, namespace: str) -> dict[str, Any]:
    limits: dict[str, object] = {"cpu": "10m", "memory": "16Mi", **{name: str(n) for name, n in patch.limits.items()}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "labspawner-doctor",
            "namespace": namespace,
            "annotations": dict(patch.annotations),
            "labels": {"app.kubernetes.io/name": "labspawner-doctor"},
        },
        "spec": {
            "automountServiceAccountToken": False,
            "restartPolicy": "Never",
            **({"schedulerName": patch.scheduler_name} if patch.scheduler_name else {}),
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "notebook",
                    "image": "labspawner/doctor:none",
                    "env": [{"name": name, "value": value} for name, value in patch.environment.items()],
                    "resources": {"limits": limits, "requests": dict(limits)},
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }


async def _disks(subject: Subject) -> list[Finding]:
    """Whether a claim for a home would find a storage class."""
    named = subject.attributes.get("storage_class")
    try:
        listed = await subject.call("GET", "/apis/storage.k8s.io/v1/storageclasses")
    except (ApiRefused, ApiSilent):
        return [
            note(
                "storage class", "the hub may not see them; homes on disks need a default one, or a name in the profile"
            )
        ]
    classes = {
        str((item.get("metadata") or {}).get("name")): (item.get("metadata") or {}).get("annotations") or {}
        for item in listed.get("items") or ()
    }
    default = next(
        (name for name, said in classes.items() if any(said.get(key) == "true" for key in _DEFAULT_CLASS)), ""
    )
    if named and named not in classes:
        return [
            error(
                "storage class", f"c.KubeSpawner.storage_class is {named!r}; there are: {', '.join(classes) or 'none'}"
            )
        ]
    if named or default:
        return [ok("storage class", f"homes on disks are of the class {named or default}")]
    needed = bool(subject.attributes.get("storage_pvc_ensure"))
    level = error if needed else note
    said = f"there are: {', '.join(classes)}" if classes else "there is none"
    return [level("storage class", f"no default one ({said})", "profiles with a disk need a default class, or a name")]


async def _secrets(subject: Subject, namespace: str) -> list[Finding]:
    """The pull secrets that KubeSpawner will name. The hub need not be able to read them, and their content is not kept."""
    found: list[Finding] = []
    for entry in subject.attributes.get("image_pull_secrets") or ():
        name = entry.get("name") if isinstance(entry, Mapping) else entry
        try:
            await subject.call("GET", f"/api/v1/namespaces/{namespace}/secrets/{name}")
        except ApiRefused as exc:
            if exc.status == 404:
                found.append(
                    error("pull secret", f"{name} is missing in {namespace}", "images of its registry are not fetched")
                )
            else:
                found.append(note("pull secret", f"the hub may not see whether {name} is there, and need not"))
        except ApiSilent as exc:
            found.append(warning("pull secret", str(exc)))
        else:
            found.append(ok("pull secret", f"{name} is there"))
    return found


async def _dra(subject: Subject) -> list[Finding]:
    """For information: what a later strategy would use."""
    try:
        group = await subject.call("GET", "/apis/resource.k8s.io")
    except (ApiRefused, ApiSilent):
        return []
    versions = [str(each.get("version")) for each in group.get("versions") or () if isinstance(each, Mapping)]
    return (
        [note("DRA", f"resource.k8s.io {', '.join(versions)} is there; no strategy of labspawner uses it yet")]
        if versions
        else []
    )
