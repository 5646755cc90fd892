"""How the hub takes in connections that come all at once."""

from __future__ import annotations

import logging
from typing import Any

from tornado import netutil

log = logging.getLogger(__name__)

WAITING = 1024
"""Connections that may wait to be taken in. Tornado's 128 are fewer than a class: the kernel turns the others away, and
they try again after 1, 3 and 7 seconds."""
AT_A_TIME = 25
"""Connections taken in per turn of the event loop, of about a millisecond each; tornado's 128 hold it up."""


def open_wide(http_server: Any) -> bool:
    """Let more connections wait in front of `http_server`, and take in fewer at a time; says whether that was possible."""
    sockets = getattr(http_server, "_sockets", None)
    if not isinstance(sockets, dict) or not isinstance(getattr(netutil, "_DEFAULT_BACKLOG", None), int):
        log.warning("this tornado has another shape: connections are taken in as it likes")
        return False
    for listening in sockets.values():
        listening.listen(WAITING)
    netutil._DEFAULT_BACKLOG = AT_A_TIME
    return True
