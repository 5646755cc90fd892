"""One start, step by step: the claim, the pod, the wait until it runs, the wait until its server answers.

Each step that makes something runs to its end even where its start is cancelled, so that what it made can be found.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from logging import getLogger
from typing import Any

from jupyterhub.utils import maybe_future

from labspawner.errors import LabError, ProviderUnavailable, SetupError, StartFailed
from labspawner.model import LaunchRequest, Progress
from labspawner.providers import probe
from labspawner.providers.kubernetes import manifest, words
from labspawner.providers.kubernetes.answers import ApiRefused, ApiSilent, Obj
from labspawner.providers.kubernetes.cluster import Cluster, Seen
from labspawner.providers.kubernetes.manifest import HUB, MAIN, Marks
from labspawner.providers.kubernetes.options import KubernetesSettings, KubernetesVariant
from labspawner.providers.kubernetes.strategies.contract import Kind, PodPatch, Strategy, Waiting
from labspawner.providers.kubernetes.views import EventView, PodView
from labspawner.providers.kubernetes.wishes import GpuWish
from labspawner.providers.kubernetes.words import containers
from labspawner.providers.redaction import redact, secrets_in
from labspawner.sentences import Sentence
from labspawner.units import human_duration

log = getLogger(__name__)

_LOOK_EVERY_S = 1.0
_FIRST_PROBE_S, _LONGEST_PROBE_S = 0.05, 0.25
_TAIL_LINES = 40
_SCALED_UP = "TriggeredScaleUp"
_MADE, _PLACED, _ANSWERING = 10, 15, 65
_SPAN = _ANSWERING - _PLACED


@dataclass(kw_only=True, slots=True)
class Job:
    """One start. pod, claim: names; claim: the one that is kept for the student, None where none is mounted. child: the
    KubeSpawner that builds it. deadline: seconds of the event loop's clock. environment: of ours, beside the profile's.
    given_up: nobody wants it any more."""

    request: LaunchRequest
    variant: KubernetesVariant
    wish: GpuWish
    patch: PodPatch
    marks: Marks
    child: Any
    namespace: str
    pod: str
    claim: str | None
    deadline: float
    percent: int = _PLACED
    made: Obj = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    given_up: bool = False

    def left_s(self) -> float:
        """Seconds until the start has to be done."""
        return self.deadline - asyncio.get_running_loop().time()

    def __str__(self) -> str:
        return f"lease={self.request.lease_id} user={self.request.user} pod={self.pod}"


class Again(Exception):
    """The pod came to an end that another one, just the same, may well not have. error: what to say otherwise."""

    def __init__(self, error: LabError) -> None:
        super().__init__(str(error))
        self.error = error


class Starter:
    """Makes what a start needs, and looks at it until its server answers."""

    def __init__(self, cluster: Cluster, strategy: Strategy, settings: KubernetesSettings) -> None:
        self._cluster = cluster
        self.strategy = strategy
        self._settings = settings

    # -- making

    async def pod_of(self, job: Job) -> manifest.Manifest:
        """The pod to create. Raises LabError with a sentence for what cannot be built."""
        try:
            child = job.child
            environment = await self._environment(job)
            child.get_env = lambda: environment
            built = await child.get_pod_manifest()
            if child.modify_pod_hook:
                built = await maybe_future(child.modify_pod_hook(child, built))
            plain = await self._cluster.api.plain(built)
        except LabError:
            raise
        except Exception as exc:  # templates and hooks are the administrator's: they may raise anything
            raise SetupError(
                Sentence(
                    "This profile cannot be started: the cluster's settings for it are wrong. Tell your administrator."
                ),
                detail=f"KubeSpawner cannot build the pod {job}: {type(exc).__name__}: {exc}",
            ) from exc
        own = {**job.variant.environment, **job.environment}
        if job.variant.default_url is not None:
            own["JUPYTERHUB_DEFAULT_URL"] = job.variant.default_url
        return manifest.finished(plain, name=job.pod, marks=job.marks, environment=own, patch=job.patch)

    async def _environment(self, job: Job) -> Mapping[str, Any]:
        from labspawner.providers.kubernetes.child import environment_of  # noqa: PLC0415 - it takes seconds to import

        return environment_of(job.child, job.request, hub_environment=os.environ)

    async def ensure_claim(self, job: Job, name: str) -> None:
        """The student's claim is there afterwards, and is this hub's. Raises LabError."""
        api = self._cluster.api
        path = await self._cluster.path("persistentvolumeclaims")
        try:
            found = await api.call("GET", f"{path}/{name}")
        except ApiRefused as exc:
            if exc.status != 404:
                raise words.refusal(exc.status, exc.body, doing=exc.what) from exc
        except ApiSilent as exc:
            raise words.unreachable(exc, doing="get persistentvolumeclaims") from exc
        else:
            self._check_owner(job, name, found)
            return
        claim = manifest.marked(await api.plain(job.child.get_pvc_manifest()), job.marks)
        try:
            await api.call("POST", path, body=claim, wanted=lambda: not job.given_up)
            log.info("claim made name=%s user=%s", name, job.request.user)
        except ApiRefused as exc:
            if exc.status != 409:  # somebody else made it just now: another server of the same student
                raise words.refusal(exc.status, exc.body, doing=exc.what) from exc
        except ApiSilent as exc:
            raise words.unreachable(exc, doing="create persistentvolumeclaims") from exc

    def _check_owner(self, job: Job, name: str, claim: Obj) -> None:
        """A claim without our label was made by KubeSpawner before us, and is taken over as it is."""
        meta = claim.get("metadata") or {}
        owner = (meta.get("labels") or {}).get(HUB)
        if owner not in {None, job.marks.hub_id}:
            raise SetupError(
                Sentence("Your home folder on this cluster belongs to another hub. Tell your administrator."),
                detail=f"claim {name} belongs to hub {owner}: set pvc_name_template of one of them, for example "
                f"'claim-{job.marks.hub_id}-{{user_server}}' {job}",
            )
        if meta.get("deletionTimestamp"):
            raise SetupError(
                Sentence("Your home folder on this cluster is being deleted. Tell your administrator."),
                detail=f"claim {name} is terminating {job}",
            )

    async def create(self, job: Job, pod: manifest.Manifest) -> None:
        """Ask the cluster for the pod. Raises LabError; what was asked for may be there nonetheless."""
        path = await self._cluster.path("pods")
        try:
            job.made = await self._cluster.api.call(
                "POST", path, body=pod, patience_s=self._patience_s(job), wanted=lambda: not job.given_up
            )
        except ApiRefused as exc:
            if exc.status != 409 or exc.reason != "AlreadyExists" or "being deleted" in exc.message:
                raise words.refusal(exc.status, exc.body, doing=exc.what) from exc
            job.made = pod  # an earlier try of ours got through: no other pod has this name
        except ApiSilent as exc:
            raise words.unreachable(exc, doing="create pods") from exc
        await self._after_created(job)

    async def _after_created(self, job: Job) -> None:
        """What KubeSpawner does for some settings: a Service, a hook of the administrator."""
        child = job.child
        if not (child.services_enabled or child.after_pod_created_hook):
            return
        from kubespawner.objects import make_owner_reference  # noqa: PLC0415 - it takes seconds to import

        api = self._cluster.api
        try:
            if child.services_enabled:
                owner = make_owner_reference(job.pod, job.made["metadata"]["uid"])
                service = await api.plain(child.get_service_manifest(owner, child.port))
                await api.call("POST", await self._cluster.path("services"), body=manifest.marked(service, job.marks))
            if child.after_pod_created_hook:
                await maybe_future(child.after_pod_created_hook(child, job.made))
        except ApiRefused as exc:
            raise words.refusal(exc.status, exc.body, doing=exc.what) from exc
        except ApiSilent as exc:
            raise words.unreachable(exc, doing="create services") from exc
        except Exception as exc:  # the hook is the administrator's: it may raise anything
            raise SetupError(
                Sentence(
                    "This profile cannot be started: the cluster's settings for it are wrong. Tell your administrator."
                ),
                detail=f"after_pod_created_hook {job}: {type(exc).__name__}: {exc}",
            ) from exc

    def _patience_s(self, job: Job) -> float:
        return max(0.0, min(self._settings.patience_s, job.left_s()))

    # -- looking

    async def until_running(self, job: Job) -> AsyncIterator[Progress]:
        """Say how far the pod is, until it runs. Raises LabError for what waiting does not mend, or did not in time;
        Again for what another pod may."""
        seen_once = False
        full_since: float | None = None
        said: Sentence | None = None
        while True:
            pods = await self._cluster.pods()
            seen = pods.get(job.pod)
            waiting = await self._waiting(job, seen) if seen is not None else None
            if seen is not None and waiting is None and seen.view.ip:
                return
            seen_once = seen_once or seen is not None
            if seen is None and (seen_once or pods.reached(job.made)):
                raise _deleted(job)
            if waiting is not None:
                full_since = self._full_since(job, waiting, full_since)
                await self._judge(job, waiting, full_since)
                job.percent = max(job.percent, _PLACED + waiting.percent * _SPAN // 100)
                if waiting.message != said:
                    said = waiting.message
                    yield Progress(job.percent, waiting.message)
            if job.left_s() <= 0:
                raise await self._too_late(job, waiting)
            await self._cluster.news(job.pod, timeout_s=min(_LOOK_EVERY_S, max(0.01, job.left_s())))

    async def _waiting(self, job: Job, seen: Seen) -> Waiting | None:
        """What the strategy says of the pod; nodes and other pods are looked at only where it has no place yet."""
        view = seen.view
        events = self._events(job)
        refused = view.condition("PodScheduled")
        unplaced = not view.node and refused is not None and refused.status == "False"
        nodes, pods = (await self._around()) if unplaced else ((), ())
        waiting = self.strategy.why_waiting(view, events, nodes, pods)
        if waiting is None or waiting.kind is Kind.STARTING:
            untouched = self.strategy.untouched(view) if job.request.resources.gpu is not None else None
            if untouched is not None:
                return Waiting(kind=Kind.FAILED, message=untouched, detail=f"untouched {job}")
            return _died_before(view) or waiting
        return waiting

    def _events(self, job: Job) -> list[EventView]:
        found = self._cluster.events_of(job.pod)
        return [*found, *self._cluster.events_of(job.claim)] if job.claim else found

    async def _around(self) -> tuple[list[Any], list[PodView]]:
        """The nodes, and the pods on them; nothing where they cannot be had now."""
        try:
            return await self._cluster.nodes() or [], await self._cluster.neighbours()
        except (ApiRefused, ApiSilent):
            return [], []

    def _full_since(self, job: Job, waiting: Waiting, since: float | None) -> float | None:
        if waiting.kind is not Kind.FULL:
            return None
        return since if since is not None else asyncio.get_running_loop().time()

    async def _judge(self, job: Job, waiting: Waiting, full_since: float | None) -> None:
        """Raise what ends the start now; return where it goes on."""
        if waiting.kind is Kind.STARTING:
            return
        if waiting.kind is Kind.FULL:
            coming = any(event.reason == _SCALED_UP for event in self._cluster.events_of(job.pod))
            waited_s = asyncio.get_running_loop().time() - (full_since or 0.0)
            if coming or waited_s < self._settings.pending_s:
                return
        error = words.error_of(waiting, log_tail=await self._tail(job) if waiting.asks_log else "")
        if waiting.again:
            raise Again(error)
        raise error

    async def _too_late(self, job: Job, waiting: Waiting | None) -> LabError:
        if not (await self._cluster.pods()).current:
            return words.unreachable(doing=f"watch {job}")
        if waiting is not None:
            return words.error_of(waiting, log_tail=await self._tail(job) if waiting.asks_log else "")
        return _no_answer(job)

    async def until_answering(self, job: Job, url: str) -> None:
        """Return when the server answers HTTP below `url`. Raises LabError when its pod ends, or time does."""
        pause = _FIRST_PROBE_S
        while True:
            if await probe.answers(url, timeout_s=max(0.05, min(2.0, job.left_s()))):
                return
            seen = (await self._cluster.pods()).get(job.pod)
            if seen is None:
                raise _deleted(job)
            waiting = await self._waiting(job, seen)
            if waiting is not None and waiting.kind is not Kind.STARTING:
                raise words.error_of(waiting, log_tail=await self._tail(job))
            if job.left_s() <= 0:
                error = _no_answer(job)
                error.log_tail = await self._tail(job)
                raise error
            await self._cluster.news(job.pod, timeout_s=min(pause, max(0.01, job.left_s())))
            pause = min(1.5 * pause, _LONGEST_PROBE_S)

    def url_of(self, job: Job, seen: Seen) -> str:
        """Where the pod's server listens, as KubeSpawner has it. Raises SetupError."""
        try:
            return str(job.child._get_pod_url(dict(seen.raw))).rstrip("/")
        except Exception as exc:  # `get_pod_url` may be the administrator's
            raise SetupError(
                Sentence(
                    "This profile cannot be started: the cluster's settings for it are wrong. Tell your administrator."
                ),
                detail=f"no URL {job}: {type(exc).__name__}: {exc}",
            ) from exc

    # -- what it printed

    async def _tail(self, job: Job) -> str:
        """The last lines of the server, without secrets: of its log, else what the kubelet kept of it."""
        seen = (await self._cluster.pods()).get(job.pod)
        text = await tail(self._cluster, job.pod, _TAIL_LINES, restarted=seen is not None and _restarts(seen.view) > 0)
        if not text and seen is not None:
            main = containers.main_of(seen.view)
            text = (main.message or main.last_message) if main is not None else ""
        return redact(text, secrets_in(job.request.environment))


