"""What an administrator may set for the local provider, and a profile for one of its variants."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from labspawner.providers.local.slices.options import GpuSettings, GpuVariant
from labspawner.units import parse_bytes

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
_RESERVED_PREFIXES = ("JUPYTERHUB_", "JPY_", "LABSPAWNER_", "LD_", "CUDA_", "NVIDIA_")
_RESERVED = frozenset({"PATH", "HOME", "USER", "LOGNAME", "SHELL", "ENV", "BASH_ENV", "IFS"}) | {
    *("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP"),
    *("MEM_LIMIT", "MEM_GUARANTEE", "CPU_LIMIT", "CPU_GUARANTEE"),
}

Size = Annotated[int, BeforeValidator(parse_bytes)]


class LocalSettings(BaseModel):
    """Settings of the provider; every one has a default that works on a laptop."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    homes: Path | None = Field(
        default=None,
        description="Folder of the students' homes, one folder each; absolute. Default: `homes` in the data folder.",
    )
    max_servers: int | None = Field(
        default=None, ge=1, description="How many servers may run at once. Default: as many as memory allows."
    )
    env_keep: tuple[str, ...] = Field(
        default=(
            "PATH",
            "LANG",
            "LC_ALL",
            "TZ",
            "LD_LIBRARY_PATH",
            "PYTHONPATH",
            "VIRTUAL_ENV",
            "CONDA_DEFAULT_ENV",
            "CONDA_PREFIX",
            "JUPYTERHUB_SINGLEUSER_APP",
        ),
        description="Variables that servers inherit from the hub's environment where it has them; no others.",
    )
    bind_ip: str = Field(
        default="127.0.0.1", description="Where servers listen. Loopback only: plain processes are no sandbox."
    )
    port_range: tuple[int, int] | None = Field(
        default=None,
        description="First and last TCP port for servers, for example [20000, 20999]. Default: any free port.",
    )
    stop_grace_s: float = Field(
        default=10.0,
        ge=0,
        le=600,
        description="Seconds a server gets to save and exit before it is killed; a shorter wish of the hub wins.",
    )
    min_free_disk: Size = Field(
        default=50 * 2**20,
        description="Space that must be free on the homes' disk to start a server, with its unit. Default 50MiB.",
    )
    log_limit: Size = Field(
        default=10 * 2**20,
        description="Largest log of one server, with its unit; a longer one loses its beginning. Default 10MiB.",
    )
    logs_kept: int = Field(default=200, ge=0, description="How many logs of ended servers are kept. Default 200.")
    sandbox: Literal["auto", "systemd", "cgroup", "rlimit", "plain"] = Field(
        default="auto",
        description="Rung of the sandbox ladder: the best that works (auto), or one that must work.",
    )
    allow_unsandboxed: bool = Field(
        default=True,
        description="Whether `auto` may end at plain processes, with a warning in the log. False for a lab; True by "
        "default because servers listen on loopback only and the demo must start anywhere.",
    )
    uid_range: tuple[int, int] = Field(
        default=(200000, 265535),
        description="First and last uid for students where the hub is root; no account of the machine may be in it.",
    )
    read_only_paths: tuple[str, ...] = Field(
        default=(),
        description="Folders and files of this machine that servers see, read-only: data sets, course files.",
    )
    hidden_paths: tuple[str, ...] = Field(
        default=(), description="What stays invisible although it is below something that servers see."
    )
    devices: tuple[str, ...] = Field(default=(), description="Device nodes that every server sees.")
    preload: str | None = Field(
        default=None, description="A file that stands, read-only, as /etc/ld.so.preload in every sandbox."
    )
    gpu: GpuSettings = Field(
        default_factory=GpuSettings, description="How the cards of this machine are shared. Default: all of them are."
    )
    network: Literal["none", "egress"] | None = Field(
        default=None,
        description="What servers reach where their profile does not say: the hub (none), or also the internet "
        "(egress). Default: egress where this machine can give it.",
    )
    egress_deny: tuple[str, ...] = Field(
        default=(), description="Networks that no server reaches, for example the campus LAN: ['10.0.0.0/8']."
    )
    unix_sockets: bool | None = Field(
        default=None,
        description="Whether hub and proxy reach servers over unix sockets. Default: where both can, which is JupyterHub 6 "
        "with npm's proxy.",
    )
    home_quota: Size | None = Field(
        default=None, description="What a home may hold, with its unit, where the file system can limit it."
    )
    prewarm: bool = Field(
        default=True,
        description="Whether JupyterLab is imported when the hub starts, so that the first server is fast.",
    )
    tmp_size: Size = Field(default=2**30, description="Size of a server's own /tmp and /dev/shm. Default 1GiB.")
    max_processes: int = Field(
        default=2048, ge=16, description="Processes and threads that one server may have. Default 2048."
    )

    @field_validator("bind_ip")
    @classmethod
    def _loopback(cls, value: str) -> str:
        try:
            address = ipaddress.ip_address(value)
        except ValueError:
            raise ValueError(f"{value!r} is not an IP address; write 127.0.0.1") from None
        if not (address.is_loopback and address.version == 4):
            raise ValueError(f"{value} is not a loopback address; plain processes may only listen on 127.0.0.1")
        return value

    @field_validator("homes")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_absolute():
            raise ValueError(f"{str(value)!r} is relative; write an absolute path")
        return value

    @field_validator("uid_range")
    @classmethod
    def _students(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 1000 < value[0] <= value[1] < 2**31:
            raise ValueError("write first and last uid, above 1000, for example [200000, 265535]")
        return value

    @field_validator("read_only_paths", "hidden_paths", "devices")
    @classmethod
    def _paths(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for path in value:
            _check_path(path)
        return value

    @field_validator("preload")
    @classmethod
    def _path(cls, value: str | None) -> str | None:
        return value if value is None else _check_path(value)

    @field_validator("egress_deny")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            try:
                ipaddress.ip_network(network, strict=False)
            except ValueError:
                raise ValueError(f"{network!r} is no network; write for example 10.0.0.0/8") from None
        return value

    @field_validator("port_range")
    @classmethod
    def _ordered(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and not 1024 <= value[0] <= value[1] <= 65535:
            raise ValueError("write first and last port, from 1024 to 65535, for example [20000, 20999]")
        return value


class LocalVariant(BaseModel):
    """What a profile may set for its variant on the local provider."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    default_url: str | None = Field(
        default=None, description="Where the browser lands in the server, for example /lab or /lab/tree/intro.ipynb."
    )
    environment: dict[str, str] = Field(
        default_factory=dict,
        description="Variables for the server. Those that labspawner or the loader read are refused.",
    )
    command: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="What to run instead of jupyterhub-singleuser, word by word."
    )
    ready: Literal["answers", "started"] = Field(
        default="answers",
        description="When the start counts as done: when the server answers HTTP, or as soon as its process runs "
        "(JupyterHub then waits for the answer itself).",
    )

    network: Literal["none", "egress"] | None = Field(
        default=None, description="What the server reaches: the hub only (none), or also the internet (egress)."
    )
    gpu: GpuVariant = Field(
        default=GpuVariant(),
        description="Written one level up, beside the size of the slice: `gpu: {memory: 6GiB, selftest: warn}`.",
    )
    interpreter: str | None = Field(
        default=None, description="Path of the python of another environment, which has jupyterhub and jupyterlab."
    )

    @field_validator("interpreter")
    @classmethod
    def _python(cls, value: str | None) -> str | None:
        return value if value is None else _check_path(value)

    @field_validator("environment")
    @classmethod
    def _harmless(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not _NAME.fullmatch(name) or "\0" in text:
                raise ValueError(f"{name!r} cannot be set: a name has letters, digits and _ only")
            if name.upper() in _RESERVED or name.upper().startswith(_RESERVED_PREFIXES):
                raise ValueError(f"{name} cannot be set by a profile: it is reserved")
        return value

    @field_validator("default_url")
    @classmethod
    def _rooted(cls, value: str | None) -> str | None:
        if value is not None and (not value.startswith("/") or value.startswith("//") or "\0" in value):
            raise ValueError(f"{value!r} must begin with one slash, for example /lab")
        return value


def _check_path(path: str) -> str:
    """A plain absolute path, as it is both here and inside. Raises ValueError."""
    if "\0" in path or not path.startswith("/") or path != os.path.normpath(path) or path == "/":
        raise ValueError(f"{path!r} must be an absolute path without '.' and '..', and not the root")
    return path
