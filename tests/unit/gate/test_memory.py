from __future__ import annotations

import gc

from labspawner.gate import relax
from labspawner.gate.memory import THRESHOLDS


def test_a_relaxed_collector_still_collects_but_seldom():
    before = gc.get_threshold()
    try:
        relax()

        assert gc.isenabled()
        assert gc.get_threshold() == THRESHOLDS
        assert gc.get_freeze_count() > 0
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
