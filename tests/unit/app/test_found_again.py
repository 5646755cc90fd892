"""A hub that restarts on a busy machine ends no server because it is silent for a while."""

from __future__ import annotations

import pytest

from labspawner.spawner import FOUND_AGAIN_S, LabSpawner


@pytest.mark.parametrize(("configured", "given"), [(30, FOUND_AGAIN_S), (900, 900)])
def test_a_server_of_before_the_restart_is_given_minutes_to_answer_and_never_less_than_configured(configured, given):
    spawner = LabSpawner(http_timeout=configured)

    spawner.load_state({"lease_id": "a-lease"})

    assert spawner.http_timeout == given


@pytest.mark.parametrize("state", [{}, {"lease_id": None}, {"pid": 7}])
def test_a_new_server_has_what_is_configured(state):
    spawner = LabSpawner(http_timeout=30)

    spawner.load_state(state)

    assert spawner.http_timeout == 30
