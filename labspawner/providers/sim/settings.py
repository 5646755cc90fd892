"""What the simulation can be told, in the hub's configuration, per profile variant, and while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from labspawner.errors import BadConfig
from labspawner.model import Json
from labspawner.sentences import Sentence
from labspawner.units import parse_bytes

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _size(value: object) -> object:
    return value if value is None else parse_bytes(value)


def _checked(text: str) -> str:
    parse_bytes(text)
    return text


Size = Annotated[int, BeforeValidator(_size)]
SizeText = Annotated[str, AfterValidator(_checked)]  # knobs are read again and again, so they stay as they were written


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SimCard(_Model):
    """One simulated GPU. memory: with its unit, for example `24GiB`."""

    uuid: str = Field(min_length=1)
    memory: Size


class SimHost(_Model):
    """One simulated machine. None: no limit. memory: with its unit, for example `64GiB`."""

    name: str = Field(min_length=1)
    servers: int | None = Field(default=None, ge=0)
    cpu: float | None = Field(default=None, ge=0)
    memory: Size | None = None
    cards: tuple[SimCard, ...] = ()


class LaunchKnobs(_Model):
    """How one launch goes; a profile's variant may set these too.

    start_s: a cold start, spread evenly over the stages; resume_s: from hibernation (None: a fifth of start_s).
    jitter: each stage takes its share of start_s times 1 - jitter to 1 + jitter, the same for the same seed and lease.
    stages: each leaves one more thing on the host, after its Checkpoint.
    fail_at: the stage after which the launch fails. fail_kind: `transient` (ProviderUnavailable), `permanent`
      (SetupError) or `crash` (the server dies: StartFailed).
    stall_at: the stage that does not end, until the time is up or the knob is taken back.
    die_after_ready_s: the server dies that long after it was ready.
    leaks: a launch that fails or is cancelled leaves its things behind, as a host does that vanishes meanwhile.
    """

    start_s: Seconds = 1.0
    resume_s: Seconds | None = None
    jitter: float = Field(default=0.0, ge=0, le=1)
    stages: tuple[str, ...] = ("reserve", "create", "boot")
    fail_at: str | None = None
    fail_kind: Literal["transient", "permanent", "crash"] = "crash"
    stall_at: str | None = None
    die_after_ready_s: Seconds | None = None
    leaks: bool = False

    @field_validator("stages")
    @classmethod
    def _named_once(cls, stages: tuple[str, ...]) -> tuple[str, ...]:
        if not stages or not all(stages) or len(set(stages)) != len(stages):
            raise ValueError("write at least one stage, each with a name of its own")
        return stages

    @model_validator(mode="after")
    def _known_stages(self) -> LaunchKnobs:
        for stage in (self.fail_at, self.stall_at):
            if stage is not None and stage not in self.stages:
                raise ValueError(f"there is no stage {stage!r}: write one of {', '.join(self.stages)}")
        return self


class Knobs(LaunchKnobs):
    """All that can be changed while the simulation runs.

    stop_s: how long a release takes, if its grace allows. release_fails, listing_fails, unavailable: those calls, or
    all of them, raise ProviderUnavailable; `observe` then answers UNKNOWN (release_fails does not touch it).
    busy, idle_for_s: what `activity` reports: work in progress, and how long ago the last sign of life was.
    uses_memory, uses_cpu (cores), uses_processes, uses_disk: what `usage` reports of each running server; None: nothing.
    """

    stop_s: Seconds = 0.0
    release_fails: bool = False
    listing_fails: bool = False
    unavailable: bool = False
    busy: bool | None = None
    idle_for_s: Seconds | None = None
    uses_memory: SizeText | None = None
    uses_cpu: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    uses_processes: int | None = Field(default=None, ge=0)
    uses_disk: SizeText | None = None


class SimSettings(Knobs):
    """The settings of a sim provider.

    hosts: default one without limits. hibernate: whether memory can be kept; park: whether STOP keeps a disk.
    seed: of the jitter. version: what its servers report as theirs; None: the installed JupyterHub's.
    """

    hosts: tuple[SimHost, ...] = Field(default=(SimHost(name="sim-1"),), min_length=1)
    hibernate: bool = True
    park: bool = False
    seed: int = 0
    version: str | None = None

    @field_validator("hosts")
    @classmethod
    def _told_apart(cls, hosts: tuple[SimHost, ...]) -> tuple[SimHost, ...]:
        names = [host.name for host in hosts]
        cards = [card.uuid for host in hosts for card in host.cards]
        if len(set(names)) != len(names) or len(set(cards)) != len(cards):
            raise ValueError("give each host a name, and each card a uuid, of its own")
        return hosts


_ModelT = TypeVar("_ModelT", bound=_Model)


def read(model: type[_ModelT], data: Mapping[str, Json], where: str) -> _ModelT:
    """`data` as a `model`. Raises BadConfig that names `where`, each wrong key, and what is wrong with it."""
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        raise BadConfig(Sentence("{where}: {problems}.", where=where, problems=_problems(error, model))) from error


def _problems(error: ValidationError, model: type[BaseModel]) -> str:
    problems = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            problems.append(f"there is no setting {key!r} (there are: {', '.join(sorted(model.model_fields))})")
        else:
            problems.append(f"{key}: {item['msg']}" if key else str(item["msg"]))
    return "; ".join(problems)
