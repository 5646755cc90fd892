"""What a profile says of its GPU slice beside its size, on Kubernetes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from labspawner.model import CardPolicy, Json
from labspawner.providers.options import read_options

Policy = Literal["fair", "force", "off"]
SelfTest = Literal["require", "warn", "off"]


class GpuWish(BaseModel):
    """How a profile wants its slice: `settings["gpu"]` of a launch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: Policy | None = Field(default=None, description="How `cores` is meant.")
    selftest: SelfTest | None = Field(default=None, description="Whether the slice is tried out before it is given.")
    cards: int = Field(default=1, ge=1, le=16, description="Slices on so many different cards; each of the given size.")
    type: tuple[str, ...] = Field(
        default=(), max_length=8, description="Only cards whose name contains one of these, for example A100."
    )
    not_type: tuple[str, ...] = Field(default=(), max_length=8, description="No card whose name contains one of these.")
    place: CardPolicy | None = Field(
        default=None, description="Which of the cards with room: binpack, spread, topology."
    )
    priority: Literal["high", "low"] | None = Field(default=None, description="Whose work goes first on a shared card.")

    @classmethod
    def read(cls, settings: Mapping[str, Json], *, where: str) -> GpuWish:
        """The wish in the settings of a variant. Raises BadConfig for a key that does not exist or cannot be read."""
        said = settings.get("gpu")
        return read_options(cls, said if isinstance(said, dict) else {}, where=where)
