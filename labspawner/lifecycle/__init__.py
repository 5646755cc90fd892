"""The life of a server: lease, admission, launch, running, release. Knows nothing of JupyterHub or traitlets.

The lease is written before the first call to a provider, and every checkpoint before the provider goes on; so whatever
exists outside can be found and freed by any later hub process. One `Engine` per hub; all of it on one event loop.
"""

from labspawner.lifecycle.book import Notice
from labspawner.lifecycle.engine import Engine, EngineSettings
from labspawner.lifecycle.orders import Order, Report, Variant

__all__ = ["Engine", "EngineSettings", "Notice", "Order", "Report", "Variant"]
