"""The culler as JupyterHub's own managed service: does it cull with exactly its scopes, and is each of them needed?"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from datetime import datetime, timezone

import pytest
from builders import a_lease
from tornado.httpclient import AsyncHTTPClient, HTTPClientError

from labspawner.culler import SCOPES
from labspawner.culler.hub import Hub, HubUnavailable, Outcome
from labspawner.model import Phase
from labspawner.testing.hub import free_ports

pytestmark = [
    pytest.mark.hub,
    pytest.mark.skipif(
        not shutil.which("configurable-http-proxy"), reason="needs the command configurable-http-proxy (npm)"
    ),
]

CONFIG = """
import asyncio
import sys
from jupyterhub.spawner import SimpleLocalProcessSpawner
from labspawner.culler import SCOPES, role, service

ports, store_url, tester, tokens = {ports!r}, {store_url!r}, {tester!r}, {tokens!r}
c.JupyterHub.bind_url = f"http://127.0.0.1:{{ports[0]}}"
c.JupyterHub.hub_port = ports[1]
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{{ports[2]}}"
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.allow_named_servers = True
class Spawner(SimpleLocalProcessSpawner):
    start_timeout = 600

    async def start(self):
        if self.user.name == "stuck":
            await asyncio.Event().wait()
        return await super().start()

