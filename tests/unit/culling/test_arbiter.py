"""The hook, called by jupyterhub-idle-culler itself against an HTTP server that answers like JupyterHub."""

from __future__ import annotations

import logging

import pytest
from jupyterhub_idle_culler import IdleCuller, cull_idle
from tornado.httpclient import AsyncHTTPClient

from labspawner.culler import cull_arbiter
from labspawner.errors import StoreUnavailable
from labspawner.model import Phase
from labspawner.sentences import plain

TOKEN = "f00dface-token-of-the-culler"
IDLE_20_MIN = {"after_s": 1200}


@pytest.fixture
def upstream(hub):
    """jupyterhub-idle-culler's own pass with a hook; its timeout is 24 hours."""

    async def run(hook, timeout=86400):
        try:
            log = logging.getLogger("upstream")
            await cull_idle(hub.api_url, TOKEN, timeout, log, cull_arbiter=hook)
        finally:
            # It configures tornado's shared client for the whole process.
            AsyncHTTPClient().close()
            AsyncHTTPClient.configure(None)

    return run


async def test_upstream_culls_by_the_policy_of_each_lease_and_the_lease_says_why(hub, store, lease, upstream, clock):
    hub.has("student1", "gpu", idle_min=30)
    hub.has("student2", idle_min=30)
    culled = await lease("student1", "gpu", cull=IDLE_20_MIN)
    kept = await lease("student2", cull={"after_s": 3600})

    await upstream(cull_arbiter(store=lambda: store, hub_id="test-hub", clock=clock))

    assert hub.deletes == ["/users/student1/servers/gpu"]
    assert (await store.get(culled.id)).ending.reason == "idle for 30 min; this profile's limit is 20 min"
    assert (await store.get(kept.id)).ending is None
    [decision] = await store.decisions(hub_id="test-hub")
    assert (decision.verdict, decision.applied, decision.evidence["cause"]) == ("cull", True, "idle")


async def test_upstream_culls_by_profile_without_a_store(hub, upstream, clock):
    hub.has("student1", idle_min=30, user_options={"profile": "dl101/gpu", "options": {}})
    hub.has("student2", idle_min=30, user_options={"profile": "dl101/cpu"})

    await upstream(cull_arbiter(policies={"dl101/gpu": IDLE_20_MIN, "dl101/cpu": {"after_s": 3600}}, clock=clock))

    assert hub.deletes == ["/users/student1/server"]


@pytest.mark.parametrize("options", [None, {}, {"profile": "other/one"}, {"profile": ["x"]}, ["gpu"], "gpu"])
async def test_a_server_of_an_unknown_profile_follows_upstreams_own_timeout(hub, upstream, clock, options):
    hub.has("student1", idle_min=30, user_options=options)
    hub.has("student2", idle_min=20, user_options=options)

    await upstream(cull_arbiter(policies={"dl101/gpu": IDLE_20_MIN}, clock=clock), timeout=1500)

    assert hub.deletes == ["/users/student1/server"]


async def test_a_lease_without_a_policy_follows_its_profile_then_upstreams_timeout(hub, store, lease, upstream, clock):
    hub.has("student1", idle_min=30, user_options={"profile": "dl101/gpu"})
    hub.has("student2", idle_min=30)
    await lease("student1")
    await lease("student2")

    policies = {"dl101/gpu": IDLE_20_MIN}
    await upstream(cull_arbiter(store=lambda: store, hub_id="test-hub", policies=policies, clock=clock))

    assert hub.deletes == ["/users/student1/server"]


async def test_an_intent_whose_stop_failed_is_taken_back_once_the_server_is_in_use(hub, store, lease, clock, caplog):
    hub.has("student1", idle_min=30)
    held = await lease(cull=IDLE_20_MIN)
    server = hub.users["student1"][""]
    assert await cull_arbiter(store=lambda: store, hub_id="test-hub", clock=clock)(
        inactive=None, inactive_limit=0, server=server
    )
    hub.has("student1", idle_min=0)

    later = cull_arbiter(store=lambda: store, hub_id="test-hub", clock=clock)
    assert not await later(inactive=None, inactive_limit=0, server=hub.users["student1"][""])

    assert (await store.get(held.id)).ending is None


@pytest.mark.parametrize("cull", [{"after_s": "20m"}, "20m"])
async def test_an_unreadable_lease_keeps_its_server(hub, lease, store, upstream, clock, cull, caplog):
    hub.has("student1", idle_min=3000)
    await lease(cull=cull)

    await upstream(cull_arbiter(store=lambda: store, hub_id="test-hub", clock=clock))

    assert hub.deletes == []
    assert "server kept" in caplog.text


async def test_a_server_whose_lease_is_stopping_already_is_left_to_that_stop(hub, store, lease, upstream, clock):
    hub.has("student1", idle_min=3000)
    await lease(cull=IDLE_20_MIN, phase=Phase.STOPPING)

    await upstream(cull_arbiter(store=lambda: store, hub_id="test-hub", clock=clock))

    assert hub.deletes == []


async def test_a_store_that_does_not_answer_keeps_all_servers_and_is_asked_again(hub, store, lease, upstream, clock):
    hub.has("student1", idle_min=3000)
    await lease(cull=IDLE_20_MIN)
    answers = iter([False, True])

    class Flaky:
        async def live_with_standings(self, hub_id):
            if not next(answers):
                raise StoreUnavailable(plain("later"))
            return await store.live_with_standings(hub_id)

        intend, add_decisions = store.intend, store.add_decisions

    hook = cull_arbiter(store=Flaky, hub_id="test-hub", clock=clock)
    await upstream(hook)
    assert hub.deletes == []

    await upstream(hook)
    assert hub.deletes == ["/users/student1/server"]


def test_a_policy_that_cannot_be_read_is_refused_when_the_hook_is_made():
    with pytest.raises(ValueError, match="after_s"):
        cull_arbiter(policies={"dl101/gpu": {"after_s": "20m"}})


def test_upstream_takes_the_hook_as_its_trait():
    hook = cull_arbiter(policies={})

    assert IdleCuller(cull_arbiter_hook=hook).cull_arbiter_hook is hook
