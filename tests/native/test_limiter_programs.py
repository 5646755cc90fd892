"""Programs that a core limit must not disturb: the driver's rules hold as they do without it."""

from __future__ import annotations

import subprocess

import pytest

PROGRAMS = (
    "a_capture_holds_what_was_launched_and_nothing_else",
    "another_threads_launches_do_not_break_a_capture",
    "contexts_come_and_go_with_their_events",
    "a_reset_device_can_be_used_again",
    "more_streams_than_lanes_are_served",
    "a_stream_that_waits_for_the_program_is_no_deadlock",
    "threads_launch_side_by_side",
    "a_fork_in_the_middle_harms_nobody",
    "the_drivers_errors_pass_through",
)


@pytest.mark.parametrize("case", PROGRAMS)
@pytest.mark.parametrize("cores_pct", [None, 100, 30])
def test_a_limit_does_not_disturb(card, case, cores_pct):
    where = card.slice("a", cores_pct) if cores_pct else None
    done = subprocess.run(
        [card.tools.program("limit_driver"), case],
        env=where.environment if where else card.environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
