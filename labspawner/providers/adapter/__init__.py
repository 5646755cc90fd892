"""Any existing JupyterHub Spawner class as a provider."""

from labspawner.providers.adapter.options import AdapterSettings
from labspawner.providers.adapter.provider import AdapterProvider

__all__ = ["AdapterProvider", "AdapterSettings"]
