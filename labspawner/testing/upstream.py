"""LabSpawner in the shape that JupyterHub's own test suite expects of `SimpleLocalProcessSpawner`.

`tests/upstream/sut_plugin.py` puts it in that class's place before the suite is imported, so MockSpawner and its kin
derive from it. Everything but the choice of a profile runs as in production: lease, admission, local provider.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jupyterhub.spawner import Spawner
from traitlets import Integer, Unicode, default
from traitlets.config import Config

from labspawner.lifecycle import Order, Variant
from labspawner.providers.local import LocalProvider
from labspawner.runtime import KEY, Runtime
from labspawner.spawner import LabSpawner


class ConformanceSpawner(LabSpawner):
    """One built-in profile on the local provider, no courses; `pid` in the state, as the suite's models have it."""

    home_dir = Unicode(help="as SimpleLocalProcessSpawner has it; unused: the provider makes homes").tag(config=True)
    interrupt_timeout = Integer(10).tag(config=True)
    term_timeout = Integer(5).tag(config=True)
    kill_timeout = Integer(5).tag(config=True)

    @default("options_form")
    def _default_options_form(self) -> str:
        return ""

    @default("options_from_form")
    def _default_options_from_form(self) -> Any:
        return self._default_plain_options

    @default("apply_user_options")
    def _default_apply_user_options(self) -> None:
        return None

    @default("env_keep")
    def _default_env_keep(self) -> list[str]:
        return ["PATH", "PYTHONPATH", "VIRTUAL_ENV", "LANG", "LC_ALL"]

    @default("cmd")
    def _default_cmd(self) -> list[str]:
        return [sys.executable, "-m", "jupyterhub.singleuser"]

    @staticmethod
    def _default_plain_options(form_data: Mapping[str, Any]) -> dict[str, Any]:
        return dict(form_data)

    @property
    def runtime(self) -> Runtime:
        """Its own folder per hub, so that suites do not meet."""
        found = self.user.settings.get(KEY)
        if isinstance(found, Runtime):
            return found
        folder = Path(tempfile.mkdtemp(prefix="labspawner-upstream-"))
        return Runtime.of(
            self.user.settings,
            Config(
                {
                    "Labspawner": {
                        "hub_id": folder.name[-20:].lower().replace("_", "x"),
                        "data_dir": str(folder),
                        "courses_dir": str(folder),
                        "release_grace_s": 1.0,
                        "observe_interval_s": 0.1,
                    }
                }
            ),
        )

    def user_env(self, env: dict[str, str]) -> dict[str, str]:
        """What subclasses of the suite extend."""
        return env

    def get_env(self) -> dict[str, str]:
        return self.user_env(super().get_env())

    def make_order(self) -> Order:
        """The built-in profile, whatever the options say."""
        return Order(
            user=self.user.name,
            server_name=self.name,
            profile="upstream/plain",
            variants=(Variant(provider="local", settings={"ready": "started"}, ready_timeout_s=60.0),),
            base_url=self.base_url_of_server(),
            command=(*self.cmd, *self.get_args()),
            environment=self.environment_for_server(),
        )

    async def _start(self, order: Order) -> Any:
        """The suite unpacks (ip, port), the older form of the answer."""
        parts = urlsplit(await super()._start(order))
        return parts.hostname, parts.port

    async def poll(self) -> int | None:
        """The suite looks at the exit status; in production nobody does, and a later hub could not know it."""
        lease_id = self._lease_id
        status = await super().poll()
        local = self.runtime.engine.providers["local"]
        if status is None or lease_id is None or not isinstance(local, LocalProvider):
            return status
        return local.exit_status(lease_id) or status

    async def progress(self) -> AsyncIterator[dict[str, object]]:
        """JupyterHub's own single line: the suite compares its exact words. Ours is tested in tests/hub."""
        async for event in Spawner.progress(self):
            yield event

    def get_state(self) -> dict[str, Any]:
        """The suite compares whole models, so `pid` stands alone; the lease is found by user and server name."""
        book = self.runtime.engine.book
        lease = book.get(self._lease_id) if self._lease_id else None
        return {"pid": lease.handle.data.get("pid", 0)} if lease is not None and lease.handle is not None else {}
