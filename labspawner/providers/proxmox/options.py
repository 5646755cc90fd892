"""What an administrator may set for the Proxmox VE provider, and a profile for one of its variants."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from labspawner.courses import devices
from labspawner.providers.proxmox.addresses import AddressPool
from labspawner.providers.proxmox.ids import VmidRange
from labspawner.providers.proxmox.wishes import PciWish
from labspawner.units import parse_bytes, parse_duration

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,99}", re.ASCII)
_TOKEN = re.compile(r"[^\s:@!=/]+@[A-Za-z][A-Za-z0-9._-]+![A-Za-z][A-Za-z0-9._-]+=\S+")
_ACCOUNT = re.compile(r"[a-z_][a-z0-9_-]{0,31}", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
_RESERVED = frozenset({"PATH", "HOME", "ENV", "BASH_ENV", "IFS", "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP"})
_RESERVED_PREFIXES = ("JUPYTERHUB_", "JPY_", "LABSPAWNER_", "LD_")
_FINGERPRINT = re.compile(r"[0-9A-F]{64}", re.ASCII)
_CPU = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
_KEY = re.compile(r"(ssh-|ecdsa-|sk-)[a-z0-9@.-]+ [A-Za-z0-9+/=]+( [^\r\n]*)?", re.ASCII)

DEFAULT_PORT = 8006


def _listed(value: object) -> object:
    """Several things in one text, with commas or blanks between them, are a list."""
    return tuple(re.split(r"[,\s]+", value.strip(", \t\n"))) if isinstance(value, str) else value


def _endpoint(text: str) -> str:
    """`pve1`, `pve1:8006` or `https://pve1:8006` as the last of these."""
    url = urlsplit(text if "://" in text else f"https://{text}")
    try:
        port = url.port or DEFAULT_PORT
    except ValueError:
        port = 0
    if url.scheme != "https" or not url.hostname or not port or url.path.strip("/") or url.query or url.username:
        raise ValueError(f"{text!r} is no endpoint: write for example https://pve1.example.org:8006")
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return f"https://{host}:{port}"


def _fingerprint(text: str) -> str:
    digits = text.replace(":", "").upper()
    if not _FINGERPRINT.fullmatch(digits):
        raise ValueError("a fingerprint is 64 hexadecimal digits (SHA-256), with or without colons between each two")
    return ":".join(digits[index : index + 2] for index in range(0, 64, 2))


def _named(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(
            f"{text!r} is no name as Proxmox VE writes it: begin with a letter, then letters, digits, _ . -"
        )
    return text


def _rooted(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(f"{str(path)!r} is relative; write an absolute path")
    return path


def _web(text: str) -> str:
    url = urlsplit(text)
    if url.scheme not in {"http", "https"} or not url.hostname or url.query or url.fragment:
        raise ValueError(f"{text!r} is no URL: write for example http://10.20.0.1:8081")
    return text.rstrip("/")


def _span(value: object) -> timedelta:
    return parse_duration(value)


Size = Annotated[int, BeforeValidator(parse_bytes)]
Span = Annotated[timedelta, BeforeValidator(_span)]
PveName = Annotated[str, AfterValidator(_named)]
FilePath = Annotated[Path, AfterValidator(_rooted)]
WebUrl = Annotated[str, AfterValidator(_web)]
Endpoints = Annotated[tuple[Annotated[str, AfterValidator(_endpoint)], ...], BeforeValidator(_listed)]
Fingerprints = Annotated[tuple[Annotated[str, AfterValidator(_fingerprint)], ...], BeforeValidator(_listed)]


class NodeRoom(BaseModel):
    """What servers may have of one node. Left out: what the cluster says it has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    memory: Size | None = Field(default=None, description="Main memory for servers, for example 48GiB.")
    cores: float | None = Field(default=None, gt=0, le=4096, description="Cores that count, before cpu_overcommit.")
    servers: int | None = Field(default=None, ge=0, le=10_000, description="Servers at once.")


