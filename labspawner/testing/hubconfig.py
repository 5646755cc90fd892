"""What the configuration of a test's JupyterHub consists of; `labspawner.testing.hub` writes the file that calls it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from jupyterhub.proxy import Proxy

from labspawner import wiring
from labspawner.errors import ProviderUnavailable
from labspawner.lifecycle import admission, engine
from labspawner.model import (
    Capacity,
    Checkpoint,
    Event,
    Handle,
    LaunchRequest,
    LeaseId,
    OwnedResource,
    Ready,
    ReleaseMode,
    ServerState,
)
from labspawner.providers.contract import Provider, ProviderContext
from labspawner.sentences import plain
from labspawner.testing.forwarding import Forwarding

ADMIN_SCOPES = ["admin:users", "admin:servers", "admin:groups", "groups", "read:metrics", "tokens"]
FAST = {
    "observe_interval_s": 0.1,
    "reconcile_interval_s": 1.0,  # each pass walks over all processes of the machine, in every hub of every test process
    "courses_refresh_s": 0.1,
    "release_grace_s": 2.0,
    "orphan_grace_s": 0.0,
    "forgotten_grace_s": 3.0,
}


class MemoryProxy(Proxy):  # type: ignore[misc]
    """Routes in a dict and nobody who follows them: a hub of a test is asked on its own port."""

    should_start = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._routes: dict[str, dict[str, Any]] = {}

    async def add_route(self, routespec: str, target: str, data: Mapping[str, Any]) -> None:
        self._routes[routespec] = {"routespec": routespec, "target": target, "data": dict(data)}

    async def delete_route(self, routespec: str) -> None:
        self._routes.pop(routespec, None)

    async def get_all_routes(self) -> dict[str, dict[str, Any]]:
        return {spec: dict(route) for spec, route in self._routes.items()}


def configure(c: Any, spec: Mapping[str, Any]) -> None:
    """A small, fast hub: memory proxy, anybody may log in, an API token for the test, short intervals."""
    folder = Path(spec["folder"])
    c.JupyterHub.hub_port = spec["port"]
    c.JupyterHub.bind_url = f"http://127.0.0.1:{spec['proxy_port']}{spec['base_url']}"
    c.JupyterHub.proxy_class = MemoryProxy
    c.JupyterHub.authenticator_class = "dummy"
    c.DummyAuthenticator.password = spec["password"]
    c.Authenticator.allow_all = True
    c.Authenticator.admin_users = {"admin"}
    c.JupyterHub.load_groups = {name: {"users": list(users)} for name, users in spec["groups"].items()}
    c.JupyterHub.services = [{"name": "tester", "api_token": spec["token"]}]
    c.JupyterHub.load_roles = [{"name": "tester", "services": ["tester"], "scopes": ADMIN_SCOPES}]
    c.JupyterHub.allow_named_servers = True
    c.JupyterHub.cleanup_servers = False
    c.JupyterHub.init_spawners_timeout = 600  # after 10 s it would answer while it still asks which servers run
    c.JupyterHub.db_url = f"sqlite:///{folder / 'jupyterhub.sqlite'}"
    c.JupyterHub.cookie_secret_file = str(folder / "cookie_secret")
    c.Spawner.cmd = [sys.executable, "-m", "jupyterhub.tests.mocksu"]
    c.Spawner.poll_interval = 1
    for room in (admission, engine):
        vars(room)["PATIENCE_S"] = 60.0  # a busy machine is no host that does not answer
    settings = {"hub_id": spec["hub_id"], "data_dir": str(folder / "data"), "courses_dir": str(folder / "courses")}
    c.Labspawner.update({**FAST, **settings, "providers": _lazy(spec["providers"]), **spec["settings"]})
    if spec["culler"] is not None:
        wiring.run_culler(c, dry_run=spec["culler"] == "dry-run")
    wiring.wire(c)


def _lazy(providers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The same, but nothing is imported at hub start for servers that few tests start."""
    return {
        name: {"prewarm": False, **given} if given.get("kind", name) == "local" else given
        for name, given in providers.items()
    }


class Steered(Forwarding):
    """A provider that a test steers through files in `folder`; without them it is `inner`.

    `hold`: `<index> before` or `<index> after`: launches stop for ever at that event, for whoever wants to kill the hub
    just there. index: counts the Checkpoints of a launch from 0; Ready is one more than the last. `held.<provider>`
    then says that a launch is held. `silent`: the host does not answer, while its servers do.
    """

    def __init__(self, inner: Provider, folder: Path) -> None:
        super().__init__(inner)
        self._folder = folder

    async def launch(self, request: LaunchRequest) -> AsyncIterator[Event]:
        point = self._folder / "hold"
        words = point.read_text().split() if point.exists() else []
        at = (int(words[0]), words[1]) if words else (-1, "")
        index = 0
        events: Any = self.inner.launch(request)
        async with aclosing(events):
            async for event in events:
                counted = isinstance(event, (Checkpoint, Ready))
                if counted and at == (index, "before"):
                    await self._hold()
                yield event
                if counted and at == (index, "after"):
                    await self._hold()
                index += counted

    async def _hold(self) -> None:
        (self._folder / f"held.{self.name}").touch()
        await asyncio.Event().wait()

    def _must_answer(self) -> None:
        if (self._folder / "silent").exists():
            raise ProviderUnavailable(plain("The machines do not answer."), detail=f"provider={self.name} is silent")

    async def capacity(self) -> Capacity:
        self._must_answer()
        return await self.inner.capacity()

    async def observe(self, handles: Sequence[Handle]) -> Mapping[LeaseId, ServerState]:
        try:
            self._must_answer()
        except ProviderUnavailable:
            return {handle.lease_id: ServerState.UNKNOWN for handle in handles}
        return await self.inner.observe(handles)

    async def release(self, handle: Handle, mode: ReleaseMode, *, grace_s: float) -> None:
        self._must_answer()
        await self.inner.release(handle, mode, grace_s=grace_s)

    async def owned(self) -> Sequence[OwnedResource]:
        self._must_answer()
        return await self.inner.owned()


def steered(context: ProviderContext, settings: Mapping[str, Any]) -> Steered:
    """The entry point `steered`: `inner` (`module:name` of the provider inside), `folder`, `settings` (its own)."""
    inner: Provider = resolve_name(settings["inner"])(context, settings.get("settings", {}))
    return Steered(inner, Path(settings["folder"]))
