"""What an administrator may set for the Kubernetes provider, and a profile for one of its variants."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from labspawner.providers.kubernetes.strategies.options import SlicingSettings
from labspawner.units import parse_bytes

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
_RESERVED_PREFIXES = ("JUPYTERHUB_", "JPY_", "LABSPAWNER_", "LD_", "CUDA_", "NVIDIA_")
_RESERVED = frozenset({"PATH", "HOME", "ENV", "BASH_ENV", "IFS"}) | {
    *("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "GPU_CORE_UTILIZATION_POLICY", "ACTIVE_OOM_KILLER"),
    *("MEM_LIMIT", "MEM_GUARANTEE", "CPU_LIMIT", "CPU_GUARANTEE", "LIBCUDA_LOG_LEVEL"),
}
_PREFIX = r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?"
_LABEL = re.compile(_PREFIX + r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", re.ASCII)
_LABEL_TEXT = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?", re.ASCII)
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", re.ASCII)
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_OUR_LABELS = ("labspawner.io/", "hub.jupyter.org/", "app.kubernetes.io/", "kubernetes.io/", "hami.io/", "nvidia.com/")
_OUR_PLAIN_LABELS = frozenset({"app", "component", "release", "heritage", "chart"})

HARMLESS = (
    *("cpu_guarantee", "cpu_limit", "mem_guarantee", "mem_limit"),
    *("default_url", "environment", "extra_labels", "image", "image_pull_policy", "node_selector"),
    *("storage_capacity", "storage_class", "tolerations", "working_dir"),
)
"""What `kubespawner_override` of a course may set: nothing that leaves the pod, or the slice."""

OURS = frozenset(
    {
        *("cmd_override", "poll_interval", "options_form", "profile_list", "start_timeout", "http_timeout"),
        *("namespace", "enable_user_namespaces", "internal_ssl", "events_enabled"),
    }
)
"""Attributes of KubeSpawner that labspawner decides, or that mean nothing here."""

Size = Annotated[int, BeforeValidator(parse_bytes)]


class KubernetesSettings(BaseModel):
    """Settings of the provider. In a cluster with the official chart none is needed."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    namespace: str | None = Field(
        default=None,
        description="Where servers run. Default: c.KubeSpawner.namespace, else the hub's own namespace, else that of the "
        "kubeconfig's context, else `default`.",
    )
    kubeconfig: Path | None = Field(
        default=None,
        description="Absolute path of a kubeconfig file. Default: the hub's service account where it runs in the cluster, "
        "else KUBECONFIG, else ~/.kube/config.",
    )
    context: str | None = Field(default=None, description="Context of the kubeconfig. Default: its current one.")
    kubespawner: dict[str, Any] = Field(
        default_factory=dict,
        description="Attributes of KubeSpawner for this provider alone, over c.KubeSpawner; "
        "for example {image_pull_policy: Always}.",
    )
    hub_config: dict[str, Any] = Field(
        default_factory=dict,
        description="Filled by labspawner with c.Spawner and c.KubeSpawner of the hub; leave it out.",
    )
    gpu: SlicingSettings = Field(
        default=SlicingSettings(),
        description="How cards are shared: {strategy: hami}, {strategy: device-plugin, classes: ...} or {strategy: none}. "
        "Default: none.",
    )
    reports: bool = Field(
        default=False,
        description="Whether the images carry labspawner, so that servers report their use. A server that then does not "
        "report counts as one of which nothing is known, and not as an idle one. Default: no.",
    )
    max_servers: int | None = Field(
        default=None, ge=1, description="How many servers may run at once. Default: as many as the cluster holds."
    )
    course_overrides: tuple[str, ...] = Field(
        default=HARMLESS,
        description="Attributes of KubeSpawner that a course file may set in `kubespawner_override`. Default: those that "
        "cannot lead out of a pod; volumes, security contexts, hooks and extra containers are not among them.",
    )
    service_accounts: tuple[str, ...] = Field(
        default=(), description="Service accounts that a course file may name. Default: none, and no token is mounted."
    )
    home: str = Field(
        default="/home/jovyan",
        description="Where `storage` of a profile is mounted, as the image has its home. Default: /home/jovyan.",
    )
    cpu_overcommit: float = Field(
        default=1.0,
        ge=1,
        le=100,
        description="How often the cores of a node may be promised: 4 asks the scheduler for a quarter of each limit.",
    )
    memory_overcommit: float = Field(
        default=1.0,
        ge=1,
        le=10,
        description="The same for memory. More than 1 risks that nodes evict servers. Default: 1.",
    )
    whole_cluster: bool | None = Field(
        default=None,
        description="Whether pods of other namespaces are counted for what nodes have free; needs a ClusterRole with pods "
        "list, watch. Default: where the hub may.",
    )
    request_timeout_s: float = Field(
        default=10.0, gt=0, le=120, description="Seconds until one call to the API server is given up. Default 10."
    )
    patience_s: float = Field(
        default=20.0,
        ge=0,
        le=600,
        description="Seconds for which a start or stop tries again while the API server does not answer. Default 20.",
    )
    pending_s: float = Field(
        default=30.0,
        ge=0,
        le=3600,
        description="Seconds that a server waits for room the scheduler does not find, before its start ends and its student "
        "may stand in line. With a cluster autoscaler that has announced a node: until the start's own deadline.",
    )
    stop_s: float = Field(
        default=60.0,
        gt=0,
        le=3600,
        description="Seconds beyond its grace after which a pod that does not go is called stuck. Default 60.",
    )
    watch_s: float = Field(
        default=60.0,
        gt=0,
        le=3600,
        description="Seconds after which a watch is renewed; one that is silent for longer is taken for dead. Default 60.",
    )
    relist_s: float = Field(
        default=5.0,
        gt=0,
        le=600,
        description="Seconds without news of its pod after which a start or stop doubts the watch, and has a list made. "
        "Also the interval of lists where the hub may not watch. Default 5.",
    )

    @field_validator("namespace")
    @classmethod
    def _named(cls, value: str | None) -> str | None:
        if value is not None and not _NAMESPACE.fullmatch(value):
            raise ValueError(f"{value!r} is no namespace: write 1 to 63 characters of a-z, 0-9 and '-'")
        return value

    @field_validator("kubeconfig")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_absolute():
            raise ValueError(f"{str(value)!r} is relative; write an absolute path")
        return value

    @field_validator("home")
    @classmethod
    def _rooted(cls, value: str) -> str:
        if not value.startswith("/") or value == "/" or "\0" in value or ".." in value.split("/"):
            raise ValueError(f"{value!r} must be an absolute path, for example /home/jovyan")
        return value


