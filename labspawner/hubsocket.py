"""The hub's API at a unix socket, for servers in sandboxes that have no way to the hub's own address.

The hub process itself answers there, so it does not matter where the hub listens: on another address, on a socket, or
not yet. Only the API and our own pages are served; whoever asks needs a token there as everywhere.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from pathlib import Path

from tornado.httpserver import HTTPServer
from tornado.routing import PathMatches, Rule, RuleRouter
from tornado.web import Application

_BACKLOG = 1024
_DRAFT = ".new"


class HubSocket:
    """Serves `<hub prefix>/api` and `<hub prefix>/labspawner` at a unix socket while it is open.

    What forwarded-for headers say is not believed: nobody between a server and this socket adds one.
    """

    def __init__(self, application: Application, *, hub_prefix: str, path: Path) -> None:
        """Listen at `path` now; a socket that an earlier hub left there is replaced at once. Raises OSError.

        hub_prefix: starts and ends with a slash. The socket itself is open to all, because a keeper has given up every
        right by the time it connects: the folders above keep others out.
        """
        self.path = path
        listening = _listen(path)
        self._inode = path.stat().st_ino
        served = PathMatches(rf"{re.escape(hub_prefix)}(?:api|labspawner)(?:/.*)?$")
        self._server = HTTPServer(RuleRouter([Rule(served, application)]), xheaders=False)
        self._server.add_socket(listening)

    async def close(self) -> None:
        """Stop listening, and remove the socket unless another hub has put its own there. May be repeated."""
        self.remove()
        self._server.stop()
        await self._server.close_all_connections()

    def remove(self) -> None:
        """Remove the socket, and its folder when it is empty, unless another hub has put its own there: the hub ends."""
        with contextlib.suppress(OSError):
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()
                self.path.parent.rmdir()


def _listen(path: Path) -> socket.socket:
    """A listening socket at `path`, from one moment to the next. Longer paths than a socket's name allows are fine."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder = -1
    try:
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path.name + _DRAFT, dir_fd=folder)
        listening.bind(f"/proc/self/fd/{folder}/{path.name}{_DRAFT}")
        os.chmod(path.name + _DRAFT, 0o666, dir_fd=folder)  # noqa: S103 - see the class
        listening.setblocking(False)
        listening.listen(_BACKLOG)
        os.rename(path.name + _DRAFT, path.name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        listening.close()
        raise
    finally:
        if folder >= 0:
            os.close(folder)
    return listening
