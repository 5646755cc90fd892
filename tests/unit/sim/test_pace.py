"""What the simulation decides to wait, whatever the machine makes of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labspawner.model import LeaseId
from labspawner.providers.sim.pace import stage_s
from labspawner.providers.sim.settings import LaunchKnobs

STAGES = ("reserve", "create", "boot", "serve")
LEASE = LeaseId("lease-a")


def waits(seed: int = 3, lease_id: LeaseId = LEASE, *, resumes: bool = False, **knobs: float) -> list[float]:
    told = LaunchKnobs(stages=STAGES, **knobs)
    return [stage_s(told, stage, seed=seed, lease_id=lease_id, resumes=resumes) for stage in STAGES]


def test_a_start_is_spread_evenly_over_its_stages():
    assert waits(start_s=2.0) == [0.5] * 4


def test_jitter_is_the_same_for_the_same_seed_and_lease():
    assert waits(start_s=2.0, jitter=1.0) == waits(start_s=2.0, jitter=1.0)


def test_jitter_differs_by_seed_by_lease_and_by_stage():
    ours = waits(start_s=2.0, jitter=1.0)

    assert len(set(ours)) == len(STAGES)
    assert ours != waits(seed=4, start_s=2.0, jitter=1.0)
    assert ours != waits(lease_id=LeaseId("lease-b"), start_s=2.0, jitter=1.0)


@given(st.integers(), st.text(max_size=9), st.floats(0, 1), st.booleans())
def test_jitter_stays_within_its_bounds(seed: int, lease: str, jitter: float, resumes: bool):
    share = 0.1 if resumes else 0.5

    for wait in waits(seed, LeaseId(lease), resumes=resumes, start_s=2.0, jitter=jitter):
        assert share * (1 - jitter) - 1e-9 <= wait <= share * (1 + jitter) + 1e-9


def test_resuming_takes_a_fifth_of_a_start_unless_told_otherwise():
    assert waits(resumes=True, start_s=2.0) == [pytest.approx(0.1)] * 4
    assert waits(resumes=True, start_s=2.0, resume_s=8.0) == [2.0] * 4
    assert waits(resumes=True, start_s=2.0, resume_s=0.0) == [0.0] * 4
