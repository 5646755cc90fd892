"""The child: a real KubeSpawner, built from plain data for one server. It names things, builds manifests and says where
a pod listens; what is sent to the cluster, and when, is the provider's business.

Importing this module imports kubespawner, which takes a second or two: only a hub with Kubernetes profiles does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from types import FunctionType
from typing import Any, ClassVar, cast
from urllib.parse import quote, urlsplit

from kubespawner import KubeSpawner
from traitlets import TraitError
from traitlets.config import Config

from labspawner.errors import BadConfig
from labspawner.model import LaunchRequest
from labspawner.providers.kubernetes.options import (
    OURS,
    KubernetesSettings,
    KubernetesVariant,
    Storage,
    check_environment,
    check_labels,
)
from labspawner.providers.standins import (
    Identity,
    StandInAuthenticator,
    StandInOrmSpawner,
    StandInSession,
    hub_at,
    server_at,
    user_named,
)
from labspawner.sentences import Sentence

SECTIONS = ("Spawner", "KubeSpawner")
"""The parts of the hub's configuration that a child reads."""
HOME_VOLUME = "labspawner-home"


class ChildSpawner(KubeSpawner):  # type: ignore[misc]
    """KubeSpawner with reflectors of its own, and, where it is given `api`, without a cluster of its own finding.

    `c.KubeSpawner.*` applies: traitlets reads the sections of the classes that it derives from.
    """

    reflectors: ClassVar[dict[Any, Any]] = {}

    def __init__(self, *args: Any, api: Any = None, **kwargs: Any) -> None:
        if api is None:
            super().__init__(*args, **kwargs)
        else:
            _init_with(api)(self, *args, **kwargs)


def _init_with(api: Any) -> Callable[..., None]:
    """KubeSpawner's own `__init__`, with other doors: it neither looks for a cluster nor opens a session to it.

    It does both by functions of its module, for the whole process, and raises on a machine without a kubeconfig.
    """
    theirs: FunctionType = KubeSpawner.__init__
    doors = {"load_config": lambda **_settings: None, "shared_client": lambda _kind: api}
    ours = FunctionType(
        theirs.__code__, {**theirs.__globals__, **doors}, theirs.__name__, theirs.__defaults__, theirs.__closure__
    )
    return cast(Callable[..., None], ours)


def check_settings(settings: KubernetesSettings, *, where: str) -> None:
    """Raises BadConfig for an attribute that KubeSpawner does not have, or that means nothing here."""
    known = set(ChildSpawner.class_trait_names(config=True))
    for name in (*settings.kubespawner, *settings.course_overrides):
        if name not in known:
            raise BadConfig(Sentence("{where}: KubeSpawner has no setting {name}.", where=where, name=repr(name)))
    given = {**_section(settings, "KubeSpawner"), **settings.kubespawner}
    for name in ("enable_user_namespaces", "internal_ssl"):
        if given.get(name):
            raise BadConfig(
                Sentence(
                    "{where}: KubeSpawner's {name} is not supported; leave it out, or run these servers with the adapter.",
                    where=where,
                    name=name,
                )
            )


def build(identity: Identity, settings: KubernetesSettings, *, namespace: str, api: Any) -> Any:
    """A KubeSpawner for the server of `identity`, in `namespace`."""
    user = user_named(identity)
    client = "-".join(quote(part, safe="") for part in (identity.user, identity.server_name) if part)
    sections = {name: dict(_section(settings, name)) for name in SECTIONS}
    # The namespace is the provider's: each name that is made from templates may contain it.
    sections["KubeSpawner"] |= {**deepcopy(settings.kubespawner), "namespace": namespace}
    for name in ("options_form", "pre_spawn_hook", "post_stop_hook", "auth_state_hook", "profile_list"):
        for section in sections.values():
            section.pop(name, None)  # the outer Spawner's business
    return ChildSpawner(
        user=user,
        orm_spawner=StandInOrmSpawner(name=identity.server_name, server=server_at(identity.base_url)),
        hub=hub_at(identity.api_url),
        authenticator=StandInAuthenticator(),
        oauth_client_id=f"jupyterhub-user-{client}",
        proxy_spec=identity.base_url,
        config=Config(sections),
        api=api,
        _deprecated_db_session=StandInSession(),
    )


