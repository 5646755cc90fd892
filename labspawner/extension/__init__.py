"""What runs inside every server: it tells the hub what the server is used for, and the student what the hub decided.

It imports nothing else of labspawner and needs nothing but jupyter_server, so that it works in any image and in any
interpreter from Python 3.8. Importing this package imports no part of Jupyter; only loading it as a server extension
does. Where no labspawner hub started the server, it does nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "labspawner.extension"}]


def _load_jupyter_server_extension(server: ServerApp) -> None:
    """Begin to watch and to report, where a labspawner hub started this server; a fault of ours never stops it."""
    from labspawner.extension.app import load  # noqa: PLC0415 - the hub imports this package without Jupyter

    load(server)
