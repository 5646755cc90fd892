"""The adapter keeps the contract with JupyterHub's own SimpleLocalProcessSpawner inside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import jupyterhub.spawner
import psutil
import pytest

from labspawner.errors import LabError, SetupError, StartFailed
from labspawner.model import Json, LaunchRequest
from labspawner.providers.adapter import AdapterProvider
from labspawner.providers.contract import Provider
from labspawner.testing import tinyserver
from labspawner.testing.conformance import ProviderConformance
from labspawner.testing.hub import free_ports
from labspawner.testing.requests import launch_request

COMMANDS = {
    "missing": ("no-such-command-anywhere",),
    "dies": tinyserver.command(die_after_s=0.0, exit_code=3, never_listen=True),
    "silent": tinyserver.command(never_listen=True),
}


@contextmanager
def no_process_table() -> Iterator[None]:
    """psutil looks for /proc elsewhere, and finds nothing."""
    before = psutil.PROCFS_PATH
    psutil.PROCFS_PATH = "/nonexistent"
    try:
        yield
    finally:
        psutil.PROCFS_PATH = before


class TestAdapter(ProviderConformance):
    entry_point = "labspawner.providers.adapter:AdapterProvider"
    settings: ClassVar[dict[str, Json]] = {"spawner_class": "jupyterhub.spawner:SimpleLocalProcessSpawner"}
    checkpoints = 2
    slow_stages = ("silent",)
    failing_stages = ("missing", "dies", "silent")
    concurrency = 8
    scarce_settings = {"max_servers": 1}

    @pytest.fixture(autouse=True)
    def _homes(self, tmp_path: Path) -> None:
        """Homes inside the test's folder, not in /tmp."""
        self.settings = {**self.settings, "config": {"home_dir_template": f"{tmp_path}/home"}}  # type: ignore[misc]

    @pytest.fixture(autouse=True)
    def _ports(self, _homes: None, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ports that nobody takes before a server listens; a hub that is killed is another process, with one server."""
        monkeypatch.setattr(jupyterhub.spawner, "random_port", lambda: free_ports(1)[0])
        if "_killed_" in request.node.name:
            self.settings["config"]["port"] = free_ports(1)[0]  # type: ignore[index,call-overload]

    def slow_request(self, stage: str, **changes: Any) -> LaunchRequest:
        return launch_request(**{"command": COMMANDS[stage], **changes})

    def failing_request(self, stage: str, **changes: Any) -> LaunchRequest:
        deadline = {"ready_timeout_s": 1.0} if stage == "silent" else {}
        return launch_request(**{"command": COMMANDS[stage], **deadline, **changes})

    def failing_error(self, stage: str) -> type[LabError]:
        return SetupError if stage == "missing" else StartFailed

    def dying_request(self, **changes: Any) -> LaunchRequest:
        return launch_request(**{"command": tinyserver.command(die_when_asked=True), **changes})

    @contextmanager
    def break_host(self, provider: Provider) -> Iterator[None]:
        with no_process_table():
            yield

    @contextmanager
    def break_listing(self, provider: Provider) -> Iterator[None]:
        with no_process_table():
            yield

    def listings(self, provider: Provider) -> int | None:
        assert isinstance(provider, AdapterProvider)
        return provider.host.walks

    async def left_on_host(self, root: Path) -> list[str]:
        return [str(process) for process in psutil.process_iter() if _home_of(process) == f"{root}/home"]


def _home_of(process: psutil.Process) -> str:
    try:
        return "" if process.status() == psutil.STATUS_ZOMBIE else str(process.environ().get("HOME", ""))
    except psutil.Error:
        return ""
