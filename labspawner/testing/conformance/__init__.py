"""What every provider must pass, as a pytest class to derive from.

    from labspawner.testing.conformance import ProviderConformance

    class TestMine(ProviderConformance):
        entry_point = "mypackage:MyProvider"
        checkpoints = 2

Each test's name is what it asks. `base.ProviderCase` lists what a provider can or must say about itself; a test whose
question it cannot ask (a fault nobody can provoke, a feature the provider does not claim) is skipped, and says why.
Needs pytest and pytest-asyncio; call `pytest.register_assert_rewrite("labspawner.testing.conformance")` in conftest.py
for readable failures.
"""

from __future__ import annotations

from labspawner.testing.conformance.base import ProviderCase
from labspawner.testing.conformance.ending import Ending
from labspawner.testing.conformance.listing import Listing
from labspawner.testing.conformance.starting import Starting
from labspawner.testing.conformance.surviving import Surviving


class ProviderConformance(Starting, Ending, Listing, Surviving):
    """The whole kit."""


__all__ = ["ProviderCase", "ProviderConformance"]
