"""Everything breaks while a class starts and stops; and what a lost database leaves is named and freed by `reconcile`."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from datetime import datetime, timezone
from pathlib import Path

import pytest
from pve.atthehub import HUB_ID, Hub
from pve.providers import provider_on

from labspawner.lifecycle import Engine
from labspawner.providers.proxmox.record import record_of
from labspawner.testing.pve import PveDouble
from labspawner.testing.pvesoak import Soak, open_engine, order_of

TEMPLATES = {9000, 9100}
IMPATIENT = {"cool_down": "1s", "patience_s": 10, "lock_patience_s": 20, "boot_timeout_s": 30}


@pytest.mark.parametrize("seed", [2, 7])
async def test_nothing_is_lost_or_leaked_while_everything_breaks(new_pve, tmp_path, seed):
    pve = new_pve(seed=seed)
    engine = open_engine(provider_on(pve, tmp_path, hub_id=HUB_ID, **IMPATIENT), tmp_path / "soak.sqlite", HUB_ID)
    try:
        await engine.start()
        report = await Soak(pve, engine, seed=seed).run(30, students=8)
    finally:
        await engine.close()

    assert (report.lost, report.left, report.unsaid) == ([], [], []), report
    assert report.spawns == 30
    assert sum(report.broke.values()) > 0


@pytest.fixture
def hub(pve: PveDouble, tmp_path: Path) -> Hub:
    return Hub(pve, tmp_path, provider={"cool_down": "1h"})


@pytest.fixture
async def engine(hub: Hub) -> AsyncIterator[Engine]:
    """A hub's engine on the database of the configuration, which does not reconcile by itself."""
    database = hub.folder / "data" / "labspawner.sqlite"
    made = open_engine(hub.provider(), database, HUB_ID)
    await made.open()
    yield made
    await made.close()


async def test_what_a_lost_database_leaves_is_named_by_reconcile_and_freed_by_it(pve, hub, engine):
    leases = [await engine.launch(order_of(user, pve, "stop"), lambda _progress: None) for user in ("ada", "bob", "cy")]
    await engine.stop("cy", "")
    vmids = {record_of(lease.handle).vmid for lease in leases if lease.handle is not None}
    held = await held_by(hub, {lease.id for lease in leases})
    with sqlite3.connect(hub.folder / "data" / "labspawner.sqlite") as database:
        database.execute("DELETE FROM leases")

    dry = await asyncio.to_thread(hub.run, "reconcile", "--dry-run")
    still = {vm.vmid for vm in pve.vms()}
    done = await asyncio.to_thread(hub.run, "reconcile")
    again = await asyncio.to_thread(hub.run, "reconcile", "--dry-run")

    assert len(held) == 2 * len(leases)  # an id and an address each
    assert still == TEMPLATES | vmids
    assert all(lease.id in dry.text for lease in leases), dry.text
    assert "3 to end; nothing was done" in dry.text
    assert "3 ended" in done.text
    assert "nothing to do" in again.text
    assert {vm.vmid for vm in pve.vms()} == TEMPLATES
    assert await held_by(hub, {lease.id for lease in leases}) == set()
    assert pve.invariants() == []


async def test_an_id_and_an_address_without_a_vm_are_named_and_freed(pve, hub, engine):
    lease = await engine.launch(order_of("ada", pve, "stop"), lambda _progress: None)
    assert lease.handle is not None
    pve.faults.delete(record_of(lease.handle).vmid or 0)
    with sqlite3.connect(hub.folder / "data" / "labspawner.sqlite") as database:
        database.execute("DELETE FROM leases")

    dry = await asyncio.to_thread(hub.run, "reconcile", "--dry-run")
    await asyncio.to_thread(hub.run, "reconcile")
    again = await asyncio.to_thread(hub.run, "reconcile", "--dry-run")

    assert lease.id in dry.text
    assert "nothing to do" in again.text
    assert await held_by(hub, {lease.id}) == set()


async def held_by(hub: Hub, leases: set[str]) -> set[tuple[str, str]]:
    """What these leases hold in the records: (pool, value)."""
    provider = hub.provider()
    try:
        found = await provider.reservations.held(datetime.now(timezone.utc))
        return {(each.pool, each.value) for each in found if each.owner in leases}
    finally:
        await provider.close()
