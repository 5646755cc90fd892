"""What a student asked for, checked and complete."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from labspawner.model import Json, Progress, Resources

Report = Callable[[Progress], None]

ROLL_BACK_S = 30.0
"""Seconds that a start may take beyond its own deadlines, to undo what it did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to run what was ordered. ready_timeout_s: seconds from admission until the server must answer. index: which
    of its profile's variants it is, from 0, where it is not its place in the order. pinned: what the lease remembers of
    it, over what the order says."""

    provider: str
    resources: Resources = Resources()
    settings: Mapping[str, Json] = field(default_factory=dict)
    ready_timeout_s: float = 120.0
    index: int | None = None
    pinned: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Everything the engine needs to start one server.

    variants: at least one, in order of preference; the others are tried only where `fallback` says so, or where the
    student picks one of them while the first is waited for, which `ask` allows. wait_s: seconds to stand in line when
    nothing is free; 0 fails at once. per_user: how many servers of this profile one student may have; None is no limit.
    pinned: the profile as it is now, kept on the lease.
    """

    user: str
    server_name: str
    profile: str
    variants: tuple[Variant, ...]
    base_url: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    profile_rev: str = ""
    pinned: Mapping[str, Json] = field(default_factory=dict)
    fallback: bool = False
    ask: bool = False
    wait_s: float = 0.0
    per_user: int | None = None

    def __post_init__(self) -> None:
        if not self.variants:
            raise ValueError(f"an order needs a variant: {self.profile}")

    @property
    def start_timeout_s(self) -> float:
        """The longest that a launch of this order can take, with the time to roll back."""
        return self.wait_s + max(variant.ready_timeout_s for variant in self.variants) + ROLL_BACK_S
