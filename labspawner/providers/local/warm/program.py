"""The program that an interpreter runs as a zygote: `<python> -I program.py <settings>`. Standard library only.

The files beside it are one package under a name of its own, so that nothing in the interpreter's environment is
shadowed by them, and nothing of the hub's environment is needed.
"""

from __future__ import annotations

import importlib
import os
import sys
import types

PACKAGE = "_labspawner_warm"


def main() -> None:
    """Be a zygote; in a fork of it, be the keeper of a server; in a fork of that, be the server."""
    folder = os.path.dirname(os.path.abspath(__file__))
    package = types.ModuleType(PACKAGE)
    package.__path__ = [folder]
    sys.modules[PACKAGE] = package
    zygote = importlib.import_module(PACKAGE + ".zygote")
    connection = zygote.serve(sys.argv[1])
    if connection is None:
        return
    keeper = importlib.import_module(PACKAGE + ".keeper")
    job = keeper.keep(connection)  # comes back in the server only
    server = importlib.import_module(PACKAGE + ".server")
    server.run(job)


if __name__ == "__main__":
    main()