class ProxmoxSettings(BaseModel):
    """Settings of the provider. Needed are the endpoints, a token and, unless its certificate is signed, a fingerprint."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, hide_input_in_errors=True)

    endpoints: Endpoints = Field(
        min_length=1,
        max_length=32,
        description="Nodes that answer the API, any of them: a list, or one text with commas; for example "
        "https://pve1:8006,https://pve2:8006.",
    )
    token: SecretStr | None = Field(
        default=None, description="API token, `user@realm!name=secret`. Better: token_file, which no log can show."
    )
    token_file: FilePath | None = Field(
        default=None, description="Absolute path of a file that holds the token and that only the hub can read."
    )
    username: str | None = Field(
        default=None, description="User with realm, for tickets instead of a token; needs password_file."
    )
    password_file: FilePath | None = Field(default=None, description="Absolute path of a file with their password.")
    ca_file: FilePath | None = Field(
        default=None,
        description="Absolute path of the CA that signed the nodes' certificates. Default: the system's CAs.",
    )
    fingerprint: Fingerprints = Field(
        default=(),
        description="SHA-256 fingerprints of the nodes' certificates: one for all endpoints, or one each, in their order.",
    )
    pool: PveName = Field(
        default="labspawner",
        description="Resource pool that servers are made in, and on which the token has its rights.",
    )
    vmids: Annotated[VmidRange, BeforeValidator(VmidRange.parse)] = Field(
        default=VmidRange(),
        description="VM ids that belong to this hub alone, and to no other on this cluster. Default: 20000-29999.",
    )
    cool_down: Span = Field(
        default=timedelta(minutes=10),
        description="How long the id and the address of a deleted VM are not given to another one. Default: 10m.",
    )
    hub_connect_url: WebUrl | None = Field(
        default=None,
        description="How VMs reach the hub, for example http://10.20.0.1:8081; 127.0.0.1 is of no use to a VM. "
        "Default: what c.JupyterHub.hub_connect_url says.",
    )
    desktop_url: WebUrl | None = Field(
        default=None, description="How the hub's proxy reaches the desktop service. Filled by labspawner; leave it out."
    )
    addresses: dict[str, AddressPool] = Field(
        default_factory=dict,
        description="Addresses for VMs, by the name of a profile (course/slug), of a course, or default: "
        "{default: 10.20.0.50-10.20.0.99/24 gw 10.20.0.1 dns 10.20.0.1}. Default: none, so VMs ask a DHCP server.",
    )
    probe_addresses: bool = Field(
        default=True, description="Whether an address that answers before its VM has booted is left to whoever has it."
    )
    storage: PveName | None = Field(default=None, description="Storage of full clones. Default: that of the template.")
    hibernate_storage: PveName | None = Field(
        default=None,
        description="Storage of the memory of hibernated VMs. Default: as Proxmox VE chooses: shared first.",
    )
    bridge: PveName | None = Field(default=None, description="Bridge of the VMs. Default: that of the template.")
    anti_spoofing: bool = Field(
        default=False,
        description="Whether Proxmox VE's firewall holds each VM to its own address and MAC; works once the firewall is on "
        "for the cluster. Default: no.",
    )
    nodes: dict[PveName, NodeRoom] = Field(
        default_factory=dict,
        description="Nodes that servers may go to, and what they may have of each; needed where the token may not read how "
        "large nodes are: {pve1: {memory: 48GiB, cores: 16}, pve2: {}}. Default: all nodes.",
    )
    placement: Literal["spread", "pack"] = Field(
        default="spread", description="Which of the nodes with room: the emptiest, or the fullest. Default: spread."
    )
    memory_overcommit: float = Field(
        default=1.0, ge=1, le=10, description="How often the memory of a node may be promised. Default: 1."
    )
    cpu_overcommit: float = Field(
        default=4.0, ge=1, le=100, description="How often the cores of a node may be promised. Default: 4."
    )
    node_reserve: Size = Field(
        default=2 * 2**30, description="Memory of each node that is left to itself. Default: 2GiB."
    )
    storage_reserve: Size = Field(
        default=10 * 2**30, description="Space of each storage that no new server uses. Default: 10GiB."
    )
    max_servers: int | None = Field(
        default=None, ge=1, description="How many servers may run at once. Default: as many as the cluster holds."
    )
    linked_clones: int = Field(default=4, ge=1, le=64, description="Linked clones of one template at once. Default: 4.")
    full_clones: int = Field(default=1, ge=1, le=16, description="Full clones onto one storage at once. Default: 1.")
    agent_calls: int = Field(
        default=2,
        ge=1,
        le=8,
        description="Calls of guest agents at once: one to a VM that does not answer holds a worker of the node. Default: 2.",
    )
    threads: int = Field(default=8, ge=2, le=64, description="Requests at once. Default: 8.")
    connect_timeout_s: float = Field(
        default=5.0, gt=0, le=60, description="Seconds until an endpoint that does not answer is left. Default: 5."
    )
    request_timeout_s: float = Field(
        default=30.0, gt=0, le=300, description="Seconds until one request is given up. Default: 30."
    )
    patience_s: float = Field(
        default=60.0,
        ge=0,
        le=600,
        description="Seconds for which a start or stop tries again while the cluster does not answer, or has no quorum. "
        "Default: 60.",
    )
    lock_patience_s: float = Field(
        default=120.0,
        ge=0,
        le=3600,
        description="Seconds for which a start waits for locks of the cluster. Default: 120.",
    )
    clone_timeout_s: float = Field(
        default=600.0, gt=0, le=14_400, description="Seconds until a clone is given up. Default: 600."
    )
    boot_timeout_s: float = Field(
        default=300.0, gt=0, le=3600, description="Seconds until a VM without a guest agent is given up. Default: 300."
    )
    snapshot_s: float = Field(
        default=5.0, gt=0, le=60, description="Seconds for which one look at the cluster answers everybody. Default: 5."
    )
    kvm: bool = Field(
        default=True,
        description="Off: VMs are emulated, which is slow and needs the right VM.Config.HWType. For trials.",
    )
    pace: float = Field(
        default=1.0,
        gt=0,
        le=100_000,
        description="For simulations: every wait of the provider is divided by it. Default: 1.",
    )

    @field_validator("token")
    @classmethod
    def _whole_token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _TOKEN.fullmatch(value.get_secret_value().strip()):
            raise ValueError("a token is written user@realm!name=secret")
        return value

    @field_validator("addresses", mode="before")
    @classmethod
    def _pools(cls, value: object) -> object:
        if isinstance(value, (str, AddressPool)):
            value = {"default": value}
        if not isinstance(value, Mapping):
            raise ValueError("write pools by name: {default: 10.20.0.50-10.20.0.99/24 gw 10.20.0.1}")
        return {str(name): AddressPool.parse(text, name=str(name)) for name, text in value.items()}

    @model_validator(mode="after")
    def _one_way_in(self) -> ProxmoxSettings:
        ways = [self.token is not None, self.token_file is not None, self.username is not None]
        if sum(ways) != 1:
            raise ValueError("write one of token_file, token, or username with password_file")
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and password_file belong together")
        if self.username is not None and "@" not in self.username:
            raise ValueError(f"username {self.username!r} has no realm: write for example {self.username}@pve")
        if len(self.fingerprint) not in {0, 1, len(self.endpoints)}:
            raise ValueError(f"write one fingerprint for all endpoints, or {len(self.endpoints)}, one for each")
        return self

    def fingerprint_of(self, endpoint: str) -> str | None:
        """The pinned SHA-256 fingerprint of an endpoint, `AB:CD:...`; None where a CA vouches for it."""
        if len(self.fingerprint) <= 1:
            return self.fingerprint[0] if self.fingerprint else None
        return self.fingerprint[self.endpoints.index(endpoint)]


class ProxmoxVariant(BaseModel):
    """What a profile may set for its variant on Proxmox VE, beside template, cpu, memory and disk."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    template: str | None = Field(default=None, description="Written one level up, beside `provider`.")
    hibernate: bool = Field(
        default=False,
        description="Whether space is kept for its memory, so that it can be hibernated. Left out: where the profile's "
        "`idle` says `action: hibernate`.",
    )
    os: Literal["linux", "windows"] = Field(default="linux", description="What the template holds.")
    jupyter: bool | None = Field(
        default=None, description="Whether JupyterLab runs in it. Left out: on Linux yes, on Windows no."
    )
    desktop: bool | None = Field(
        default=None,
        description="Whether its screen is offered in the browser. Left out: where there is no JupyterLab.",
    )
    full: bool | None = Field(
        default=None, description="A full copy of the template's disks. Left out: only where the storage cannot link."
    )
    storage: PveName | None = Field(default=None, description="Storage of a full copy. Left out: the provider's.")
    cpu_type: str | None = Field(default=None, description="Type of processor, for example host or x86-64-v2-AES.")
    balloon: Size | None = Field(
        default=None,
        description="Memory that the VM keeps when its node runs short, for example 4GiB. Left out: all of it.",
    )
    network: Literal["static", "dhcp"] | None = Field(
        default=None, description="Left out: static where the hub has addresses for the profile, else dhcp."
    )
    addresses: str | None = Field(
        default=None, description="Name of a pool of addresses. Left out: by profile and course."
    )
    bridge: PveName | None = Field(default=None, description="Bridge of its network card. Left out: the provider's.")
    vlan: int | None = Field(
        default=None, ge=1, le=4094, description="VLAN of its network card. Left out: the template's."
    )
    nodes: tuple[PveName, ...] = Field(default=(), max_length=64, description="Only these nodes. Left out: any.")
    cloud_init: bool = Field(
        default=True,
        description="Whether the template has cloud-init (Windows: cloudbase-init), which sets name and network.",
    )
    user: str = Field(default="student", description="Account in the VM that the server runs as.")
    home: str | None = Field(default=None, description="Their home folder. Left out: /home/<user>.")
    ssh: bool = Field(default=False, description="Whether the student is shown a line for ssh.")
    ssh_keys: tuple[str, ...] = Field(
        default=(),
        max_length=50,
        description="Public keys that may log in as that account, one each, as in id_ed25519.pub.",
    )
    pci: PciWish | None = Field(
        default=None, description="A device that is passed through: {mapping: gpu} or {mapping: gpu, type: nvidia-231}."
    )
    command: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="What to run instead of jupyterhub-singleuser, word by word."
    )
    port: int = Field(default=8888, ge=1024, le=65535, description="Port of the server in the VM.")
    default_url: str | None = Field(
        default=None, description="Where the browser lands in the server, for example /lab."
    )
    environment: dict[str, str] = Field(default_factory=dict, description="Variables for the server.")
    agent_timeout_s: float | None = Field(
        default=None,
        gt=0,
        le=3600,
        description="Seconds until the guest agent has to answer. Left out: the provider's.",
    )
    handover: Literal["agent", "call-home", "auto"] = Field(
        default="agent",
        description="How the server gets its environment: through the guest agent, by the VM's calling the hub once where "
        "its template has no agent, or the second where the first does not answer. Default: agent.",
    )

    @field_validator("template", mode="before")
    @classmethod
    def _numbered(cls, value: object) -> object:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("cpu_type")
    @classmethod
    def _known_cpu(cls, value: str | None) -> str | None:
        if value is not None and not _CPU.fullmatch(value):
            raise ValueError(f"{value!r} is no type of processor: write for example host or x86-64-v2-AES")
        return value

    @field_validator("user")
    @classmethod
    def _account(cls, value: str) -> str:
        if not _ACCOUNT.fullmatch(value) or value == "root":
            raise ValueError(
                f"{value!r} is no account for students: write small letters and digits, for example student"
            )
        return value

    @field_validator("home")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        if value is not None and (
            not value.startswith("/") or value == "/" or "\0" in value or ".." in value.split("/")
        ):
            raise ValueError(f"{value!r} must be an absolute path, for example /home/student")
        return value

    @field_validator("ssh_keys")
    @classmethod
    def _public(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for key in value:
            if not _KEY.fullmatch(key.strip()):
                raise ValueError(f"{key[:20]!r}... is no public key: write the whole line of the .pub file")
        return tuple(key.strip() for key in value)

    @field_validator("default_url")
    @classmethod
    def _local(cls, value: str | None) -> str | None:
        if value is not None and (not value.startswith("/") or value.startswith("//") or "\0" in value):
            raise ValueError(f"{value!r} must begin with one slash, for example /lab")
        return value

    @field_validator("environment")
    @classmethod
    def _harmless(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not _VARIABLE.fullmatch(name) or "\0" in text:
                raise ValueError(f"{name!r} cannot be set: a name has letters, digits and _ only")
            if name.upper() in _RESERVED or name.upper().startswith(_RESERVED_PREFIXES):
                raise ValueError(f"{name} cannot be set by a profile: it is reserved")
        return value

    @model_validator(mode="before")
    @classmethod
    def _no_slice(cls, data: object) -> object:
        if isinstance(data, Mapping) and "gpu" in data:
            raise ValueError(devices.NO_SLICE)
        return data

    @model_validator(mode="after")
    def _possible(self) -> ProxmoxVariant:
        if self.os == "windows" and self.jupyter:
            raise ValueError("JupyterLab is started in Linux only: leave jupyter out, and students get the desktop")
        if not self.serves_jupyter and self.desktop is False:
            raise ValueError("without JupyterLab and without a desktop there is nothing to open: leave desktop out")
        if self.handover == "call-home" and not self.serves_jupyter:
            raise ValueError("handover call-home is for JupyterLab, which does not run here: leave handover out")
        if self.handover == "call-home" and not self.cloud_init:
            raise ValueError("handover call-home needs cloud-init in the template, which brings the VM its nonce")
        if self.handover == "call-home" and self.network == "dhcp":
            raise ValueError(
                "handover call-home needs a static address, which the hub knows the VM by: network: static"
            )
        if self.hibernate and self.pci is not None:
            raise ValueError(devices.NO_HIBERNATE)
        if self.balloon is not None and self.pci is not None:
            raise ValueError("a passed-through device (pci) needs all memory at its place: leave balloon out")
        if self.pci is not None and self.pci.primary and not self.serves_jupyter:
            raise ValueError(
                "with pci primary the desktop page shows nothing, and there is no JupyterLab: leave primary out"
            )
        return self

    @property
    def serves_jupyter(self) -> bool:
        """Whether a Jupyter server runs in the VM; else its desktop is all there is."""
        return self.os == "linux" if self.jupyter is None else self.jupyter

    @property
    def may_call_home(self) -> bool:
        """Whether its VM may call the hub for its environment, as far as the profile goes."""
        return self.handover != "agent" and self.serves_jupyter and self.cloud_init

    @property
    def offers_desktop(self) -> bool:
        """Whether the student may open its screen."""
        return not self.serves_jupyter if self.desktop is None else self.desktop

    @property
    def home_dir(self) -> str:
        """The home folder of the account in the VM."""
        return self.home or f"/home/{self.user}"
