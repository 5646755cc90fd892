"""What an administrator may say to the node agent: a YAML file with slice classes, per node pool."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from labspawner.gpu.limits import CorePolicy
from labspawner.gpu.pretend import parse_cards
from labspawner.units import parse_bytes, parse_duration, parse_percent

MIB = 2**20
DEFAULT_POOL = "default"
_CLASS = re.compile(r"[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?", re.ASCII)
_POOL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
_OURS = ("LABSPAWNER_", "LD_PRELOAD", "CUDA_DEVICE_", "CUDA_DISABLE_")


class BadSettings(ValueError):
    """The file cannot be used; the text says what to write instead."""


def _whole_mib(value: object) -> int:
    size = parse_bytes(value)
    if size % MIB:
        raise ValueError(f"{value!r} is not a whole number of MiB: write {max(1, size // MIB)}MiB")
    return size


def _seconds(value: object) -> float:
    return parse_duration(value).total_seconds()


def _card_names(value: object) -> object:
    """Numbers and UUIDs as text; one alone is a list of one."""
    if value == "auto":
        return value
    values = value if isinstance(value, (list, tuple)) else [value]
    return tuple(str(one) if isinstance(one, int) and not isinstance(one, bool) else one for one in values)


Cards = Annotated[Literal["auto"] | tuple[str, ...], BeforeValidator(_card_names)]


class SliceClass(BaseModel):
    """Slices of one size, offered as the resource `labspawner.io/gpu-<name>`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    memory: Annotated[int, BeforeValidator(_whole_mib)] = Field(
        description="Memory of one slice, for example 6GiB or 6141MiB."
    )
    cores: Annotated[int, BeforeValidator(parse_percent)] = Field(
        default=100, description="Percent of the card's compute time of one slice, 1 to 100."
    )
    per_card: int = Field(
        ge=1, le=128, description="How many slices of this class each card has, beside those of other classes."
    )
    cards: Cards = Field(
        default="auto", description="Which cards have such slices, by UUID or number: default all cards of the pool."
    )


