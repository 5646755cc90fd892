"""`labspawner bench gpu`: the lines of what a slice promises. Storms are short here, and no time is asserted."""

from __future__ import annotations

import pytest

from labspawner.cli.bench.gpu_promises import promises
from labspawner.testing.slices import PretendCard, Tools


@pytest.fixture(scope="module")
def rows(native):
    with PretendCard(Tools(folder=native.folder)) as card:
        return {row.what: row for row in promises(card, seconds=1)}


def test_every_promise_has_a_line_and_is_kept(rows):
    timed = {what for what in rows if "stall" in what}

    assert len(rows) == 6
    assert len(timed) == 1
    assert [what for what, row in rows.items() if not row.reached and what not in timed] == []


def test_a_stall_is_told_in_milliseconds(rows):
    (row,) = (row for what, row in rows.items() if "stall" in what)

    assert row.ours.endswith(" ms")
    assert row.target == "<= 10 ms"