c.JupyterHub.spawner_class = Spawner
c.JupyterHub.tornado_settings = {{"slow_spawn_timeout": 0}}
c.SimpleLocalProcessSpawner.home_dir_template = {home!r}
c.Spawner.cmd = [sys.executable, "-m", "jupyterhub.tests.mocksu"]
c.JupyterHub.services = [
    service(store_url=store_url, hub_id="test-hub", interval_s=0.5, **{culler!r}),
    {{"name": "tester", "api_token": tester}},
    *({{"name": f"without-{{i}}", "api_token": token}} for i, token in enumerate(tokens)),
]
c.JupyterHub.load_roles = [
    role(),
    {{"name": "tester", "services": ["tester"], "scopes": ["admin:users", "admin:servers"]}},
    *(
        {{"name": f"without-{{i}}", "services": [f"without-{{i}}"], "scopes": [*SCOPES[:i], *SCOPES[i + 1:]]}}
        for i in range(len(SCOPES))
    ),
]
"""
TESTER = "1e57e400" * 8
TOKENS = [f"{i}badc0de" * 8 for i in range(len(SCOPES))]


class RealHub:
    def __init__(self, api_url, log):
        self.api_url, self._log = api_url, log
        self._client = AsyncHTTPClient(force_instance=True)

    async def call(self, method, path, body=None):
        headers = {"Authorization": f"token {TESTER}"}
        answer = await self._client.fetch(
            self.api_url + path,
            method=method,
            headers=headers,
            body=body,
            allow_nonstandard_methods=True,
            connect_timeout=240,
            request_timeout=240,
        )
        return json.loads(answer.body) if answer.body else None

    async def until(self, condition, what, deadline_s=240):
        deadline = asyncio.get_running_loop().time() + deadline_s
        while asyncio.get_running_loop().time() < deadline:
            with contextlib.suppress(OSError, HTTPClientError):
                if await condition():
                    return
            await asyncio.sleep(0.1)
        raise AssertionError(f"no {what} in {deadline_s} s; the hub's log:\n{self.log()}")

    async def start(self, user, name="", *, until="ready"):
        with contextlib.suppress(HTTPClientError):
            await self.call("POST", f"/users/{user}")
        await self.call("POST", f"/users/{user}/servers/{name}" if name else f"/users/{user}/server", "{}")

        async def there():
            return (await self.servers(user)).get(name, {}).get(until)

        await self.until(there, f"{until} server of {user}")

    async def servers(self, user):
        return (await self.call("GET", f"/users/{user}"))["servers"]

    def log(self):
        return self._log.read_text(errors="replace")

    def close(self):
        self._client.close()


@pytest.fixture
async def real_hub(tmp_path):
    """Start a JupyterHub whose culler has these further settings; stopped, with all it started, at the end."""
    running = []

    async def start(**culler):
        ports = free_ports(3)
        config, log = tmp_path / "jupyterhub_config.py", tmp_path / "hub.log"
        config.write_text(
            CONFIG.format(
                ports=ports,
                store_url=f"sqlite:///{tmp_path}/leases.sqlite",
                tester=TESTER,
                tokens=TOKENS,
                home=str(tmp_path / "home-{username}"),
                culler=culler,
            )
        )
        with log.open("wb") as output:
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "jupyterhub",
                f"--config={config}",
                cwd=tmp_path,
                env={**os.environ, "PYTHONWARNINGS": "default"},
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        hub = RealHub(f"http://127.0.0.1:{ports[1]}/hub/api", log)
        running.append((child, hub))

        async def up():
            if child.returncode is not None:
                raise AssertionError(f"the hub died:\n{hub.log()}")
            # With its proxy checked the hub listens; the services come up next.
            return await hub.call("GET", "/")

        await hub.until(up, "answer of the hub")
        return hub

    yield start
    for child, hub in running:
        hub.close()
        if child.returncode is None:
            child.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(child.wait(), 120)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)


async def test_the_hubs_own_culler_stops_what_is_idle_with_exactly_its_scopes(real_hub, store):
    hub = await real_hub()
    for user, name in (("student1", ""), ("student1", "gpu"), ("student2", "")):
        await hub.start(user, name)
    leases = [
        a_lease(user="student1", server_name=name, phase=Phase.READY, pinned={"cull": {"after_s": 1}})
        for name in ("", "gpu")
    ]
    for lease in leases:
        await store.add(lease)

    async def culled():
        return await hub.servers("student1") == {}

    await hub.until(culled, "cull")

    assert list(await hub.servers("student2")) == [""]  # no lease: kept
    for lease in leases:
        assert (await store.get(lease.id)).ending.reason.template == (
            "idle for {idle}; this profile's limit is {limit}"
        )

    async def recorded():
        return len(await store.decisions(hub_id="test-hub")) == 2

    await hub.until(recorded, "decision log")
    assert all(decision.applied for decision in await store.decisions(hub_id="test-hub"))
    # The named server is stopped, not removed.
    kept = (await hub.call("GET", "/users/student1?include_stopped_servers"))["servers"]
    assert kept["gpu"]["stopped"]
    assert "I " in hub.log()
    assert "culled user='student1' server='gpu'" in hub.log()

    # Each scope is needed, and its lack is said.
    without = dict(zip(SCOPES, (Hub(hub.api_url, token) for token in TOKENS), strict=True))
    with pytest.raises(HubUnavailable, match="403"):
        await without["list:users"].active_servers()
    with pytest.raises(HubUnavailable, match="read:servers"):
        await without["read:servers"].active_servers()
    stop = await without["delete:servers"].stop("student2", "")
    assert stop.outcome is Outcome.REFUSED
    assert "403" in stop.detail
    for client in without.values():
        client.close()


async def test_a_dry_run_of_the_hubs_own_culler_stops_nothing(real_hub, store):
    hub = await real_hub(dry_run=True)
    await hub.start("student1")
    await store.add(a_lease(phase=Phase.READY, pinned={"cull": {"max_age_s": 0.001}}))

    async def recorded():
        return await store.decisions(hub_id="test-hub")

    await hub.until(recorded, "decision")

    [decision] = await store.decisions(hub_id="test-hub")
    assert (decision.verdict, decision.applied) == ("cull", False)
    assert (await hub.servers("student1"))[""]["ready"]


async def test_a_start_that_hangs_is_interrupted_and_the_next_one_is_possible(real_hub, store):
    hub = await real_hub(stuck_after_s=2)
    await hub.start("stuck", until="pending")
    now = datetime.now(timezone.utc)
    lease = a_lease(user="stuck", phase=Phase.LAUNCHING, phase_at=now, pinned={"cull": {"after_s": 1200}})
    await store.add(lease)

    async def culled():
        return await hub.servers("stuck") == {}

    await hub.until(culled, "cull")

    assert (await store.get(lease.id)).ending.reason.template == "stuck in starting for {span}"
    await hub.call("POST", "/users/stuck/server", "{}")  # taken, or this raises; it may be interrupted as soon as it is
