"""The simulated provider keeps the contract; the first user of the kit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from labspawner.errors import LabError, ProviderUnavailable, SetupError, StartFailed
from labspawner.model import Feature, LaunchRequest
from labspawner.providers.contract import Provider
from labspawner.providers.sim import SimProvider
from labspawner.testing.conformance import ProviderConformance
from labspawner.testing.requests import launch_request

STAGES = ("reserve", "create", "boot")
KINDS: dict[str, type[LabError]] = {"transient": ProviderUnavailable, "permanent": SetupError, "crash": StartFailed}


class TestSim(ProviderConformance):
    entry_point = "labspawner.providers.sim:SimProvider"
    settings = {"start_s": 0.03, "park": True}
    features = frozenset({Feature.LOGS, Feature.ACTIVITY, Feature.HIBERNATE, Feature.PARK})
    checkpoints = 3
    slow_stages = STAGES
    failing_stages = tuple(f"{stage}-{kind}" for stage in STAGES for kind in KINDS)
    scarce_settings = {"hosts": [{"name": "small", "servers": 1}]}

    def slow_request(self, stage: str, **changes: Any) -> LaunchRequest:
        return launch_request(settings={"stall_at": stage}, **changes)

    def failing_request(self, stage: str, **changes: Any) -> LaunchRequest:
        name, _, kind = stage.partition("-")
        return launch_request(settings={"fail_at": name, "fail_kind": kind}, **changes)

    def failing_error(self, stage: str) -> type[LabError]:
        return KINDS[stage.partition("-")[2]]

    def failing_words(self, stage: str) -> str:
        name, _, kind = stage.partition("-")
        return f"[sim] {name}: Segmentation fault" if kind == "crash" else ""

    def dying_request(self, **changes: Any) -> LaunchRequest:
        return launch_request(settings={"die_after_ready_s": 0.2}, **changes)

    @contextmanager
    def break_host(self, provider: Provider) -> Iterator[None]:
        assert isinstance(provider, SimProvider)
        provider.faults(unavailable=True)
        yield
        provider.faults()

    @contextmanager
    def break_listing(self, provider: Provider) -> Iterator[None]:
        assert isinstance(provider, SimProvider)
        provider.faults(listing_fails=True)
        yield
        provider.faults()

    def listings(self, provider: Provider) -> int | None:
        assert isinstance(provider, SimProvider)
        return provider.listings

    def data_dir_of(self, root: Path, hub_id: str) -> Path:
        return root / "world"
