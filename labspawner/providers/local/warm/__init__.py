"""A server in a fraction of a second: forks of an interpreter that has imported JupyterLab already.

For the provider: `Zygotes` (open, start, memory, close), `StartOrder`, `Started`.

`program.py` and wire, linux, zygote, preload, keeper, server, fresh and pumps beside it are the program that any
interpreter runs; they use the standard library only, and syntax of Python 3.9. The process tree:

    hub -> zygote (one per interpreter) -> keeper (one per server, outside the sandbox) -> server (inside)

pumps.py is the network's. The keeper uses it so, where the order has a network plan:

    pumps = Pumps(plan)
    pumps.open_outside(pid)  # in the host's namespaces, with all rights of the hub: bind on the host, start helpers
                             # (slirp4netns); pid: a process inside the sandbox, as the host counts
    ...the keeper enters the sandbox's network namespace (and the user namespace that owns it) for good...
    pumps.open_inside()      # bind inside, set routes; CAP_NET_ADMIN there
    ...the server is forked; the keeper takes the student's uid and drops all capabilities...
    await pumps.run()        # until cancelled; ends the helpers and closes all in `finally`
    pumps.close()            # the same at once, where run() was never called

Anything raised by open_outside and open_inside fails the start.
"""

from labspawner.providers.local.warm.memory import Memory
from labspawner.providers.local.warm.orders import Started, StartOrder
from labspawner.providers.local.warm.zygotes import Zygotes

__all__ = ["Memory", "StartOrder", "Started", "Zygotes"]
