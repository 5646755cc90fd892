"""The local provider keeps the contract, with real processes, on every rung that this machine allows."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest
from gpudouble import a_library

from labspawner.errors import LabError, SetupError, StartFailed
from labspawner.gpu.libvgpu import LIBRARY_ENV
from labspawner.model import Feature, LaunchRequest, Resources, Slice
from labspawner.providers.contract import Provider
from labspawner.providers.local import LocalProvider
from labspawner.providers.local.ladder import find_sandbox
from labspawner.providers.local.limits import probe
from labspawner.testing import tinyserver
from labspawner.testing.conformance import ProviderConformance
from labspawner.testing.processes import lives
from labspawner.testing.requests import launch_request

SLICE = Resources(gpu=Slice(memory_bytes=2**30, compute_pct=5))
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


def left_of(hub_id: str) -> list[str]:
    """Everything on this machine that works for a hub, or for one of its kin, found without any code of ours."""
    left = []
    for process in psutil.process_iter():
        try:
            marked = process.environ().get("LABSPAWNER_HUB_ID", "").startswith(hub_id)
        except psutil.Error:
            continue
        if marked and lives(process):
            left.append(str(process))
    patterns = (
        f"/run/labspawner/{hub_id}*/*",
        f"/tmp/labspawner-{os.geteuid()}/{hub_id}*/*",
        f"/sys/fs/cgroup/*/labspawner/{hub_id}*/*/*",
        f"/sys/fs/cgroup/labspawner/{hub_id}*/*/*",
    )
    folders = [path for pattern in patterns for path in glob.glob(pattern) if Path(path).is_dir()]
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if hub_id in line]
    return [*left, *folders, *mounts]


@pytest.fixture(scope="session")
def findings() -> dict[str, str]:
    """What does not work here, by the name of the rung; asked once."""
    bwrap = find_sandbox()
    missing = {"rlimit": "" if bwrap is None else str(bwrap), "plain": ""}
    control = probe(hub_id="kit-probe", provider="local")
    missing["cgroup"] = missing["rlimit"] or ("" if control.groups is not None else control.words)
    return missing


class OnARung(ProviderConformance):
    """rung: the value of the setting `sandbox`."""

    rung: ClassVar[str]
    entry_point = "labspawner.providers.local:LocalProvider"
    features = frozenset({Feature.LOGS, Feature.REPORTS, Feature.GPU_SLICES})
    checkpoints = 3
    slow_stages = ("silent",)
    failing_stages = ("missing", "dies", "silent")
    concurrency = 8
    scarce_settings = {"max_servers": 1}

    @pytest.fixture(autouse=True)
    def _allowed(self, findings: dict[str, str]) -> None:
        if findings[self.rung]:
            pytest.skip(f"no {self.rung} here: {findings[self.rung]}")

    def slow_request(self, stage: str, **changes: Any) -> LaunchRequest:
        return launch_request(**{"command": COMMANDS[stage], **changes})

    def failing_request(self, stage: str, **changes: Any) -> LaunchRequest:
        deadline = {"ready_timeout_s": 1.0} if stage == "silent" else {}
        return launch_request(**{"command": COMMANDS[stage], **deadline, **changes})

    def failing_error(self, stage: str) -> type[LabError]:
        return SetupError if stage == "missing" else StartFailed

    def failing_words(self, stage: str) -> str:
        return "Traceback: boom" if stage == "dies" else ""

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
        assert isinstance(provider, LocalProvider)
        return provider.host.walks

    async def left_on_host(self, root: Path) -> list[str]:
        return left_of(self.hub_id)


class TestPlain(OnARung):
    """Plain processes."""

    rung = "plain"
    settings = {"sandbox": "plain"}


class TestRlimit(OnARung):
    """bubblewrap alone, with no way out."""

    rung = "rlimit"
    settings = {"sandbox": "rlimit", "network": "none"}


class TestSliced(OnARung):
    """bubblewrap in control groups, and a slice of a card for everybody."""

    rung = "cgroup"
    entry_point = "conformance.cards:LocalProvider"
    settings = {"sandbox": "cgroup", "network": "none", "gpu": {"pretend": None, "selftest": "off"}}
    checkpoints = 5
    scarce_settings = {"gpu": {"pretend": None, "selftest": "off", "splits": 1}}

    @pytest.fixture(autouse=True)
    def _library(self, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(LIBRARY_ENV, str(a_library(tmp_path_factory.mktemp("library"))))
        path = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))

    def request(self, **changes: Any) -> LaunchRequest:
        return launch_request(**{"resources": SLICE, **changes})

    def slow_request(self, stage: str, **changes: Any) -> LaunchRequest:
        return super().slow_request(stage, **{"resources": SLICE, **changes})

    def failing_request(self, stage: str, **changes: Any) -> LaunchRequest:
        return super().failing_request(stage, **{"resources": SLICE, **changes})


class TestCgroup(OnARung):
    """bubblewrap in control groups, with a way out where there is one."""

    rung = "cgroup"
    settings = {"sandbox": "cgroup"}
