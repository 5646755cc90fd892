"""The Proxmox VE provider keeps the contract, on the double, with VMs whose servers are an address that answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from labspawner.errors import LabError, NeverFits, StartFailed
from labspawner.model import Feature, Json, LaunchRequest, Resources
from labspawner.providers.contract import Provider
from labspawner.providers.proxmox.provider import ProxmoxProvider
from labspawner.testing import tinyserver
from labspawner.testing.conformance import ProviderConformance
from labspawner.testing.pve import PveDouble

from .providers import LONG_S, NODES, a_request, settings_of

COMMANDS = {
    "dies": tinyserver.command(say="Traceback: boom", die_after_s=0.0, exit_code=3, never_listen=True),
    "silent": tinyserver.command(never_listen=True),
}


class TestProxmox(ProviderConformance):
    """The whole kit."""

    entry_point = "labspawner.providers.proxmox.provider:ProxmoxProvider"
    features = frozenset({Feature.PARK, Feature.HIBERNATE, Feature.LOGS, Feature.CONSOLE, Feature.ACTIVITY})
    checkpoints = 4
    slow_stages = ("silent",)
    failing_stages = ("dies", "silent", "too large")
    concurrency = 8
    settle_s = 20.0
    scarce_settings = {"max_servers": 1}

    @pytest.fixture(autouse=True)
    def _cluster(self, new_pve: Callable[..., PveDouble]) -> None:
        self.pve = new_pve(nodes=NODES)
        self.settings = settings_of(self.pve, cool_down="1s")  # type: ignore[misc]

    def build(self, root: Path, hub_id: str, settings: Mapping[str, Json]) -> Provider:
        """Hubs that share no database have addresses of their own each."""
        network = self.pve.address_pool.split("-")[0].rpartition(".")[0]
        second = {"addresses": {"default": f"{network}.150-{network}.249"}} if hub_id != self.hub_id else {}
        first = {"addresses": {"default": f"{network}.10-{network}.149"}} if hub_id == self.hub_id else {}
        return super().build(root, hub_id, {**first, **second, **settings})

    def request(self, **changes: Any) -> LaunchRequest:
        request: LaunchRequest = a_request(self.pve, **changes)
        return request

    def slow_request(self, stage: str, **changes: Any) -> LaunchRequest:
        return self.request(**{"command": COMMANDS[stage], **changes})

    def failing_request(self, stage: str, **changes: Any) -> LaunchRequest:
        if stage == "too large":
            return self.request(**{"resources": Resources(memory_bytes=2**50), **changes})
        deadline = {"ready_timeout_s": 3.0} if stage == "silent" else {"ready_timeout_s": LONG_S}
        # With a screen the VM stays on when its server has died: at the double's pace its log would be gone in a blink.
        return self.request(**{"command": COMMANDS[stage], "settings": {"desktop": True}, **deadline, **changes})

    def failing_error(self, stage: str) -> type[LabError]:
        return NeverFits if stage == "too large" else StartFailed

    def failing_words(self, stage: str) -> str:
        return "Traceback: boom" if stage == "dies" else ""

    def dying_request(self, **changes: Any) -> LaunchRequest:
        return self.request(**{"command": tinyserver.command(die_when_asked=True), **changes})

    @contextmanager
    def break_host(self, provider: Provider) -> Iterator[None]:
        for name in NODES:
            self.pve.faults.node_down(name)
        try:
            yield
        finally:
            for name in NODES:
                self.pve.faults.node_up(name)

    @contextmanager
    def break_listing(self, provider: Provider) -> Iterator[None]:
        self.pve.faults.fail("GET", "^/cluster/resources$", 500, "broken", times=-1)
        try:
            yield
        finally:
            self.pve.faults.clear()

    def listings(self, provider: Provider) -> int | None:
        assert isinstance(provider, ProxmoxProvider)
        return provider.snapshots.listings

    async def left_on_host(self, root: Path) -> list[str]:
        vms = [f"vm {vm.vmid} {vm.name}" for vm in self.pve.vms() if not vm.template]
        return vms + [rule for rule in self.pve.invariants() if "volume" in rule]
