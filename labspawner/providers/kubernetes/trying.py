"""Which slice a pod got, and what came of trying it out in there.

With the node agent the verdict stands in the annotation of the node. With HAMi nobody of ours is on the node: our extension
in the server tests the slice by itself, and writes the verdict into the server's log.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from logging import getLogger

from labspawner.extension.slices import LOG, LOG_MARK, OWN
from labspawner.gpu import verdict
from labspawner.gpu.folder import SELFTEST_ENV, VERDICT_ENV
from labspawner.gpu.verdict import NOBODY_TESTS, TOO_SLOW, Verdict
from labspawner.model import HeldSlice, SliceTest
from labspawner.providers.kubernetes.answers import ApiRefused, ApiSilent
from labspawner.providers.kubernetes.cluster import Cluster
from labspawner.providers.kubernetes.manifest import MAIN
from labspawner.providers.kubernetes.options import KubernetesSettings
from labspawner.providers.kubernetes.starting import Job
from labspawner.providers.kubernetes.strategies.contract import Strategy
from labspawner.providers.kubernetes.wishes import SelfTest
from labspawner.sentences import Sentence

log = getLogger(__name__)

_GRANT_S = 3.0  # after the server answers: who gave the slice has said which by then
_BEGIN_S = 3.0  # an image that carries the extension has begun the test by then
_TEST_S = 60.0
_LOOK_EVERY_S = 0.25
_LOG_LINES = 500
_NO_LOG = Verdict(SliceTest.UNTESTED, Sentence("the hub may not read the log of this server"))


class Tester:
    """Looks at the slice of a server that answers."""

    def __init__(self, cluster: Cluster, strategy: Strategy, settings: KubernetesSettings) -> None:
        self._cluster = cluster
        self._strategy = strategy
        self._settings = settings

    def policy(self, job: Job) -> SelfTest:
        """What the profile says, else the provider."""
        return job.wish.selftest or self._settings.gpu.selftest

    def environment(self, job: Job) -> dict[str, str]:
        """What makes the extension test a slice that no agent of ours gave."""
        if job.request.resources.gpu is None or self._strategy.name != "hami" or self.policy(job) == "off":
            return {}
        return {SELFTEST_ENV: OWN, VERDICT_ENV: LOG}

    async def held(self, job: Job) -> HeldSlice | None:
        """The slice with its verdict; None where nobody says which it is. Raises StartFailed where it has to hold and does
        not, or where somebody insists on a test and there is none."""
        held = await self._granted(job)
        if self.policy(job) == "off":
            return replace(held, tested=SliceTest.OFF) if held is not None else None
        found = await self._verdict(job)
        if found.tested is not SliceTest.PASSED:
            log.warning("GPU slice not tested well %s verdict=%s: %s", job, found.tested.value, found.why)
            if self.policy(job) == "require" and (found.tested is SliceTest.FAILED or self._insists(job)):
                raise verdict.refused(found)
        return replace(held, tested=found.tested, why=found.why) if held is not None else None

    def _insists(self, job: Job) -> bool:
        """Whether somebody asked for a test: the profile, the administrator, or images that are said to carry it."""
        return (
            self._settings.reports or job.wish.selftest is not None or "selftest" in self._settings.gpu.model_fields_set
        )

    async def _granted(self, job: Job) -> HeldSlice | None:
        """The first slice that the pod got, as whoever gave it says; waits a little for that."""
        until = asyncio.get_running_loop().time() + _GRANT_S
        while True:
            if (held := await self._said(job)) is not None:
                return held
            if asyncio.get_running_loop().time() >= until:
                log.warning("nobody says which card it got %s", job)
                return None
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _said(self, job: Job) -> HeldSlice | None:
        seen = (await self._cluster.pods()).get(job.pod)
        try:
            nodes = await self._cluster.nodes() or []
        except (ApiRefused, ApiSilent):
            nodes = []
        granted = self._strategy.granted(seen.view, nodes) if seen is not None else None
        return granted[0] if granted else None

    async def _verdict(self, job: Job) -> Verdict:
        began = asyncio.get_running_loop().time()
        while True:
            found = await (self._verdict_in_log(job) if self.environment(job) else self._verdict_of_agent(job))
            if found is not None and found is not NOBODY_TESTS:
                return found
            patience_s = _BEGIN_S if found is NOBODY_TESTS and not self._insists(job) else _TEST_S
            if asyncio.get_running_loop().time() - began >= min(patience_s, max(0.0, job.left_s())):
                return found or TOO_SLOW
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _verdict_of_agent(self, job: Job) -> Verdict | None:
        held = await self._said(job)
        if held is None or held.tested is None:
            return NOBODY_TESTS
        return Verdict(held.tested, held.why)

    async def _verdict_in_log(self, job: Job) -> Verdict | None:
        path = await self._cluster.path("pods", job.pod, "log")
        try:
            text = await self._cluster.api.text(path, query={"container": MAIN, "tailLines": str(_LOG_LINES)})
        except ApiRefused as exc:
            return _NO_LOG if exc.status == 403 else NOBODY_TESTS
        except ApiSilent:
            return NOBODY_TESTS
        return verdict_in(text)


def verdict_in(text: str) -> Verdict | None:
    """The last verdict in a server's log; None while the test runs, NOBODY_TESTS where none has begun. Pure."""
    said = [line.partition(LOG_MARK)[2] for line in text.splitlines() if line.startswith(LOG_MARK)]
    return verdict.judge(said[-1].encode()) if said else NOBODY_TESTS
