"""Puts the extension into a running Jupyter server."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, MutableMapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tornado.ioloop import PeriodicCallback

from labspawner.extension import slices
from labspawner.extension.evidence import SAVES, Evidence
from labspawner.extension.handlers import ROUTES
from labspawner.extension.hub import Address, Hub
from labspawner.extension.kernels import Kernels, asking
from labspawner.extension.reporter import Reporter

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp

LEASE_MARK = "LABSPAWNER_LEASE_ID"
FIRST_EVERY = "LABSPAWNER_REPORT_EVERY_S"
PAGE_FLAG = "labspawner"  # tells our part in the browser that there is somebody to ask
_COMMAND = "labspawner"
_FUNCTION = """() {{
 if type -P labspawner > /dev/null; then command labspawner "$@"; else {python} -m labspawner.extension "$@"; fi
}}"""
_LOOK_EVERY_MS = 1000


def load(server: ServerApp) -> None:
    """Watch, report, and answer the lab; nothing at all where no labspawner hub started this server."""
    address = Address.of(os.environ)
    if address is None or not os.environ.get(LEASE_MARK):
        server.log.debug("labspawner: not started by a labspawner hub, nothing to do")
        return
    slices.begin_test(os.environ)
    try:
        Watch(server, address, os.environ).begin()
    except Exception:  # a server without evidence is better than no server
        server.log.warning("labspawner: no reports from this server", exc_info=True)


class Watch:
    """The extension in one server. It lives as long as the server does, and holds no task between its looks."""

    def __init__(self, server: ServerApp, address: Address, environment: Mapping[str, str]) -> None:
        self._server = server
        self.hub = Hub(address)
        self.kernels = Kernels(server.kernel_manager, _now, self._changed)
        settings = server.web_app.settings
        self.evidence = Evidence(
            kernels=self.kernels,
            sessions=server.session_manager,
            terminal_manager=lambda: settings.get("terminal_manager"),  # its extension may load after ours
            clock=_now,
            refusals=slices.Refusals(environment).count,
        )
        self.reporter = Reporter(
            self.hub,
            collect=self.evidence.report,
            state=self.evidence.state,
            clock=time.monotonic,
            every_s=_seconds(environment.get(FIRST_EVERY, "")),
        )
        self._looks = PeriodicCallback(self.look, _LOOK_EVERY_MS)

    def begin(self) -> None:
        """Take the place in the server; the first look is when its event loop runs."""
        settings: dict[str, Any] = self._server.web_app.settings
        base = re.escape(str(settings["base_url"]).rstrip("/") + "/labspawner/")
        tools: dict[str, Any] = {
            "reporter": self.reporter, "evidence": self.evidence, "hub": self.hub, "now_s": time.monotonic
        }  # fmt: skip
        web_app: Any = self._server.web_app
        web_app.add_handlers(".*$", [(base + name, handler, tools) for name, handler in ROUTES.items()])
        events: Any = self._server.event_logger  # its annotation of a listener is not how it calls one
        events.add_listener(schema_id=SAVES, listener=self.evidence.saved)
        connection = settings.get("kernel_websocket_connection_class")
        if connection is not None:
            settings["kernel_websocket_connection_class"] = asking(connection, self.kernels.log)
        settings.setdefault("page_config_data", {})[PAGE_FLAG] = "on"
        self._server.io_loop.add_callback(self._looks.start)
        offer_command(os.environ)

    async def look(self) -> None:
        """One look, and a report when it is time. A fault of ours costs this look and no more."""
        try:
            self.evidence.look()
            await self.reporter.tick()
        except Exception:
            self._server.log.debug("labspawner: a look failed", exc_info=True)

    def _changed(self) -> None:
        """A kernel became busy or idle: look now, not in a second."""
        self._server.io_loop.add_callback(self.reporter.tick)


def offer_command(environment: MutableMapping[str, str]) -> None:
    """Let terminals find `labspawner hold`: a server may run without the folder of its own interpreter in PATH.

    A login shell makes a PATH of its own, so bash gets a function too; it leaves a command that is found alone.
    """
    path, folder = environment.get("PATH", os.defpath), str(Path(sys.executable).parent)
    if shutil.which(_COMMAND, path=path) is None and shutil.which(_COMMAND, path=folder) is not None:
        environment["PATH"] = os.pathsep.join([path, folder])  # last: which `python` is found does not change
    environment[f"BASH_FUNC_{_COMMAND}%%"] = _FUNCTION.format(python=shlex.quote(sys.executable))


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 60.0
