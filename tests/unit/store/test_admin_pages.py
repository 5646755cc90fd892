"""The administrators' pages on each kind of database: what was recorded is found, in the same words."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from bs4 import BeautifulSoup
from unit.console.admin_samples import NOW, everything
from unit.console.standin import HUB_ID, a_console

from labspawner.model import Decision, Lease, LeaseId, Phase
from labspawner.sentences import Sentence
from labspawner.store import AuditEntry

HARD = "张伟 \\ \x00 \ud800 '; DROP TABLE audit; -- %_"
"""What databases do not agree on: NUL, a lone surrogate, a backslash, a quote, and what LIKE takes for a wildcard."""


@pytest.mark.parametrize(
    "db_url", ["sqlite-file", pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True
)
async def test_what_was_recorded_is_found_on_every_database(tmp_path, db_url):
    async with a_console(tmp_path, everything(), store_url=db_url) as console:
        store = console.house.store
        lease = Lease(
            id=LeaseId("l-gpu-1"), hub_id=HUB_ID, user=HARD, server_name="", provider="gpu", profile="dl101/gpu",
            phase=Phase.READY, created_at=NOW, phase_at=NOW,
        )  # fmt: skip
        await store.add(lease)
        reason = Sentence("{text}", text="idle")
        await store.add_decisions(
            [
                Decision(
                    lease_id=lease.id,
                    user=HARD,
                    server_name="",
                    verdict="keep",
                    reason=reason,
                    evidence={"n": 1},
                    at=NOW,
                )
            ]
        )
        entries = [
            AuditEntry(
                at=NOW - timedelta(minutes=minutes), actor="teacher", verb="act.stop", subject=HARD, course="dl101"
            )
            for minutes in range(120)
        ]
        await store.audit.add(*entries, AuditEntry(at=NOW, actor="teacher", verb="action", subject="x"))

        page = BeautifulSoup((await console.get("admin/audit?verb=act.")).body, "html.parser")
        exported = json.loads((await console.get("admin/audit.json?verb=act.&actor=teacher")).body)
        of_today = json.loads((await console.get(f"admin/audit.json?since={NOW.astimezone():%Y-%m-%d}")).body)
        nothing = json.loads((await console.get("admin/audit.json?actor=teach%25")).body)
        detail = await console.get("admin/leases/l-gpu-1")
        decided = await console.get("admin/decisions")

    assert len(page.select("#audit tbody tr")) == 50
    assert [entry["subject"] for entry in exported] == [HARD] * 120
    assert len({entry["id"] for entry in exported}) == 120
    assert all(entry["at"] >= f"{(NOW - timedelta(days=1)):%Y-%m-%d}" for entry in of_today)
    assert nothing == []
    assert (detail.code, decided.code) == (200, 200)