def _section(settings: KubernetesSettings, name: str) -> Mapping[str, Any]:
    section = settings.hub_config.get(name)
    return section if isinstance(section, Mapping) else {}


def equip(
    child: Any, request: LaunchRequest, variant: KubernetesVariant, settings: KubernetesSettings, *, where: str
) -> None:
    """Tell `child` what the profile says, by an allow-list. Raises BadConfig for what a profile may not set."""
    given = {**_section(settings, "KubeSpawner"), **settings.kubespawner}
    child.api_token = request.environment.get("JUPYTERHUB_API_TOKEN", "")
    child.user_options = {}
    try:
        _command(child, request, variant, given)
        _resources(child, request, settings, given)
        _override(child, variant.kubespawner_override, settings, where=where)
        if variant.image is not None:
            child.image = variant.image
        _place(child, variant)
        _account(child, variant, settings, where=where)
        if variant.storage is not None:
            _storage(child, variant.storage, settings)
    except (TraitError, ValueError) as exc:
        raise BadConfig(Sentence("{where}: {problem}.", where=where, problem=str(exc).rstrip("."))) from exc


def _command(child: Any, request: LaunchRequest, variant: KubernetesVariant, given: Mapping[str, Any]) -> None:
    extra = list(child.args) if "args" in given else []
    if variant.command is not None:
        child.cmd = [*variant.command]
    elif "cmd" not in given:
        child.cmd = [*request.command]
    child.args = extra


def _resources(child: Any, request: LaunchRequest, settings: KubernetesSettings, given: Mapping[str, Any]) -> None:
    """Limits as the profile says; what the scheduler counts is as much, or less where the administrator overcommits."""
    cpu, memory = request.resources.cpu, request.resources.memory_bytes
    if cpu is not None:
        wanted = float(child.cpu_guarantee) if given.get("cpu_guarantee") else cpu / settings.cpu_overcommit
        child.cpu_limit, child.cpu_guarantee = cpu, min(cpu, wanted)
    if memory is not None:
        asked = int(child.mem_guarantee) if given.get("mem_guarantee") else int(memory / settings.memory_overcommit)
        child.mem_limit, child.mem_guarantee = memory, min(memory, asked)


def _override(child: Any, override: Mapping[str, Any], settings: KubernetesSettings, *, where: str) -> None:
    """`kubespawner_override`: values replace, dicts are merged into copies, so that no shared profile changes."""
    for name, value in override.items():
        if name not in settings.course_overrides or name in OURS:
            raise BadConfig(
                Sentence(
                    "{where}: {name} may not be set by a profile; course_overrides of the provider does not list it.",
                    where=where,
                    name=repr(name),
                )
            )
        if name == "environment" and isinstance(value, Mapping):
            check_environment(value)
        if name == "extra_labels" and isinstance(value, Mapping):
            check_labels(value)
        before = getattr(child, name)
        if isinstance(before, dict) and isinstance(value, Mapping):
            setattr(child, name, _merged(before, value))
        else:
            setattr(child, name, deepcopy(value))


