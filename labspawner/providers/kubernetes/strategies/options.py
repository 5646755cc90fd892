"""What an administrator may set for GPU slices on Kubernetes: `gpu` of the provider's settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from labspawner.model import CardPolicy
from labspawner.providers.kubernetes.wishes import Policy, SelfTest
from labspawner.units import parse_bytes, parse_percent

ResourceName = Annotated[
    str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?/[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$")
]
SchedulerName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
ClassName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MigInstance(_Settings):
    """One kind of MIG instance in a geometry. memory: MiB."""

    name: str = Field(default="", description="NVIDIA's name of the profile, for example 1g.5gb.")
    memory: int = Field(gt=0, description="MiB of each instance.")
    cores: int = Field(default=100, ge=1, le=100, description="Percent of the card's compute units of each instance.")
    count: int = Field(ge=1, le=16, description="How many of them the geometry has.")


class MigModel(_Settings):
    """How cards of some models can be cut by MIG, as HAMi's device config (`knownMigGeometries`) says."""

    models: tuple[str, ...] = Field(min_length=1, description="A card is meant whose name contains one of these.")
    geometries: tuple[tuple[MigInstance, ...], ...] = Field(min_length=1, description="In HAMi's order.")


class HamiSettings(_Settings):
    """How HAMi is set up on the cluster. The defaults are those of HAMi's own chart."""

    config_map: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9.-]{1,63}/[a-z0-9.-]{1,253}$",
        description="HAMi's device config as namespace/name, usually kube-system/hami-scheduler-device: resource names and "
        "MIG geometries are read there and beat what is set below. Needs the right to get that ConfigMap.",
    )
    count: ResourceName = Field(default="nvidia.com/gpu", description="Resource that counts cards.")
    memory: ResourceName = Field(default="nvidia.com/gpumem", description="Resource of a slice's memory, in MiB.")
    cores: ResourceName = Field(default="nvidia.com/gpucores", description="Resource of a slice's compute percent.")
    priority: ResourceName = Field(default="nvidia.com/priority", description="Resource of a slice's priority.")
    memory_factor: int = Field(
        default=1,
        ge=1,
        le=65536,
        description="MiB that one unit of the memory resource stands for (HAMi's memoryFactor).",
    )
    scheduler: SchedulerName = Field(
        default="hami-scheduler",
        description="Name of HAMi's scheduler. A pod that its webhook has not given this name fails at once.",
    )
    set_scheduler: bool = Field(
        default=False, description="Whether labspawner names the scheduler itself, where HAMi's webhook does not."
    )
    node_policy: Literal["binpack", "spread"] | None = Field(
        default=None, description="Which node HAMi prefers. Left out: HAMi's default."
    )
    mode: Literal["hami-core", "mig", "mps"] | None = Field(
        default=None, description="Only cards that HAMi runs in this mode. Left out: any."
    )
    mig: tuple[MigModel, ...] = Field(default=(), description="MIG geometries, where the ConfigMap cannot be read.")


class ClassSettings(_Settings):
    """One size of slice that the node agent offers, as `labspawner.io/gpu-<name>`."""

    memory: Annotated[int, BeforeValidator(parse_bytes)] = Field(description="Device memory of a slice.")
    cores: Annotated[int, BeforeValidator(parse_percent)] = Field(
        default=100, description="Upper bound on kernel time."
    )
    per_card: int | None = Field(default=None, ge=1, le=256, description="Slices on one card; read by the node agent.")
    policy: Policy = Field(default="fair", description="How `cores` is meant; what the node agent is set to.")


class SlicingSettings(_Settings):
    """How GPUs are shared on this cluster."""

    strategy: Literal["none", "hami", "device-plugin"] = Field(
        default="none",
        description="none: servers have no GPU; hami: HAMi shares the cards; device-plugin: labspawner's node agent does. "
        "`labspawner doctor` says which the cluster has.",
    )
    place: CardPolicy | None = Field(
        default=None, description="Which of the cards with room, where the profile does not say (hami)."
    )
    selftest: SelfTest = Field(
        default="require",
        description="Whether a slice is tried out before its student gets it, where the profile does not say.",
    )
    hami: HamiSettings = Field(default=HamiSettings(), description="Names that HAMi uses here.")
    classes: dict[ClassName, ClassSettings] = Field(
        default_factory=dict,
        description="Sizes of slices by name (device-plugin), for example {small: {memory: 6GiB, cores: 25}}.",
    )

    @field_validator("classes")
    @classmethod
    def _told_apart(cls, classes: dict[str, ClassSettings]) -> dict[str, ClassSettings]:
        seen: dict[tuple[int, int], str] = {}
        for name, size in classes.items():
            twin = seen.setdefault((size.memory, size.cores), name)
            if twin != name:
                raise ValueError(f"{twin!r} and {name!r} are the same size: which one would a profile get?")
        return classes
