"""From a VM that is there to a server that answers in it: switched on, its agent, its address, its environment, its answer.

A VM that was just made and one that was parked go the same way; of the latter some steps are only shorter.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from logging import getLogger
from typing import TypeVar

from labspawner.errors import StartFailed
from labspawner.guest import HELPER
from labspawner.providers import probe
from labspawner.providers.contract import HomeCall
from labspawner.providers.proxmox import handover, verdicts, words
from labspawner.providers.proxmox.agent import GuestAgent, Interface, Ran
from labspawner.providers.proxmox.answers import Fault, PveRefused, PveSilent
from labspawner.providers.proxmox.doing import Doing, TaskFailed
from labspawner.providers.proxmox.handover import GuestReport
from labspawner.providers.proxmox.homecalls import Expected, HomeCalls
from labspawner.providers.proxmox.job import Job
from labspawner.providers.proxmox.options import ProxmoxSettings
from labspawner.providers.proxmox.pace import Pace
from labspawner.providers.redaction import redact, secrets_in

log = getLogger(__name__)
T = TypeVar("T")

_TAIL_LINES = 40
_PING_EVERY_S, _LOOK_EVERY_S, _PROBE_EVERY_S = 3.0, 4.0, 0.5
_WAKES_S = 1.0
"""Until the agent of a woken VM answers, as it was measured; a ping before that holds a worker of the node for 3 s."""
_PROBES_A_LOOK = 10
_IS_ON_EVERY_S = 15.0
_AGENT_MAY_LAG_S = 30.0
"""For which a guest agent is waited for once its VM has called: it comes up earlier than cloud-init is through."""
_AGENT_CALL_S, _ASKING_S = 300.0, 60.0
_START, _BOOT, _AGENT, _CONFIGURE, _JUPYTER = 45, 50, 65, 80, 90


class Arrival:
    """Brings VMs to the point where a student can work in them."""

    def __init__(
        self,
        doing: Doing,
        agent: GuestAgent,
        calls: HomeCalls,
        settings: ProxmoxSettings,
        *,
        pace: Pace,
        runs: Callable[[int], None],
    ) -> None:
        """runs: told of each VM that was switched on, since listings show that late."""
        self._doing = doing
        self._agent = agent
        self._calls = calls
        self._settings = settings
        self._pace = pace
        self._runs = runs

    async def bring(self, job: Job) -> str:
        """The URL of the server once it answers. Raises LabError."""
        with self._calls.expecting(job) as expected:
            await job.line.say(_START, words.WAKING if job.was_hibernated else words.STARTING)
            await self.switch_on(job)
            self._runs(job.vmid)
            if not job.variant.serves_jupyter:
                return await self._desktop(job)
            await job.line.say(_BOOT, words.BOOTING)
            if expected is not None and not await self._agent_first(job, expected):
                url = await self._called(job, expected)
            else:
                url = await self._through_agent(job)
            await job.line.say(_JUPYTER, words.STARTING_JUPYTER)
            await self._until_answering(job, url)
            return url

    async def _through_agent(self, job: Job) -> str:
        """The URL of a server that was started by the guest agent. Raises LabError."""
        await self._until_agent(job)
        await job.line.say(_AGENT, words.AGENT_ANSWERS)
        report = await self._until_set_up(job)
        verdicts.check_versions(report)
        url = verdicts.url_of(job, await self._address(job))
        await job.line.say(_CONFIGURE, words.CONFIGURING)
        await self._configure(job, url)
        return url

    # -- a VM that calls

    async def _agent_first(self, job: Job, expected: Expected) -> bool:
        """Whether the agent of a VM that may call answers; its call is nothing then. Raises as `_until_agent` does."""
        if job.variant.handover == "call-home" or not await self._until_agent(job, expected):
            return False
        self._calls.forget(expected)
        return True

    async def _called(self, job: Job, expected: Expected) -> str:
        """The URL of a server that the VM started, when it had called for its environment. Raises LabError."""
        job.line.mention(_BOOT, words.WAITING_FOR_CALL)
        expected.answers = True
        call = await self._until_called(job, expected)
        await job.line.say(_AGENT, words.AGENT_ANSWERS)
        verdicts.check_versions(GuestReport(versions=call.versions))
        url = verdicts.url_of(job, job.record.address)
        await job.line.say(_CONFIGURE, words.CONFIGURING)
        await job.checkpoint(called=True)
        expected.give(self._configuration(job, url))
        log.info("environment given to a VM that called %s", job)
        return url

    async def _until_called(self, job: Job, expected: Expected) -> HomeCall:
        """The call. Raises StartFailed for a VM that goes off, or never calls."""
        limit_s = job.variant.agent_timeout_s or self._settings.boot_timeout_s
        begun, looked = self._pace.now(), self._pace.now()
        while not expected.called.done():
            now = self._pace.now()
            if now - begun > limit_s:
                raise verdicts.no_call(job, now - begun)
            if now - looked > _IS_ON_EVERY_S:
                looked = now
                if not await self._patiently(lambda: self._is_on(job)):
                    raise verdicts.went_off(job)
            await self._pace.sleep(_PROBE_EVERY_S)
        return expected.called.result()

    # -- power

    async def switch_on(self, job: Job) -> None:
        """The VM runs afterwards; a hibernated one goes on where it was. Raises LabError."""
        for last in (False, True):
            try:
                await self._doing.task(
                    job.vmid, "POST", "status/start", kind="qmstart", within_s=self._settings.boot_timeout_s
                )
            except TaskFailed as exc:
                if exc.fault is Fault.ALREADY_RUNNING or await self._is_on(job):
                    return  # a time-out of PVE's says nothing of QEMU
                if exc.fault is not Fault.START_TIMEOUT or last:
                    raise verdicts.not_started(job, exc) from exc
                log.warning("starting the VM once more %s: %s", job, exc)
            except PveRefused as exc:
                if exc.fault is Fault.ALREADY_RUNNING:
                    return
                raise
            except PveSilent:
                if await self._is_on(job):
                    return
                raise
            else:
                return

    async def _is_on(self, job: Job) -> bool:
        status = await self._doing.get(job.vmid, "status/current")
        return isinstance(status, Mapping) and status.get("status") == "running"

    async def _desktop(self, job: Job) -> str:
        assert self._settings.desktop_url is not None  # looked at before anything was made
        return str(self._settings.desktop_url)

    # -- the guest

    async def _until_agent(self, job: Job, expected: Expected | None = None) -> bool:
        """True when the guest agent answers; False where it does not and the VM has called, as `expected` knows. Raises
        StartFailed for a VM that goes off, or whose agent never comes."""
        limit_s = job.variant.agent_timeout_s or self._settings.boot_timeout_s
        if job.was_hibernated:
            await self._pace.sleep(_WAKES_S)
        begun, reset = self._pace.now(), False
        while True:
            try:
                if await self._patiently(lambda: self._ping(job)):
                    return True
            except PveRefused as exc:
                if exc.fault is Fault.AGENT_OFF and expected is not None:
                    return False
                if exc.fault is Fault.AGENT_OFF:
                    raise verdicts.no_agent(job, "it is switched off in the VM's configuration") from exc
                if exc.fault is Fault.NOT_RUNNING and not await self._is_on(job):
                    raise verdicts.went_off(job) from exc
                if exc.fault not in {Fault.NOT_RUNNING, Fault.NO_AGENT, Fault.MOVED, Fault.NODE_AWAY}:
                    raise
            heard_at = expected.heard_at if expected is not None else None
            if heard_at is not None and self._pace.now() - heard_at > _AGENT_MAY_LAG_S:
                log.info("no guest agent, and the VM called %s", job)
                return False
            waited_s = self._pace.now() - begun
            if waited_s > limit_s and (reset or job.parked):
                raise verdicts.no_agent(job, f"none in {waited_s:.0f} s")
            if waited_s > limit_s / 2 and not reset and not job.parked:
                reset = True
                log.warning("no guest agent after %.0f s, resetting the VM %s", waited_s, job)
                job.line.mention(_BOOT, words.BOOTING_AGAIN)
                await self._reset(job)
            await self._pace.sleep(_WAKES_S if job.was_hibernated else _PING_EVERY_S)

    async def _ping(self, job: Job) -> bool:
        return await self._agent.ping(await self._doing.node_of(job.vmid), job.vmid)

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What `ask` answers, asked again while the cluster does not: a boot of minutes survives a moment's silence.
        Raises PveSilent when it stays silent, and whatever else `ask` raises."""
        since = self._pace.now()
        while True:
            try:
                return await ask()
            except PveSilent as exc:
                if self._pace.now() - since >= self._settings.patience_s:
                    raise
                log.info("asking again: %s", exc)
            await self._pace.sleep(_LOOK_EVERY_S)

    async def _reset(self, job: Job) -> None:
        try:
            await self._doing.task(
                job.vmid, "POST", "status/reset", kind="qmreset", within_s=self._settings.boot_timeout_s
            )
        except (TaskFailed, PveRefused) as exc:
            log.warning("the VM could not be reset %s: %s", job, exc)

    async def _until_set_up(self, job: Job) -> GuestReport:
        """What the helper says once cloud-init is through. Raises LabError."""
        while True:
            report = await self._patiently(lambda: self._report(job))
            if report.set_up:
                if report.cloud_init == "error":
                    log.warning("cloud-init met an error in the VM %s", job)
                return report
            job.line.mention(_AGENT, words.SETTING_UP)
            await self._pace.sleep(_LOOK_EVERY_S)

    async def _report(self, job: Job) -> GuestReport:
        ran = await self._helper(job, "status")
        said = handover.answer_of(ran.out)
        if said is None or said.get("ok") is not True:
            raise verdicts.bad_helper(job, "status", ran, said)
        return handover.report_of(said)

    async def _glance(self, job: Job) -> GuestReport | None:
        """The same where it does not matter if it cannot be had this time."""
        try:
            return await self._report(job)
        except (PveRefused, PveSilent) as exc:
            log.debug("the helper does not answer %s: %s", job, exc)
            return None

    async def _helper(self, job: Job, *verb: str, stdin: str = "") -> Ran:
        """Run a verb of the helper; once more where the agent lost its voice for a moment. Raises LabError."""
        for last in (False, True):
            node = await self._doing.node_of(job.vmid)
            try:
                return await self._agent.run(node, job.vmid, [HELPER, *verb], stdin=stdin, within_s=_AGENT_CALL_S)
            except PveRefused as exc:
                if exc.fault in {Fault.HELPER_MISSING, Fault.AGENT_BLOCKED}:
                    raise verdicts.no_helper(job, exc) from exc
                if exc.fault is Fault.NOT_RUNNING and not await self._is_on(job):
                    raise verdicts.went_off(job) from exc
                if last or exc.fault not in {Fault.NO_AGENT, Fault.NOT_RUNNING, Fault.MOVED, Fault.AGENT_PID}:
                    raise
            except PveSilent:
                if last:
                    raise
            await self._pace.sleep(_LOOK_EVERY_S)
        raise AssertionError("unreachable")

    async def _interfaces(self, job: Job) -> tuple[Interface, ...]:
        return await self._agent.interfaces(await self._doing.node_of(job.vmid), job.vmid)

    async def _address(self, job: Job) -> str:
        """The address of the VM, as its card net0 has it in the guest. Raises StartFailed where it gets none."""
        wanted = job.record.address
        while True:
            seen = await self._patiently(lambda: self._interfaces(job))
            found = verdicts.address_of(seen, mac=job.record.mac, wanted=wanted)
            if found is not None:
                if job.addresses is None and found != job.record.address:
                    await job.checkpoint(address=found, ssh=f"{job.variant.user}@{found}" if job.variant.ssh else "")
                return found
            job.line.mention(_AGENT, words.WAITING_FOR_NETWORK)
            if job.left_s() <= _LOOK_EVERY_S:
                raise verdicts.no_address(job, seen)
            await self._pace.sleep(_LOOK_EVERY_S)

    # -- the server

    def _configuration(self, job: Job, url: str) -> str:
        """What `configure` reads; secret."""
        variant, request = job.variant, job.request
        environment = {
            **handover.environment_of(
                request,
                url=url,
                hub_connect_url=self._settings.hub_connect_url,
                hub_environment=os.environ,
            ),
            **variant.environment,
        }
        if variant.default_url is not None:
            environment["JUPYTERHUB_DEFAULT_URL"] = variant.default_url
        return handover.configuration(
            request,
            user=variant.user,
            command=variant.command or request.command,
            environment=environment,
            home=variant.home,
            stays=variant.offers_desktop,
        )

    async def _configure(self, job: Job, url: str) -> None:
        stdin = self._configuration(job, url)
        ran = await self._patiently(lambda: self._helper(job, "configure", stdin=stdin))
        said = handover.answer_of(ran.out)
        if said is None or said.get("ok") is not True:
            raise verdicts.bad_helper(job, "configure", ran, said)

    async def _until_answering(self, job: Job, url: str) -> None:
        """Return when the server answers. Raises StartFailed, with its last words, where it died."""
        lease, probes = str(job.request.lease_id), 0
        while True:
            if await probe.answers(url + job.request.base_url + "api", timeout_s=max(0.05, min(2.0, job.left_s()))):
                return
            probes += 1
            if probes % _PROBES_A_LOOK == 0 and job.record.called:
                if not await self._patiently(lambda: self._is_on(job)):  # it goes off a minute after its server ended
                    raise StartFailed(words.DIED, detail=f"the VM went off, so its server has ended {job}")
            elif probes % _PROBES_A_LOOK == 0:
                report = await self._glance(job)
                if report is not None and report.died(lease):
                    raise StartFailed(
                        words.DIED,
                        detail=f"server ended exit_code={report.exit_code} {job}",
                        log_tail=await self.tail(job, _TAIL_LINES),
                    )
            await self._pace.sleep(_PROBE_EVERY_S)

    async def tail(self, job: Job, lines: int) -> str:
        """The last lines of the server's log, without secrets; empty where they cannot be had."""
        if job.record.vmid is None or job.record.called or job.variant.handover == "call-home":
            return ""
        return redact(await self.logs(job.vmid, lines), secrets_in(job.request.environment))

    async def logs(self, vmid: int, lines: int) -> str:
        """The same for any VM; what is secret in it is not known here."""
        try:
            node = await self._doing.node_of(vmid)
            ran = await self._agent.run(node, vmid, [HELPER, "logs", str(min(lines, 1000))], within_s=_ASKING_S)
        except (PveRefused, PveSilent):
            return ""
        return "\n".join(ran.out.splitlines()[-lines:]) if ran.ok and lines > 0 else ""

    async def report(self, vmid: int) -> GuestReport | None:
        """What the helper in a VM says; None where it does not. Raises PveRefused, PveSilent."""
        node = await self._doing.node_of(vmid)
        ran = await self._agent.run(node, vmid, [HELPER, "status"], within_s=_ASKING_S)
        said = handover.answer_of(ran.out)
        return handover.report_of(said) if said is not None and said.get("ok") is True else None
