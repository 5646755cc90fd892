"""What an administrator may set for the GPU slices of the local provider, and a profile for its own."""

from __future__ import annotations

import os
import re
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from labspawner.gpu.cards import DEFAULT_SPLITS
from labspawner.gpu.limits import CorePolicy
from labspawner.gpu.pretend import parse_cards
from labspawner.gpu.watchdog import TOLERANCE_BYTES
from labspawner.model import CardPolicy
from labspawner.units import parse_bytes

PRETEND_GPU_ENV = "LABSPAWNER_PRETEND_GPU"
"""Set by `labspawner up --pretend-gpu`; the default of `pretend`."""

Policy = Literal["fair", "force", "off"]
SelfTest = Literal["require", "warn", "off"]
_UUID = re.compile(r"(GPU|MIG)-[A-Za-z0-9/-]{1,59}", re.ASCII)


class GpuSettings(BaseModel):
    """How the cards of this machine are shared. The default is to share all that there are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cards: Literal["auto"] | tuple[str, ...] = Field(
        default="auto",
        description="Which cards are shared: all (auto), or those with these UUIDs, as `labspawner gpu ls` shows them. "
        "An empty list: none.",
    )
    policy: CardPolicy = Field(
        default=CardPolicy.BINPACK,
        description="Which of the cards with room a slice goes to: the fullest (binpack, so that large slices find whole "
        "cards), the emptiest (spread), or by distance (topology).",
    )
    splits: int = Field(default=DEFAULT_SPLITS, ge=1, le=256, description="Most slices on one card.")
    cores_policy: Policy = Field(
        default="fair", description="How `cores` is meant where the profile does not say; see a profile's `policy`."
    )
    selftest: SelfTest = Field(
        default="require",
        description="Whether a slice is tried out before its student gets it, where the profile does not say. require: "
        "one that does not hold fails the start; warn: it is shown to the student; off: nobody looks.",
    )
    oversubscribe: bool = Field(
        default=False,
        description="Whether memory beyond a slice is taken from the host's instead of being refused. Slow where used.",
    )
    oom_killer: bool = Field(
        default=False, description="Whether a process that holds more than its slice, past the library, is ended by it."
    )
    watchdog: Literal["kill", "report", "off"] = Field(
        default="kill",
        description="What happens to a process that holds more of a card than its slice allows: it is ended, or only "
        "written into the log.",
    )
    tolerance: Annotated[int, BeforeValidator(parse_bytes)] = Field(
        default=TOLERANCE_BYTES,
        description="How much more than its slice a server may be seen to hold before the watchdog acts; 2 % of the slice "
        "where that is more. The kernel's own limit, where there is one, stands at the same mark.",
    )
    pretend: str | None = Field(
        default_factory=lambda: os.environ.get(PRETEND_GPU_ENV) or None,
        validate_default=True,
        description="Cards that do not exist, for a demo, for example 2x24GiB: nothing is computed on them. Default: what "
        f"the variable {PRETEND_GPU_ENV} says, which `labspawner up --pretend-gpu` sets; else the real ones.",
    )

    @field_validator("cards")
    @classmethod
    def _uuids(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for uuid in value if isinstance(value, tuple) else ():
            if not _UUID.fullmatch(uuid):
                raise ValueError(
                    f"{uuid!r} is no card: write its UUID (GPU-... or MIG-...), which `labspawner gpu ls` shows"
                )
        return value

    @field_validator("pretend")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        return None if value is None else parse_cards(value)


class GpuVariant(BaseModel):
    """What a profile says of its slice beside its size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: Policy | None = Field(default=None, description="How `cores` is meant.")
    selftest: SelfTest | None = Field(default=None, description="Whether the slice is tried out before it is given.")


def core_policy(policy: Policy) -> CorePolicy:
    """A policy as courses name it, as the library does."""
    return {"fair": CorePolicy.FAIR, "force": CorePolicy.CAP, "off": CorePolicy.OFF}[policy]
