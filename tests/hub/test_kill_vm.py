"""The hub really killed while it makes virtual machines: none is leaked, none that runs is lost, and each student can start
again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pve.providers import settings_of

from labspawner.model import Phase
from labspawner.providers.proxmox.record import record_of
from labspawner.testing import tinyserver
from labspawner.testing.hub import RealHub
from labspawner.testing.pve import PveDouble
from labspawner.testing.waiting import eventually_sync

MOST_CHECKPOINTS = 7  # a launch has fewer: whoever waits for a later one gets ready, and stays
POINTS = [f"{index} {side}" for index in range(MOST_CHECKPOINTS) for side in ("before", "after")]
NAMES = [f"vm{number}" for number in range(len(POINTS))]
STUDENTS = {name: f"student{number}" for number, name in enumerate(NAMES)}


@pytest.fixture
def pve() -> Iterator[PveDouble]:
    with PveDouble() as double:
        yield double


@pytest.fixture
def killable(new_hub: Callable[..., RealHub], pve: PveDouble, tmp_path: Path) -> RealHub:
    """A hub with a provider for each point, so that one kill meets launches at all of them."""
    command = list(tinyserver.command())
    profiles = [
        f'  - {{slug: {name}, title: A VM, variants: [{{provider: {name}, template: "{pve.template}", '
        f"settings: {{command: {command!r}}}}}]}}"
        for name in NAMES
    ]
    first, last = pve.address_pool.split("-")
    subnet, low, high = first.rpartition(".")[0], int(first.rpartition(".")[2]), int(last.rpartition(".")[2])
    share = (high - low) // len(NAMES)
    providers = {}
    for number, name in enumerate(NAMES):
        folder = tmp_path / name
        folder.mkdir()
        begin = low + number * share
        own = {
            "vmids": f"{20000 + 100 * number}-{20099 + 100 * number}",
            "addresses": {"default": f"{subnet}.{begin}-{subnet}.{begin + share - 1}"},
        }
        inner = {"inner": "labspawner.providers.proxmox.provider:ProxmoxProvider", "settings": settings_of(pve, **own)}
        providers[name] = {"kind": "steered", **inner, "folder": str(folder)}
    return new_hub(
        courses={"py101.yaml": "\n".join(["course: py101", "title: Python", "profiles:", *profiles, ""])},
        groups={"course-py101": list(STUDENTS.values())},
        providers=providers,
        # A held start must not hold the question for it too.
        config='c.JupyterHub.tornado_settings["slow_spawn_timeout"] = 0',
    )


@pytest.mark.timeout(900)
def test_a_hub_killed_at_each_checkpoint_of_a_vm_leaves_none_behind_and_each_student_starts_again(
    killable: RealHub, pve: PveDouble, tmp_path: Path
) -> None:
    hub = killable
    hub.start()
    for name, point in zip(NAMES, POINTS, strict=True):
        (tmp_path / name / "hold").write_text(point)
        hub.ask(STUDENTS[name], {"profile": f"py101/{name}"})
    eventually_sync(lambda: _held(tmp_path) | _ready(hub) == set(NAMES), 120, "each launch is held or ready")
    held, ready = _held(tmp_path), {lease.provider: lease for lease in hub.ready_leases()}
    ready = {name: lease for name, lease in ready.items() if name not in held}
    assert len(held) >= 9  # before and after each checkpoint, of which there are four, and before Ready
    assert ready  # and somebody had none of it

    hub.kill()
    for name in NAMES:
        (tmp_path / name / "hold").unlink()
    hub.start()

    eventually_sync(
        lambda: {lease.provider for lease in hub.leases()} == ready.keys(), 60, "no half-made lease is left"
    )
    survivors = {record_of(lease.handle).vmid for lease in ready.values()}
    eventually_sync(lambda: _made(pve) == survivors, 60, "no half-made VM is left")
    assert pve.invariants() == []
    for name, lease in ready.items():
        hub.wait_ready(STUDENTS[name])
        assert hub.lease(STUDENTS[name]).handle == lease.handle

    for name in held:
        hub.ask(STUDENTS[name], {"profile": f"py101/{name}"})
    for name in held:
        hub.wait_ready(STUDENTS[name])
    assert {lease.phase for lease in hub.leases()} == {Phase.READY}
    assert len(_made(pve)) == len(NAMES)
    assert pve.invariants() == []


def _held(folder: Path) -> set[str]:
    return {mark.parent.name for mark in folder.glob("*/held.*")}


def _ready(hub: RealHub) -> set[str]:
    return {lease.provider for lease in hub.ready_leases()}


def _made(pve: PveDouble) -> set[int]:
    """The VMs that are no templates."""
    return {vm.vmid for vm in pve.vms() if vm.vmid >= 20000}