async def tail(cluster: Cluster, pod: str, lines: int, *, restarted: bool = False) -> str:
    """The last lines of a pod's log; empty where there are none, or the hub may not read them."""
    if lines <= 0:
        return ""
    path = await cluster.path("pods", pod, "log")
    for previous in ("true", "") if restarted else ("",):
        query = {"container": MAIN, "tailLines": str(lines), **({"previous": previous} if previous else {})}
        with contextlib.suppress(ApiRefused, ApiSilent):
            if text := await cluster.api.text(path, query=query):
                return "\n".join(text.splitlines()[-lines:])
    return ""


def _restarts(pod: PodView) -> int:
    main = containers.main_of(pod)
    return main.restarts if main is not None else 0


def _died_before(pod: PodView) -> Waiting | None:
    """A server that was started again by the kubelet before it ever answered: it will not answer the next time either."""
    main = containers.main_of(pod)
    if main is None or main.restarts == 0 or not main.last_reason:
        return None
    return containers.died(main)


def _deleted(job: Job) -> StartFailed:
    return StartFailed(
        Sentence("Your server was deleted from the cluster while it was starting. Start it again."),
        detail=f"the pod is gone {job}",
    )


def _no_answer(job: Job) -> StartFailed:
    return StartFailed(
        Sentence(
            "Your server did not answer within {waited} and was stopped. Try again; if it happens again, "
            "tell your instructor.",
            waited=human_duration(timedelta(seconds=job.request.ready_timeout_s)),
        ),
        detail=f"no answer in time {job}",
    )


def reached(exc: ApiRefused | ApiSilent) -> ProviderUnavailable:
    """Trouble with the API server in any verb but a start: nobody can tell, or do, anything now."""
    error = (
        words.unreachable(exc) if isinstance(exc, ApiSilent) else words.refusal(exc.status, exc.body, doing=exc.what)
    )
    if isinstance(error, ProviderUnavailable):
        return error
    return ProviderUnavailable(error.message, detail=str(error), retry_after_s=30.0)
