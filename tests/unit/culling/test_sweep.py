"""A pass against an HTTP server that answers like JupyterHub, and a real store."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

import pytest
from builders import NOW

from labspawner.culler.hub import Hub, HubUnavailable
from labspawner.culler.sweep import Rules, Summary, Sweep
from labspawner.culling import CullPolicy
from labspawner.model import Ending, Phase, ReleaseMode
from labspawner.sentences import Sentence

IDLE_20_MIN = {"after_s": 1200, "max_age_s": None, "action": "stop"}


async def test_an_idle_server_is_stopped_and_its_lease_says_why(hub, store, lease, a_sweep, caplog):
    caplog.set_level(logging.INFO)
    hub.has("student1", idle_min=21)
    held = await lease(cull={**IDLE_20_MIN, "action": "hibernate"})

    summary = await a_sweep().run()

    assert summary == Summary(seen=1, culled=1)
    assert hub.deletes == ["/users/student1/server"]
    after = await store.get(held.id)
    assert after.ending == Ending(by="culler", reason="idle for 21 min; this profile's limit is 20 min")
    assert after.release_mode is ReleaseMode.HIBERNATE
    [decision] = await store.decisions(hub_id="test-hub")
    assert (decision.verdict, decision.applied, decision.lease_id) == ("cull", True, held.id)
    assert decision.evidence["cause"] == "idle"
    assert [r.message for r in caplog.records if r.message.startswith("culled")] == [
        f"culled user='student1' server='' lease={held.id} action=hibernate "
        "reason=idle for 21 min; this profile's limit is 20 min"
    ]


async def test_the_reason_is_written_before_the_hub_is_asked(hub, store, lease, a_sweep):
    hub.has("student1", idle_min=21)
    held = await lease(cull=IDLE_20_MIN)
    seen = []

    async def look(method, path):
        if method == "DELETE":
            seen.append((await store.get(held.id)).ending.by)

    hub.misbehave = look

    await a_sweep().run()

    assert seen == ["culler"]


async def test_a_server_in_use_is_left_alone_and_nothing_is_recorded(hub, store, lease, a_sweep):
    hub.has("student1", idle_min=3)
    await lease(cull=IDLE_20_MIN)

    assert await a_sweep().run() == Summary(seen=1)
    assert hub.deletes == []
    assert await store.decisions(hub_id="test-hub") == []


async def test_each_server_is_judged_by_the_policy_of_its_own_lease(hub, lease, a_sweep):
    hub.has("student1", idle_min=30)
    hub.has("student1", "gpu", idle_min=30)
    hub.has("student2", idle_min=30)
    await lease("student1", cull={"after_s": 3600})
    await lease("student1", "gpu", cull={"after_s": 600})
    await lease("student2", cull={"after_s": None, "max_age_s": 600})

    await a_sweep().run()

    assert sorted(hub.deletes) == ["/users/student1/servers/gpu", "/users/student2/server"]


async def test_a_server_is_not_judged_by_what_is_parked_beside_it(hub, store, lease, a_sweep):
    hub.has("student1", idle_min=30)
    await lease(cull=IDLE_20_MIN, phase=Phase.PARKED, created_at=NOW + timedelta(hours=1))
    kept = await lease(cull={"after_s": 3600})

    await a_sweep().run()

    assert hub.deletes == []
    assert (await store.get(kept.id)).ending is None


async def test_a_named_server_keeps_its_record(hub, lease, a_sweep):
    # The fake hub asserts an empty body: `{"remove": true}` is what deletes the record.
    hub.has("student1", "gpu", idle_min=30)
    await lease("student1", "gpu", cull=IDLE_20_MIN)

    assert (await a_sweep().run()).culled == 1


@pytest.mark.parametrize("user", ["a/b", "名字", "a b?c#d", "50%", "a@b.c", "..", "é" * 200])
@pytest.mark.parametrize("name", ["", "naïve/../x", "服务器"])
async def test_names_are_encoded_so_that_the_right_server_is_stopped(hub, lease, a_sweep, user, name):
    hub.has(user, name, idle_min=30)
    hub.has("b", idle_min=30)
    await lease(user, name, cull=IDLE_20_MIN)

    assert (await a_sweep().run()).culled == 1
    assert name not in hub.users[user]
    assert "" in hub.users["b"]


async def test_a_server_without_a_lease_is_kept(hub, a_sweep):
    hub.has("guest", idle_min=9999, up_min=9999)

    assert await a_sweep().run() == Summary(seen=1)


async def test_a_server_without_a_lease_follows_the_default_where_there_is_one(hub, store, a_sweep):
    hub.has("guest", idle_min=61)

    assert (await a_sweep(default=CullPolicy(after_s=3600)).run()).culled == 1
    assert await store.decisions(hub_id="test-hub") == []


async def test_a_lease_of_another_hub_does_not_count(hub, lease, a_sweep):
    hub.has("student1", idle_min=30)
    await lease(cull=IDLE_20_MIN, hub_id="another-hub")

    assert (await a_sweep().run()).culled == 0


async def test_an_unreadable_policy_keeps_that_server_only_and_is_said_once(hub, lease, a_sweep, caplog):
    hub.has("student1", idle_min=30)
    hub.has("student2", idle_min=30)
    await lease("student1", cull={"after_s": "20m"})
    await lease("student2", cull=IDLE_20_MIN)
    sweep = a_sweep()

    summaries = [await sweep.run(), await sweep.run()]

    assert [s.culled for s in summaries] == [1, 0]
    assert hub.deletes == ["/users/student2/server"]
    assert "cull.after_s must be a number of seconds" in caplog.text
    assert sum("unreadable policy" in r.message for r in caplog.records) == 1


async def test_all_pages_are_read(hub, lease, a_sweep):
    hub.max_page = 2
    for i in range(7):
        hub.has(f"student{i}", idle_min=30)
        await lease(f"student{i}", cull=IDLE_20_MIN)

    assert await a_sweep().run() == Summary(seen=7, culled=7)


async def test_a_stop_that_takes_long_is_done_and_is_not_asked_for_again(hub, store, lease, a_sweep):
    hub.slow_to_stop = True
    hub.has("student1", idle_min=30)
    await lease(cull=IDLE_20_MIN)
    sweep = a_sweep()

    summaries = [await sweep.run(), await sweep.run()]

    assert [s.culled for s in summaries] == [1, 0]
    assert len(hub.deletes) == 1


async def test_stops_run_concurrently_across_users_up_to_the_limit(hub, lease, a_sweep, eventually):
    for i in range(12):
        hub.has(f"student{i}", idle_min=30)
        await lease(f"student{i}", cull=IDLE_20_MIN)
    release = asyncio.Event()

    async def wait(method, path):
        if method == "DELETE":
            await release.wait()

    hub.misbehave = wait
    running = asyncio.create_task(a_sweep(concurrency=5).run())
    await eventually(lambda: hub.in_flight == 5)
    release.set()

    assert (await running).culled == 12
    assert hub.most_in_flight == 5


async def test_dry_run_stops_nothing_writes_no_intent_and_records_each_verdict_once(hub, store, lease, a_sweep, caplog):
    caplog.set_level(logging.INFO)
    hub.has("student1", idle_min=30)
    held = await lease(cull=IDLE_20_MIN)
    sweep = a_sweep(dry_run=True)

    summaries = [await sweep.run(), await sweep.run()]

    assert summaries == [Summary(seen=1, not_applied=1)] * 2
    assert hub.deletes == []
    assert (await store.get(held.id)).ending is None
    [decision] = await store.decisions(hub_id="test-hub")
    assert decision.applied is False
    assert decision.reason == "idle for 30 min; this profile's limit is 20 min (not done: dry run)"
    assert sum("would cull" in r.message for r in caplog.records) == 1


async def test_a_changed_reason_to_keep_is_recorded_once(hub, store, lease, a_sweep):
    hub.has("student1", pending="spawn", up_min=1)
    held = await lease(cull=IDLE_20_MIN)
    sweep = a_sweep()
    await sweep.run()
    hub.has("student1", up_min=1)

    await sweep.run()
    await sweep.run()

    [decision] = await store.decisions(hub_id="test-hub")
    assert (decision.lease_id, decision.verdict, decision.applied) == (held.id, "keep", True)
    assert decision.reason == "idle for only 0 s; this profile's limit is 20 min"


# --- what is stuck


async def test_a_start_that_is_stuck_is_interrupted(hub, store, lease, a_sweep):
    hub.has("student1", pending="spawn", up_min=45)
    held = await lease(cull={}, phase=Phase.LAUNCHING, phase_at=NOW.replace(hour=9, minute=20))

    assert (await a_sweep(stuck_after_s=1800).run()).culled == 1
    assert (await store.get(held.id)).ending.reason == "stuck in starting for 40 min"


async def test_a_start_that_waits_in_line_is_not_stuck(hub, lease, a_sweep):
    hub.has("student1", pending="spawn", up_min=600)
    await lease(cull={}, phase=Phase.QUEUED)

    assert (await a_sweep(stuck_after_s=1800).run()).culled == 0


async def test_a_start_without_a_lease_is_stuck_since_its_start(hub, a_sweep):
    hub.has("guest", pending="spawn", up_min=31)

    assert (await a_sweep(stuck_after_s=1800, default=CullPolicy(after_s=3600)).run()).culled == 1


@pytest.mark.parametrize("leased", [True, False])
async def test_a_stop_that_is_stuck_is_asked_for_again_without_touching_its_reason(
    hub, store, lease, a_sweep, clock, leased
):
    hub.has("student1", pending="stop")
    if leased:
        ending = Ending(by="user", reason=Sentence("you stopped it"))
        held = await lease(cull={}, phase=Phase.STOPPING, phase_at=NOW, ending=ending)
    sweep = a_sweep(stuck_after_s=1800, default=CullPolicy(after_s=3600))
    await sweep.run()
    clock.forward(minutes=31)

    summaries = [await sweep.run(), await sweep.run()]

    assert [s.not_applied for s in summaries] == [1, 1]
    assert len(hub.deletes) == 2
    if leased:
        assert (await store.get(held.id)).ending.by == "user"
        [decision] = [d for d in await store.decisions(hub_id="test-hub") if d.verdict == "cull"]
        assert decision.reason == (
            "stuck in stopping for 31 min (not done: the hub is still waiting for the stop to end)"
        )


# --- what goes wrong


@pytest.mark.parametrize("status", [400, 403, 429, 500, 503])
async def test_a_refused_stop_is_taken_back_recorded_once_and_tried_again(hub, store, lease, a_sweep, status):
    hub.has("student1", idle_min=30)
    held = await lease(cull={**IDLE_20_MIN, "action": "hibernate"})

    async def refuse(method, path):
        return status if method == "DELETE" else None

    hub.misbehave = refuse
    sweep = a_sweep()
    summaries = [await sweep.run(), await sweep.run()]

    assert [s.not_applied for s in summaries] == [1, 1]
    after = await store.get(held.id)
    assert (after.ending, after.release_mode) == (None, held.release_mode)
    [decision] = await store.decisions(hub_id="test-hub")
    assert decision.applied is False
    assert f"not done: the hub refused: HTTP {status}" in decision.reason

    hub.misbehave = None
    assert (await sweep.run()).culled == 1


async def test_a_server_that_is_gone_when_its_stop_arrives_was_not_culled(hub, store, lease, a_sweep):
    hub.has("student1", "gpu", idle_min=30)
    held = await lease("student1", "gpu", cull=IDLE_20_MIN)

    async def vanish(method, path):
        return 404 if method == "DELETE" else None

    hub.misbehave = vanish

    assert (await a_sweep().run()).not_applied == 1
    assert (await store.get(held.id)).ending is None


@pytest.mark.parametrize("how", ["server", "user"])
async def test_a_server_that_vanished_since_the_listing_gets_no_stop(hub, lease, a_sweep, how):
    hub.has("student1", idle_min=30)
    await lease(cull=IDLE_20_MIN)

    async def vanish(method, path):
        if path == "/users/student1":
            hub.users["student1"].clear() if how == "server" else hub.users.clear()

    hub.misbehave = vanish

    assert (await a_sweep().run()).not_applied == 1
    assert hub.deletes == []


@pytest.mark.parametrize("changes", [{"idle_min": 0}, {"idle_min": 20, "up_min": 20}])
async def test_a_server_used_or_restarted_since_the_listing_is_kept(hub, store, lease, a_sweep, changes):
    hub.has("student1", idle_min=30)
    held = await lease(cull=IDLE_20_MIN)

    async def use(method, path):
        if path == "/users/student1":
            hub.has("student1", **changes)

    hub.misbehave = use

    assert (await a_sweep().run()).not_applied == 1
    assert hub.deletes == []
    assert (await store.get(held.id)).ending is None


@pytest.mark.parametrize(
    "answer",
    [
        500,
        403,
        302,
        b"<html>",
        b"[]",
        b"{}",
        b'{"items": [], "_pagination": null}',
        b'{"items": [{"name": "a"}], "_pagination": {"next": null}}',
        b'{"items": [{"name": "a", "servers": {"": {"ready": true}}}], "_pagination": {"next": null}}',
        b'{"items": [{"name": "a", "servers": []}], "_pagination": {"next": null}}',
        b'{"items": [], "_pagination": {"next": {"offset": 0}}}',
    ],
)
async def test_a_listing_that_is_not_whole_culls_nothing(hub, lease, a_sweep, answer):
    hub.max_page = 1
    for user in ("student1", "student2", "student3"):
        hub.has(user, idle_min=30)
        await lease(user, cull=IDLE_20_MIN)
    pages = 0

    async def second_page_fails(method, path):
        nonlocal pages
        pages += 1
        return answer if pages == 2 else None

    hub.misbehave = second_page_fails

    with pytest.raises(HubUnavailable):
        await a_sweep().run()
    assert hub.deletes == []


async def test_a_token_without_its_role_is_told_what_is_missing(hub, client):
    async def no_servers(method, path):
        return b'{"items": [{"kind": "user", "name": "a"}], "_pagination": {"next": null}}'

    hub.misbehave = no_servers

    with pytest.raises(HubUnavailable, match="lacks the scope read:servers"):
        await client.active_servers()


async def test_the_token_never_leaves_for_another_host_and_is_never_in_a_message(hub, caplog):
    caplog.set_level(logging.DEBUG)
    client = Hub(hub.api_url, "a-wrong-secret", timeout_s=120)

    with pytest.raises(HubUnavailable) as caught:
        await client.active_servers()

    client.close()
    assert "HTTP 403" in str(caught.value)
    assert "labspawner.culler.role" in str(caught.value)
    assert "a-wrong-secret" not in str(caught.value) + repr(caught.value.__cause__) + caplog.text


async def test_a_stop_that_gets_no_answer_keeps_its_reason_until_the_server_is_seen_in_use(
    hub, store, lease, clock, eventually, monkeypatch
):
    hub.has("student1", idle_min=30)
    held = await lease(cull=IDLE_20_MIN)
    release = asyncio.Event()

    async def hang(method, path):
        if method == "DELETE":
            await release.wait()
            return 500
        return None

    hub.misbehave = hang
    client, hasty = (Hub(hub.api_url, "f00dface-token-of-the-culler", timeout_s=limit_s) for limit_s in (120.0, 0.3))
    monkeypatch.setattr(client, "stop", hasty.stop)  # listings are waited for however slow the machine is
    sweep = Sweep(client, store, Rules(hub_id="test-hub"), log=logging.getLogger("culler"), clock=clock)

    assert (await sweep.run()).not_applied == 1
    assert (await store.get(held.id)).ending.by == "culler"
    release.set()
    await eventually(lambda: hub.in_flight == 0)

    hub.has("student1", idle_min=0)
    await sweep.run()
    client.close()
    hasty.close()

    assert (await store.get(held.id)).ending is None


async def test_the_connection_breaks_while_a_stop_is_under_way(hub, store, lease, a_sweep):
    hub.has("student1", idle_min=30)
    held = await lease(cull=IDLE_20_MIN)

    async def die(method, path):
        if method == "DELETE":
            await hub.close()

    hub.misbehave = die

    assert (await a_sweep().run()).not_applied == 1
    assert (await store.get(held.id)).ending.by == "culler"


async def test_a_hub_that_goes_away_after_the_listing_leaves_no_intent(hub, store, lease, a_sweep):
    hub.has("student1", idle_min=30)
    held = await lease(cull=IDLE_20_MIN)

    async def die(method, path):
        if path == "/users/student1":
            hub._server.stop()
            return 503
        return None

    hub.misbehave = die

    assert (await a_sweep().run()).not_applied == 1
    assert (await store.get(held.id)).ending is None
    [decision] = await store.decisions(hub_id="test-hub")
    assert "not done: The hub does not answer the culler." in decision.reason


async def test_a_refused_connection_at_the_stop_is_no_stop(hub, client):
    await hub.close()

    stop = await client.stop("student1", "")

    assert stop.outcome.value == "refused"


async def test_an_address_that_is_no_hub_is_a_readable_error():
    client = Hub("http://127.0.0.1:1/hub/api", "token")

    with pytest.raises(HubUnavailable, match="refused"):
        await client.active_servers()
    client.close()


async def test_someone_elses_stop_wins_and_keeps_its_reason(hub, store, lease, a_sweep):
    hub.has("student1", idle_min=30)
    hub.has("student2", idle_min=30)
    held = await lease("student1", cull=IDLE_20_MIN, phase=Phase.STOPPING)
    await lease("student2", cull=IDLE_20_MIN)

    summary = await a_sweep().run()

    assert summary == Summary(seen=2, culled=1, not_applied=1)
    assert hub.deletes == ["/users/student2/server"]
    assert (await store.get(held.id)).ending is None


class FailingStore:
    """The real store, with one method that fails: a database that goes away at the worst moment."""

    def __init__(self, store, failing):
        self._store, self._failing = store, failing

    def __getattr__(self, name):
        if name == self._failing:
            return self._fail
        return getattr(self._store, name)

    async def _fail(self, *args):
        raise OSError("the disk is full")


async def test_without_a_place_for_the_reason_nothing_is_stopped(hub, client, store, lease, clock, caplog):
    hub.has("student1", idle_min=30)
    await lease(cull=IDLE_20_MIN)
    failing = FailingStore(store, "intend")
    sweep = Sweep(client, failing, Rules(hub_id="test-hub"), log=logging.getLogger("culler"), clock=clock)

    assert (await sweep.run()).not_applied == 1
    assert hub.deletes == []
    assert "the disk is full" in caplog.text
    [decision] = await store.decisions(hub_id="test-hub")
    assert "disk" not in decision.reason


async def test_a_decision_log_that_cannot_be_written_does_not_undo_the_pass(hub, client, store, lease, clock, caplog):
    hub.has("student1", idle_min=30)
    await lease(cull=IDLE_20_MIN)
    failing = FailingStore(store, "add_decisions")
    sweep = Sweep(client, failing, Rules(hub_id="test-hub"), log=logging.getLogger("culler"), clock=clock)

    assert (await sweep.run()).culled == 1
    assert "could not write 1 decisions" in caplog.text


async def test_a_closed_sweep_begins_no_stop(hub, lease, a_sweep):
    hub.has("student1", idle_min=30)
    await lease(cull=IDLE_20_MIN)
    sweep = a_sweep()
    sweep.close()

    assert (await sweep.run()).not_applied == 1
    assert hub.deletes == []


async def test_a_cancelled_pass_records_what_it_did(hub, store, lease, a_sweep, eventually, caplog):
    caplog.set_level(logging.INFO)
    for user in ("student1", "student2"):
        hub.has(user, idle_min=30)
        await lease(user, cull=IDLE_20_MIN)
    release = asyncio.Event()

    async def hang(method, path):
        if path == "/users/student2/server":
            await release.wait()

    hub.misbehave = hang
    running = asyncio.create_task(a_sweep().run())
    await eventually(lambda: "culled user='student1'" in caplog.text and len(hub.deletes) == 2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    release.set()

    assert [d.user for d in await store.decisions(hub_id="test-hub")] == ["student1"]
    assert (await store.live("test-hub", user="student2"))[0].ending.by == "culler"
