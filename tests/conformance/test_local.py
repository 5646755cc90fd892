"""The local provider keeps the contract, with real processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from labspawner.errors import LabError, SetupError, StartFailed
from labspawner.model import Feature, LaunchRequest
from labspawner.providers.contract import Provider
from labspawner.providers.local import LocalProvider
from labspawner.testing import tinyserver
from labspawner.testing.conformance import ProviderConformance
from labspawner.testing.requests import launch_request

COMMANDS = {
    "missing": ("no-such-command-anywhere",),
    "dies": tinyserver.command(say="Traceback: boom", die_after_s=0.0, exit_code=3, never_listen=True),
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


def marked_processes(root: Path) -> list[str]:
    """Every process on this machine that works for a test in `root`, found without any code of ours."""
    left = []
    for process in psutil.process_iter():
        try:
            marked = "LABSPAWNER_LEASE_ID" in process.environ() and str(root) in process.environ().get("HOME", "")
        except psutil.Error:
            continue
        if marked and process.status() != psutil.STATUS_ZOMBIE:
            left.append(f"{process.pid} {process.cmdline()}")
    return left


class TestLocal(ProviderConformance):
    entry_point = "labspawner.providers.local:LocalProvider"
    features = frozenset({Feature.LOGS})
    checkpoints = 3
    slow_stages = ("silent",)
    failing_stages = ("missing", "dies", "silent")
    concurrency = 8
    scarce_settings = {"max_servers": 1}

    def slow_request(self, stage: str, **changes: Any) -> LaunchRequest:
        return launch_request(**{"command": COMMANDS[stage], **changes})

    def failing_request(self, stage: str, **changes: Any) -> LaunchRequest:
        return launch_request(**{"command": COMMANDS[stage], "ready_timeout_s": 1.0, **changes})

    def failing_error(self, stage: str) -> type[LabError]:
        return SetupError if stage == "missing" else StartFailed

    def failing_words(self, stage: str) -> str:
        return "Traceback: boom" if stage == "dies" else ""

    def dying_request(self, **changes: Any) -> LaunchRequest:
        return launch_request(**{"command": tinyserver.command(die_after_s=1.0), **changes})

    @contextmanager
    def break_host(self, provider: Provider) -> Iterator[None]:
        with no_process_table():
            yield

    @contextmanager
    def break_listing(self, provider: Provider) -> Iterator[None]:
        with no_process_table():
            yield

    def listings(self, provider: Provider) -> int | None:
        assert isinstance(provider, LocalProvider)
        return provider.host.walks

    async def left_on_host(self, root: Path) -> list[str]:
        return marked_processes(root)
