"""Clusters for tests: `pve`, one of three nodes, and `new_pve` for more or other ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from labspawner.providers.proxmox import reserving
from labspawner.testing.pve import PveDouble


@pytest.fixture(autouse=True)
def _patient_knocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses of a double answer or refuse: silence is only a machine under load."""
    monkeypatch.setattr(reserving, "_KNOCK_S", 60.0)


@pytest.fixture
def new_pve() -> Iterator[Callable[..., PveDouble]]:
    """Make a cluster; all are closed after the test, which fails if a double itself failed."""
    with ExitStack() as stack:

        def make(**options: Any) -> PveDouble:
            return stack.enter_context(PveDouble(**options))

        yield make


@pytest.fixture
def pve(new_pve: Callable[..., PveDouble]) -> PveDouble:
    """A cluster of pve1, pve2 and pve3 with its clock a thousand times as fast as ours."""
    return new_pve()
