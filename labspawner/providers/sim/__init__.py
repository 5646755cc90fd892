"""A provider that pretends: for tests, demos and benches. Its world is one file, its servers answer HTTP.

It can be told to be slow, to fail, to stall, to vanish and to leak. It isolates nothing and checks no tokens: never
give it to students.
"""

from __future__ import annotations

from labspawner.providers.sim.faults import write_faults
from labspawner.providers.sim.provider import SimProvider
from labspawner.providers.sim.settings import SimSettings

__all__ = ["SimProvider", "SimSettings", "write_faults"]
