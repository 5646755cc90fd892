"""The sweep with what servers said: read with the leases, looked at again before a stop, and kept with the decision."""

from __future__ import annotations

from datetime import timedelta

from builders import NOW
from unit.culling.test_evidence import a_cell, a_report

from labspawner.model import Evidence
from labspawner.store import Standing

IDLE_20_MIN = {"after_s": 1200}


def standing(report, **known) -> Standing:
    return Standing(evidence=Evidence(report=report, **known))


async def test_a_forgotten_tab_is_culled_and_the_student_reads_the_evidence(hub, store, lease, a_sweep):
    hub.has("student1", idle_min=0)
    held = await lease(cull=IDLE_20_MIN)
    await store.put_standings({held.id: standing(a_report(clients=1))})

    summary = await a_sweep().run()

    assert summary.culled == 1
    assert "a page was open" in (await store.get(held.id)).ending.reason
    (decision,) = await store.decisions(hub_id="test-hub")
    assert decision.evidence["open_pages"] == 1
    assert decision.evidence["last_use"] == (NOW - timedelta(hours=3)).isoformat()


async def test_a_silent_cell_is_kept_though_the_hub_saw_nothing_for_hours(hub, store, lease, a_sweep):
    hub.has("student1", idle_min=500)
    held = await lease(cull=IDLE_20_MIN)
    await store.put_standings({held.id: standing(a_cell())})

    await a_sweep().run()

    assert hub.deletes == []


async def test_a_report_that_comes_while_others_are_stopped_keeps_the_server(hub, store, lease, a_sweep):
    hub.has("student1", idle_min=0)
    held = await lease(cull=IDLE_20_MIN)
    await store.put_standings({held.id: standing(a_report())})

    async def meanwhile(method, path):
        if path == "/users/student1":
            await store.put_standings({held.id: standing(a_cell())})

    hub.misbehave = meanwhile
    summary = await a_sweep().run()

    assert (summary.culled, hub.deletes) == (0, [])
    (decision,) = await store.decisions(hub_id="test-hub")
    assert "in use again" in decision.reason


async def test_a_policy_is_read_again_when_the_lease_pins_another(hub, store, lease, a_sweep):
    hub.has("student1", idle_min=30)
    held = await lease(cull={"after_s": 7200})
    sweep = a_sweep()
    await sweep.run()
    assert hub.deletes == []

    await store.update(held.id, pinned={"cull": IDLE_20_MIN})
    await sweep.run()

    assert hub.deletes == ["/users/student1/server"]