class Pool(BaseModel):
    """How the cards of one kind of node are shared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: dict[str, SliceClass] = Field(min_length=1, description="Slice classes by name.")
    cards: Cards = Field(default="auto", description="Which cards are shared, by UUID or number: default all.")
    placement: Literal["binpack", "spread"] = Field(
        default="binpack",
        description="Which card the next slice is taken from: the fullest (so that others stay whole), or the emptiest.",
    )
    cores_policy: Literal["fair", "force", "off"] = Field(
        default="fair",
        description="fair: idle compute time is lent to other slices; force: it is not; off: it is not limited.",
    )
    oversubscribe: bool = Field(
        default=False, description="Whether memory beyond a slice is taken from the host's instead of being refused."
    )
    oom_killer: bool = Field(
        default=False, description="Whether a process that holds more than its slice, past the library, is ended by it."
    )
    selftest: bool = Field(
        default=True, description="Whether servers try their slice out; see the annotation's `tested`."
    )
    watchdog: Literal["kill", "report", "off"] = Field(
        default="kill", description="What happens to a process that holds more of a card than its slice allows."
    )
    runtime: Literal["nvidia", "cdi", "plain"] = Field(
        default="nvidia",
        description="How the driver's files come into a container. nvidia: NVIDIA's container runtime is the node's "
        "default and reads NVIDIA_VISIBLE_DEVICES; cdi: the runtime knows the devices nvidia.com/gpu=<UUID>; plain: only "
        "the device nodes are given, and the image (or `driver`) has the driver's libraries.",
    )
    driver: tuple[str, str] | None = Field(
        default=None,
        description="A folder of the host with the driver's libraries, and where containers see it (read-only): for "
        "example [/home/kubernetes/bin/nvidia, /usr/local/nvidia].",
    )
    environment: dict[str, str] = Field(
        default_factory=dict, description="Variables for containers with a slice, for example LD_LIBRARY_PATH."
    )

    @field_validator("classes")
    @classmethod
    def _names(cls, value: dict[str, SliceClass]) -> dict[str, SliceClass]:
        for name in value:
            if not _CLASS.fullmatch(name):
                raise ValueError(f"{name!r} is no name for a class: 1 to 20 small letters, digits and hyphens")
        return value

    @field_validator("environment")
    @classmethod
    def _variables(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not _VARIABLE.fullmatch(name) or name.startswith(_OURS):
                raise ValueError(f"{name!r} cannot be set here: it is no variable's name, or the slice's own")
        return value

    @field_validator("driver")
    @classmethod
    def _absolute(cls, value: tuple[str, str] | None) -> tuple[str, str] | None:
        for path in value or ():
            if not path.startswith("/") or ".." in path.split("/"):
                raise ValueError(f"{path!r} is no absolute path")
        return value

    @property
    def core_policy(self) -> CorePolicy:
        """`cores_policy` as the library names it."""
        return {"fair": CorePolicy.FAIR, "force": CorePolicy.CAP, "off": CorePolicy.OFF}[self.cores_policy]


class AgentSettings(BaseModel):
    """The whole file. A file with `classes` at its top is one with a single pool."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pools: dict[str, Pool] = Field(
        min_length=1,
        description="Node pools by name. Where there are several, `--pool` says which one this node is of.",
    )
    plugins: Path = Field(
        default=Path("/var/lib/kubelet/device-plugins"), description="The folder of the kubelet's plugin sockets."
    )
    pod_resources: Path = Field(
        default=Path("/var/lib/kubelet/pod-resources/kubelet.sock"),
        description="The kubelet's socket that says which pod has which device.",
    )
    state: Path = Field(
        default=Path("/run/labspawner/gpu"),
        description="Folder for the files of slices, at the same path on the host and here. Memory (a tmpfs) is best.",
    )
    libvgpu_dir: Path = Field(
        default=Path("/var/lib/labspawner/gpu"),
        description="Folder for libvgpu.so, at the same path on the host and here; not on a file system that is mounted "
        "noexec, as /run often is.",
    )
    metrics: str = Field(
        default="0.0.0.0:9445", description="Address and port for Prometheus; an empty text: no metrics are served."
    )
    every: Annotated[float, BeforeValidator(_seconds)] = Field(
        default=10.0, gt=0, le=600, description="How often cards and slices are looked at."
    )
    pretend: str | None = Field(
        default=None, description="Cards that do not exist, for a demo: 2x24GiB. Nothing is computed on them."
    )

    @model_validator(mode="before")
    @classmethod
    def _one_pool(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "classes" not in data or "pools" in data:
            return data
        pool = {key: value for key, value in data.items() if key in Pool.model_fields}
        return {**{key: value for key, value in data.items() if key not in pool}, "pools": {DEFAULT_POOL: pool}}

    @field_validator("pools")
    @classmethod
    def _pool_names(cls, value: dict[str, Pool]) -> dict[str, Pool]:
        for name in value:
            if not _POOL.fullmatch(name):
                raise ValueError(f"{name!r} is no name for a pool: letters, digits, dots, underscores and hyphens")
        return value

    @field_validator("pretend")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        return None if value is None else parse_cards(value)

    @field_validator("plugins", "pod_resources", "state", "libvgpu_dir")
    @classmethod
    def _from_the_root(cls, value: Path) -> Path:
        if not value.is_absolute():
            raise ValueError(f"{value} is no absolute path")
        return value

    @field_validator("metrics")
    @classmethod
    def _address(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if value and not (host and port.isdigit() and int(port) < 2**16):
            raise ValueError(f"{value!r} is no address: write for example 0.0.0.0:9445, or nothing for no metrics")
        return value

    def pool(self, name: str | None) -> tuple[str, Pool]:
        """The pool of this node. Raises BadSettings where `name` is none of them, or needed and missing."""
        known = ", ".join(sorted(self.pools))
        if name is None and len(self.pools) > 1:
            raise BadSettings(f"there are several node pools: say which one with --pool ({known})")
        name = name or next(iter(self.pools))
        if name not in self.pools:
            raise BadSettings(f"there is no node pool {name!r}: there are {known}")
        return name, self.pools[name]


def parse_settings(data: object) -> AgentSettings:
    """Check what was read from a file. Raises BadSettings that names each wrong key."""
    try:
        return AgentSettings.model_validate(data)
    except ValidationError as exc:
        lines = [f"{'.'.join(map(str, error['loc'])) or 'the file'}: {_said(error)}" for error in exc.errors()]
        raise BadSettings("; ".join(lines)) from exc


def load_settings(path: Path) -> AgentSettings:
    """Read a YAML file. Raises BadSettings."""
    try:
        data = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise BadSettings(f"{path} cannot be read: {exc.strerror}") from exc
    except (YAMLError, UnicodeDecodeError) as exc:
        raise BadSettings(f"{path} is no YAML: {exc}") from exc
    try:
        return parse_settings(data)
    except BadSettings as exc:
        raise BadSettings(f"{path}: {exc}") from exc


def _said(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "there is no such key"
    return str(error["msg"]).removeprefix("Value error, ")