class Toleration(BaseModel):
    """A taint that the server's node may have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str | None = None
    operator: Literal["Equal", "Exists"] | None = None
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class Storage(BaseModel):
    """A volume for the student's files."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    size: Size | None = Field(default=None, description="How much, with its unit, for example 10GiB.")
    storage_class: str | None = Field(
        default=None, alias="class", description="Its storage class. Left out: the cluster's default."
    )
    retain: Literal["keep", "delete"] = Field(
        default="keep",
        description="keep: one volume per student, for all their servers of this kind, which outlives them. delete: an "
        "empty volume for each start, which ends with the server.",
    )
    mount: str | None = Field(default=None, description="Where it is mounted. Left out: the provider's `home`.")

    @field_validator("storage_class")
    @classmethod
    def _named(cls, value: str | None) -> str | None:
        return value if value is None else _checked(_NAME, value, "a storage class")

    @field_validator("mount")
    @classmethod
    def _rooted(cls, value: str | None) -> str | None:
        return value if value is None else KubernetesSettings._rooted(value)


class KubernetesVariant(BaseModel):
    """What a profile may set for its variant on Kubernetes, beside image, cpu, memory and gpu."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: str | None = Field(default=None, description="Written one level up, beside `provider`.")
    gpu: dict[str, Any] = Field(default_factory=dict, description="Written one level up, beside the size of the slice.")
    default_url: str | None = Field(
        default=None, description="Where the browser lands in the server, for example /lab."
    )
    environment: dict[str, str] = Field(
        default_factory=dict,
        description="Variables for the server. Those that labspawner, the loader or the GPU libraries read are refused.",
    )
    command: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="What to run instead of jupyterhub-singleuser, word by word."
    )
    node_selector: dict[str, str] = Field(
        default_factory=dict, description="Labels that the server's node must have, for example {pool: gpu}."
    )
    tolerations: tuple[Toleration, ...] = Field(
        default=(), max_length=20, description="Taints that the server's node may have."
    )
    storage: Storage | None = Field(default=None, description="A volume for files. Left out: as c.KubeSpawner says.")
    service_account: str | None = Field(
        default=None, description="A service account that the provider's `service_accounts` allows. Left out: none."
    )
    labels: dict[str, str] = Field(default_factory=dict, max_length=20, description="More labels for the pod.")
    kubespawner_override: dict[str, Any] = Field(
        default_factory=dict, description="Attributes of KubeSpawner that the provider's `course_overrides` allows."
    )

    @field_validator("environment")
    @classmethod
    def _harmless(cls, value: dict[str, str]) -> dict[str, str]:
        check_environment(value)
        return value

    @field_validator("default_url")
    @classmethod
    def _local(cls, value: str | None) -> str | None:
        if value is not None and (not value.startswith("/") or value.startswith("//") or "\0" in value):
            raise ValueError(f"{value!r} must begin with one slash, for example /lab")
        return value

    @field_validator("service_account")
    @classmethod
    def _named(cls, value: str | None) -> str | None:
        return value if value is None else _checked(_NAME, value, "a service account")

    @field_validator("node_selector")
    @classmethod
    def _selectable(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            _checked(_LABEL, name, "the name of a label")
            _checked(_LABEL_TEXT, text, "a label's value")
        return value

    @field_validator("labels")
    @classmethod
    def _free(cls, value: dict[str, str]) -> dict[str, str]:
        check_labels(value)
        return value


def check_environment(variables: Mapping[str, object]) -> None:
    """Raises ValueError for a variable that a profile may not set."""
    for name, text in variables.items():
        if not _VARIABLE.fullmatch(name) or (isinstance(text, str) and "\0" in text):
            raise ValueError(f"{name!r} cannot be set: a name has letters, digits and _ only")
        if name.upper() in _RESERVED or name.upper().startswith(_RESERVED_PREFIXES):
            raise ValueError(f"{name} cannot be set by a profile: it is reserved")


def check_labels(labels: Mapping[str, object]) -> None:
    """Raises ValueError for a label that is none, or that a profile may not set."""
    for name, text in labels.items():
        _checked(_LABEL, name, "the name of a label")
        _checked(_LABEL_TEXT, str(text), "a label's value")
        if name in _OUR_PLAIN_LABELS or name.startswith(_OUR_LABELS):
            raise ValueError(f"the label {name} cannot be set by a profile: it is reserved")


def _checked(pattern: re.Pattern[str], text: str, what: str) -> str:
    if not pattern.fullmatch(text):
        raise ValueError(f"{text!r} is not {what}, as Kubernetes writes it")
    return text
