"""How long a simulated launch takes: decided from what it was told, the same each time."""

from __future__ import annotations

import random

from labspawner.model import LeaseId
from labspawner.providers.sim.settings import LaunchKnobs


def stage_s(knobs: LaunchKnobs, stage: str, *, seed: int, lease_id: LeaseId, resumes: bool) -> float:
    """How many seconds a launch takes for `stage`; resumes: it wakes a hibernated server."""
    start_s = knobs.start_s
    if resumes:
        start_s = knobs.start_s / 5 if knobs.resume_s is None else knobs.resume_s
    chance = random.Random(f"{seed}/{lease_id}/{stage}")  # noqa: S311 - a simulation, not a secret
    return start_s / len(knobs.stages) * (1 + knobs.jitter * chance.uniform(-1, 1))
