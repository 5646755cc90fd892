"""A server of a template, started as a student's would be, looked at from inside, and deleted."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jupyterhub import __version__ as hub_version

from labspawner.cli.vm.looking import Subject
from labspawner.cli.vm.opening import Bench
from labspawner.errors import LabError
from labspawner.guest import HELPER
from labspawner.model import Checkpoint, Event, Handle, LaunchRequest, LeaseId, Progress, Ready, ReleaseMode
from labspawner.naming import new_lease_id
from labspawner.providers.findings import Finding, error, note, ok, trouble, warning
from labspawner.providers.proxmox import checking, handover, words
from labspawner.providers.proxmox.answers import PveRefused, PveSilent
from labspawner.providers.proxmox.record import record_of
from labspawner.providers.proxmox.views import VmView

USER = "labspawner-check"
LIMIT_S = 540.0
"""Less than the ten minutes after which a hub deletes what belongs to nobody."""

_HELPER_S = 60.0
Say = Callable[[str], None]


@dataclass(slots=True)
class _Trial:
    """One server on trial. stages: each with the seconds since the beginning."""

    bench: Bench
    subject: Subject
    lease_id: LeaseId
    say: Say | None = None
    handle: Handle | None = None
    found: list[Finding] = field(default_factory=list)
    stages: list[tuple[float, str]] = field(default_factory=list)
    looked: bool = False

    async def heed(self, event: Event, since: float) -> None:
        if isinstance(event, Checkpoint):
            self.handle = event.handle
        elif isinstance(event, Progress):
            self.stages.append((time.monotonic() - since, str(event.message)))
            if self.say is not None:
                self.say(f"{time.monotonic() - since:6.1f} s  {event.message}")
            if event.message.template == words.AGENT_ANSWERS.template:
                await self.look()

    async def look(self) -> None:
        """Ask the helper inside, once; the start waits meanwhile."""
        self.looked = True
        vmid = record_of(self.handle).vmid if self.handle is not None else None
        vm = (await self.bench.provider.snapshots.now(0.0)).vms.get(vmid or 0)
        if vm is None:
            self.found.append(warning("inside", "the clone is not in the listing, so nothing was looked at"))
            return
        try:
            checked = await self._ask(vm, "check")
            status = await self._ask(vm, "status")
        except PveRefused as exc:
            fix = "labspawner vm guest-helper, and docs/templates.md"
            self.found.append(error("helper", f"{HELPER} cannot be run: {exc.text}", fix))
        except PveSilent as exc:
            self.found.append(error("helper", f"{HELPER} does not answer: {exc.why or exc.what}"))
        else:
            self.found += checking.of_guest(checked, clone=True)
            versions = status.get("versions")
            self.found += checking.of_versions(versions if isinstance(versions, dict) else {}, hub_version)

    async def _ask(self, vm: VmView, verb: str) -> Mapping[str, Any]:
        ran = await self.bench.provider.agent.run(vm.node, vm.vmid, [HELPER, verb], within_s=_HELPER_S)
        return handover.answer_of(ran.out) or {"message": ran.err.strip()[-500:]}


async def inside(bench: Bench, subject: Subject, *, say: Say | None = None) -> list[Finding]:
    """Start a server of the template, look inside, and delete it, whatever comes. say: told of each stage."""
    trial = _Trial(bench, subject, LeaseId(new_lease_id()), say)
    since = time.monotonic()
    try:
        async with _deleted(trial):
            launch: Any = bench.provider.launch(
                request_of(bench, subject, trial.lease_id)
            )  # a generator, which is closed
            async with contextlib.aclosing(launch) as events:
                async for event in events:
                    await trial.heed(event, since)
                    if isinstance(event, Ready):
                        trial.found.append(ok("start", f"a server answered after {time.monotonic() - since:.0f} s"))
            if not subject.variant.serves_jupyter:
                trial.found.append(
                    note("start", "it was switched on; what a student sees on its screen was not looked at")
                )
    except LabError as exc:
        stage = trial.stages[-1][1] if trial.stages else "the beginning"
        trial.found.append(trouble(f"start, at {stage!r}", exc))
        if exc.log_tail:
            trial.found.append(note("log", exc.log_tail.strip()[-2000:]))
    return trial.found


def request_of(bench: Bench, subject: Subject, lease_id: LeaseId) -> LaunchRequest:
    """A start like a student's. Its token is none of the hub's, which is enough to come up and to answer."""
    base = f"/user/{USER}/"
    hub = (bench.provider.settings.hub_connect_url or _hub_url(bench)).rstrip("/")
    return LaunchRequest(
        lease_id=lease_id,
        hub_id=bench.settings.hub_id,
        user=USER,
        server_name="",
        profile=subject.asked.profile,
        base_url=base,
        command=("jupyterhub-singleuser",),
        environment={
            "JUPYTERHUB_API_TOKEN": secrets.token_hex(16),
            "JUPYTERHUB_API_URL": f"{hub}/hub/api",
            "JUPYTERHUB_BASE_URL": "/",
            "JUPYTERHUB_CLIENT_ID": f"jupyterhub-user-{USER}",
            "JUPYTERHUB_HOST": "",
            "JUPYTERHUB_OAUTH_CALLBACK_URL": f"{base}oauth_callback",
            "JUPYTERHUB_SERVER_NAME": "",
            "JUPYTERHUB_SERVICE_PREFIX": base,
            "JUPYTERHUB_USER": USER,
        },
        resources=subject.asked.resources,
        settings=subject.asked.settings,
        ready_timeout_s=LIMIT_S,
    )


def _hub_url(bench: Bench) -> str:
    hub = bench.settings.sections.get("JupyterHub", {})
    return str(hub.get("hub_connect_url") or hub.get("hub_bind_url") or "http://127.0.0.1:8081")


@contextlib.asynccontextmanager
async def _deleted(trial: _Trial) -> AsyncIterator[None]:
    """Delete what the trial left, at the end of the block; what cannot be deleted is a finding."""
    try:
        yield
    finally:
        if trial.handle is not None:
            try:
                await asyncio.shield(trial.bench.provider.release(trial.handle, ReleaseMode.DESTROY, grace_s=1.0))
            except LabError as exc:
                vmid = record_of(trial.handle).vmid
                trial.found.append(
                    warning("clean-up", f"VM {vmid} is still there: {exc}", "the hub deletes it in ten minutes")
                )