def _merged(before: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """As KubeSpawner merges: nested dicts too, and None takes a key away."""
    result = deepcopy(dict(before))
    for key, value in more.items():
        below = result.get(key)
        if value is None:
            result.pop(key, None)
        elif isinstance(below, dict) and isinstance(value, Mapping):
            result[key] = _merged(below, value)
        else:
            result[key] = deepcopy(value)
    return result


def _place(child: Any, variant: KubernetesVariant) -> None:
    if variant.node_selector:
        child.node_selector = {**child.node_selector, **variant.node_selector}
    if variant.tolerations:
        before = child.tolerations
        listed = [before[key] for key in sorted(before)] if isinstance(before, dict) else list(before)
        child.tolerations = [*listed, *(each.model_dump(exclude_none=True) for each in variant.tolerations)]
    if variant.labels:
        child.extra_labels = {**child.extra_labels, **variant.labels}


def _account(child: Any, variant: KubernetesVariant, settings: KubernetesSettings, *, where: str) -> None:
    if variant.service_account is None:
        return
    if variant.service_account not in settings.service_accounts:
        raise BadConfig(
            Sentence(
                "{where}: the service account {name} is not among service_accounts of the provider.",
                where=where,
                name=variant.service_account,
            )
        )
    child.service_account = variant.service_account


def _storage(child: Any, storage: Storage, settings: KubernetesSettings) -> None:
    """A volume for files in place of whatever stood there."""
    mount = storage.mount or settings.home
    if storage.size is not None:
        child.storage_capacity = str(storage.size)
    if storage.storage_class is not None:
        child.storage_class = storage.storage_class
    mounts = [each for each in _listed(child.volume_mounts) if each.get("mountPath", each.get("mount_path")) != mount]
    used = {each.get("name") for each in mounts}
    volumes = [each for each in _listed(child.volumes) if not _is_claim(each) or each.get("name") in used]
    child.storage_pvc_ensure = storage.retain == "keep" or any(_is_claim(each) for each in volumes)
    child.volumes = [*volumes, {"name": HOME_VOLUME, **_source(child, storage)}]
    child.volume_mounts = [*mounts, {"name": HOME_VOLUME, "mountPath": mount}]


def _source(child: Any, storage: Storage) -> dict[str, Any]:
    if storage.retain == "keep":
        return {"persistentVolumeClaim": {"claimName": child.pvc_name}}
    spec: dict[str, Any] = {
        "accessModes": list(child.storage_access_modes),
        "resources": {"requests": {"storage": str(storage.size or child.storage_capacity or "1Gi")}},
    }
    if child.storage_class:
        spec["storageClassName"] = child.storage_class
    return {"ephemeral": {"volumeClaimTemplate": {"spec": spec}}}  # made and deleted with the pod, by the cluster


def _listed(values: Any) -> list[dict[str, Any]]:
    found = [values[key] for key in sorted(values)] if isinstance(values, dict) else list(values or ())
    return [dict(each) for each in deepcopy(found)]


def _is_claim(volume: Mapping[str, Any]) -> bool:
    return "persistentVolumeClaim" in volume or "persistent_volume_claim" in volume


def environment_of(child: Any, request: LaunchRequest, *, hub_environment: Mapping[str, str]) -> dict[str, Any]:
    """What the server's programs find: the hub's wishes at the address of the pod, then those of c.KubeSpawner.

    hub_environment: of the hub's own process; what a Spawner kept of it (PATH, ...) means nothing in an image.
    """
    ip = child.ip or "0.0.0.0"  # noqa: S104 - the pod's own addresses
    url = f"http://{f'[{ip}]' if ':' in ip else ip}:{child.port}"
    env: dict[str, Any] = {
        name: value
        for name, value in request.environment_at(url).items()
        if name not in _KEPT_OF_THE_HUB or hub_environment.get(name) != value
    }
    if child.default_url:
        env.setdefault("JUPYTERHUB_DEFAULT_URL", child.default_url)
    if child.notebook_dir:
        env.setdefault("JUPYTERHUB_ROOT_DIR", child.notebook_dir)
    for name in ("mem_limit", "mem_guarantee", "cpu_limit", "cpu_guarantee"):
        if getattr(child, name):
            env[name.upper()] = str(getattr(child, name))
    if child.hub_connect_url:
        for name in ("JUPYTERHUB_API_URL", "JUPYTERHUB_ACTIVITY_URL"):
            if name in env:
                env[name] = str(child.hub_connect_url).rstrip("/") + urlsplit(env[name]).path
    env["JUPYTER_IMAGE_SPEC"] = env["JUPYTER_IMAGE"] = child.image
    return {**env, **_expanded(child)}


_KEPT_OF_THE_HUB = frozenset(
    {
        *("PATH", "PYTHONPATH", "CONDA_ROOT", "CONDA_DEFAULT_ENV", "VIRTUAL_ENV", "LANG", "LC_ALL"),
        "JUPYTERHUB_SINGLEUSER_APP",
    }
)
"""JupyterHub's default `env_keep`."""


def _expanded(child: Any) -> dict[str, Any]:
    """`c.KubeSpawner.environment`: values may be functions of the spawner, or templates as `{username}`. Braces that are no
    template stay as they are."""
    result: dict[str, Any] = {}
    for name, value in child.environment.items():
        given = value(child) if callable(value) else value
        try:
            result[name] = child._expand_all(given)
        except (KeyError, IndexError, ValueError, AttributeError):
            result[name] = given
    return {name: value for name, value in result.items() if value is not None}
