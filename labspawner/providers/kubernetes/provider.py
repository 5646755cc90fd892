"""The Kubernetes provider: each server as a pod, built by KubeSpawner, watched by reflectors of ours.

A pod carries lease, hub and provider as labels, and its name ends in the lease's id. What is true comes from one list
and one watch of the pods with our labels; nothing is asked per server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from importlib.util import find_spec
from logging import getLogger
from types import ModuleType
from typing import Any, TypeVar

from labspawner.errors import BadConfig, LabError, ProviderUnavailable
from labspawner.model import (
    Activity,
    Capacity,
    CardCapacity,
    Checkpoint,
    Event,
    Feature,
    Handle,
    HeldSlice,
    HostCapacity,
    Json,
    LaunchRequest,
    LeaseId,
    OwnedResource,
    Progress,
    Ready,
    ReleaseMode,
    ServerState,
    SliceTest,
    Usage,
)
from labspawner.providers.contract import Ear, ProviderContext
from labspawner.providers.findings import Finding
from labspawner.providers.kubernetes import ending, manifest
from labspawner.providers.kubernetes.announcing import Announcer
from labspawner.providers.kubernetes.answers import ApiRefused, ApiSilent
from labspawner.providers.kubernetes.cluster import Cluster, Seen, leases_on_nodes
from labspawner.providers.kubernetes.diagnosis import Subject, diagnose
from labspawner.providers.kubernetes.manifest import Marks
from labspawner.providers.kubernetes.options import KubernetesSettings, KubernetesVariant
from labspawner.providers.kubernetes.pool import pool_of
from labspawner.providers.kubernetes.slicing import Slicing
from labspawner.providers.kubernetes.starting import Again, Job, Starter, reached, tail
from labspawner.providers.kubernetes.state import state_of
from labspawner.providers.kubernetes.trying import Tester
from labspawner.providers.kubernetes.wishes import GpuWish
from labspawner.providers.launches import Launches
from labspawner.providers.options import read_options
from labspawner.providers.redaction import redact, secrets_in
from labspawner.providers.standins import Identity
from labspawner.sentences import Sentence

log = getLogger(__name__)
T = TypeVar("T")

_ROLLBACK_GRACE_S = 1.0
_POD, _CLAIM, _NAMESPACE = "pod", "claim", "namespace"
_UNCOUNTED_CARD = CardCapacity(uuid="uncounted", memory_total_bytes=1 << 50, memory_free_bytes=1 << 50)


class KubernetesProvider:
    """Starts each server as a pod, and finds it again by its labels."""

    hub_config = ("Spawner", "KubeSpawner")
    """Sections of the hub's configuration that the settings get as `hub_config`."""

    def __init__(self, context: ProviderContext, settings: Mapping[str, Json]) -> None:
        self.name = context.name
        where = f"Provider {context.name}"
        self.settings = read_options(KubernetesSettings, settings, where=where)
        self._kube = _kubespawner(where)
        self._kube.check_settings(self.settings, where=where)
        self._hub_id = context.hub_id
        self.strategy = Slicing(self.settings.gpu)
        slices = {Feature.GPU_SLICES} if self.strategy.name != "none" else set()
        reports = {Feature.REPORTS} if self.settings.reports else set()
        self.features = frozenset({Feature.LOGS, *slices, *reports})
        self.cluster = Cluster(self.settings, hub_id=context.hub_id, provider=context.name)
        self._pool = pool_of(self.settings)
        self._starter = Starter(self.cluster, self.strategy, self.settings)
        self._tester = Tester(self.cluster, self.strategy, self.settings)
        self._launches = Launches(self.settings.max_servers)
        self._announcer = Announcer(self.cluster, self._launches.__contains__)
        self._jobs: dict[LeaseId, Job] = {}
        self._making: dict[LeaseId, asyncio.Task[None]] = {}
        self._rollbacks: set[asyncio.Task[None]] = set()

    # -- what there is

    async def capacity(self) -> Capacity:
        """The nodes as the strategy counts them, per card; one host without limits where the hub may not see nodes."""
        pods = await _answered(self.cluster.settled())
        await self.strategy.settle(self.cluster.api.call)
        nodes = await _answered(self.cluster.nodes())
        taken_at = datetime.now(timezone.utc)
        most = self.settings.max_servers
        left = None if most is None else max(0, most - len({*self._launches.leases(), *(s.lease_id for s in pods)}))
        if nodes is None:
            cards = (_UNCOUNTED_CARD,) if self.strategy.name != "none" else ()
            hosts: tuple[HostCapacity, ...] = (HostCapacity(name="cluster", cards=cards),)
        else:
            around = await _answered(self.cluster.neighbours())
            hosts = self.strategy.capacity([node for node in nodes if self._pool.admits(node)], around)
        counted = leases_on_nodes(pods)
        return Capacity(
            hosts=tuple(self._as_promised(host, left) for host in hosts), taken_at=taken_at, counted=counted
        )

    async def observe(self, handles: Sequence[Handle]) -> Mapping[LeaseId, ServerState]:
        """Say what is true now, from the watch; one list for all where it was broken."""
        try:
            pods = await self.cluster.settled()
        except (ApiRefused, ApiSilent, BadConfig) as exc:
            log.warning("cannot observe: %s", exc)
            return {handle.lease_id: ServerState.UNKNOWN for handle in handles}
        by_lease: dict[LeaseId, list[Seen]] = {}
        for seen in pods:
            by_lease.setdefault(seen.lease_id, []).append(seen)
        return {handle.lease_id: state_of(by_lease.get(handle.lease_id, [])) for handle in handles}

    async def owned(self) -> Sequence[OwnedResource]:
        """Every pod with this hub's and this provider's label, from a list made now. Claims outlive their servers."""
        pods = await _answered(self.cluster.pods())
        await _answered(pods.refresh())
        return [
            OwnedResource(
                lease_id=seen.lease_id,
                handle=self._handle(seen.lease_id, seen.view.namespace, seen.view.name),
                user=seen.view.annotations.get(manifest.USER, ""),
                created_at=seen.view.created_at,
            )
            for seen in pods
            if seen.lease_id
        ]

    async def activity(self, handle: Handle) -> Activity | None:
        """None: the cluster does not tell what a server does."""
        return None

    async def usage(self, handles: Sequence[Handle]) -> Mapping[LeaseId, Usage]:
        """Nothing: the cluster's metrics are not everywhere, and are not asked for."""
        return {}

    async def logs(self, handle: Handle, lines: int) -> str:
        """The last `lines` lines the server printed, tokens hidden; empty where the hub may not read logs."""
        found = await self.cluster.of_lease(handle.lease_id)
        if not found or lines <= 0:
            return ""
        env = manifest.main_container(found[0].raw).get("env") or ()
        secrets = secrets_in({str(each.get("name")): str(each.get("value") or "") for each in env})
        return redact(await tail(self.cluster, found[0].view.name, lines), secrets)

    # -- start

    async def launch(self, request: LaunchRequest) -> AsyncIterator[Event]:
        """Start a server; see the contract. Raises what stands in the way in a sentence: StartFailed, NoRoom, NeverFits,
        SetupError, ProviderUnavailable, LeaseConflict; BadConfig for a variant's setting that there is not."""
        deadline = asyncio.get_running_loop().time() + request.ready_timeout_s
        job = await self._job(request, deadline)
        pods = await _answered(self.cluster.settled())
        await self.cluster.listen()
        self._launches.begin(request.lease_id, running={seen.lease_id for seen in pods if not seen.view.ended})
        self._jobs[request.lease_id] = job
        self.cluster.attend(job.pod)
        if job.claim is not None:
            self.cluster.attend(job.claim)
        try:
            yield Checkpoint(self._handle_of(job))
            yield Progress(5, Sentence("Asking the cluster for your server"))
            async for progress in self._until_running(job):
                yield progress
            url = self._starter.url_of(job, await self._seen(job))
            yield Progress(90 if job.percent > 65 else 65, Sentence("Waiting for it to answer"))
            await self._starter.until_answering(job, url + request.base_url + "api")
            if request.resources.gpu is not None:
                yield Progress(92, Sentence("Trying out your GPU slice"))
                held = await self._tester.held(job)
                if held is not None and held.tested is SliceTest.PASSED:
                    yield Progress(95, Sentence("Your GPU slice was tried out, and holds"))
                yield Checkpoint(self._handle_of(job, held=held))
        except BaseException:
            await self._roll_back(job)
            raise
        finally:
            self._launches.end(request.lease_id)
            self._jobs.pop(request.lease_id, None)
            self.cluster.leave(job.pod)
            if job.claim is not None:
                self.cluster.leave(job.claim)
        log.debug("server answers %s url=%s", job, url)
        yield Ready(url)

    async def _job(self, request: LaunchRequest, deadline: float) -> Job:
        """Everything that can be said before anything is made."""
        where = f"Profile {request.profile}, variant of provider {self.name}"
        variant = read_options(KubernetesVariant, request.settings, where=where)
        wish = GpuWish.read(request.settings, where=where)
        await self.strategy.settle(self.cluster.api.call)
        patch = self.strategy.patch(request.resources.gpu, wish)
        namespace = await self.cluster.namespace()
        child = self._child(Identity.of_request(request), namespace, await self.cluster.api.core())
        self._kube.equip(child, request, variant, self.settings, where=where)
        name = manifest.pod_name(child.pod_name, request.lease_id)
        child.pod_name = name
        child.dns_name = child.dns_name_template.format(namespace=namespace, name=name)
        job = Job(
            request=request,
            variant=variant,
            wish=wish,
            patch=patch,
            marks=Marks(
                lease_id=request.lease_id,
                hub_id=self._hub_id,
                provider=self.name,
                user=request.user,
                server_name=request.server_name,
                profile=request.profile,
            ),
            child=child,
            namespace=namespace,
            pod=name,
            claim=child.pvc_name if child.storage_pvc_ensure else None,
            deadline=deadline,
        )
        job.environment |= self._tester.environment(job)
        return job

    def _child(self, identity: Identity, namespace: str, api: Any) -> Any:
        try:
            return self._kube.build(identity, self.settings, namespace=namespace, api=api)
        except LabError:
            raise
        except Exception as exc:  # c.KubeSpawner is the administrator's: any value may be wrong
            raise BadConfig(
                Sentence(
                    "The settings of KubeSpawner are wrong, so no server can be started. Tell your administrator."
                ),
                detail=f"KubeSpawner cannot be built: {type(exc).__name__}: {exc}",
            ) from exc

    async def _until_running(self, job: Job) -> AsyncIterator[Progress]:
        """Make the pod, and wait until it runs; once more, where the first one met an accident."""
        pod = await self._starter.pod_of(job)
        if job.claim is not None:
            claim = job.claim
            await self._make(job, lambda: self._starter.ensure_claim(job, claim))
        for last in (False, True):
            await self._make(job, lambda: self._starter.create(job, pod))
            try:
                async for progress in self._starter.until_running(job):
                    yield progress
            except Again as exc:
                if last or job.left_s() <= 0:
                    raise exc.error from exc
                log.warning("starting once more %s: %s", job, exc.error)
                yield Progress(job.percent, Sentence("The first try failed; starting once more"))
                await _answered(self._end(job.request.lease_id, job.pod, grace_s=_ROLLBACK_GRACE_S))
            else:
                return

    async def _make(self, job: Job, work: Callable[[], Awaitable[None]]) -> None:
        """Do something that leaves a trace. A cancelled caller leaves it in `_making`, for the roll-back to wait for."""
        lease_id = job.request.lease_id
        self._launches.go_on(lease_id)
        making = self._making[lease_id] = asyncio.ensure_future(_awaited(work()))
        await asyncio.shield(making)
        self._making.pop(lease_id, None)
        self._launches.go_on(lease_id)

    async def _seen(self, job: Job) -> Seen:
        seen = (await self.cluster.pods()).get(job.pod)
        if seen is None:
            raise ProviderUnavailable(
                Sentence("Your server cannot be reached just now. Try again in a minute."),
                detail=f"lost sight of {job}",
            )
        return seen

    # -- end

    async def release(self, handle: Handle, mode: ReleaseMode, *, grace_s: float) -> None:
        """Delete the pod, and return when the cluster has said that it is gone. Claims that are kept stay; those that are
        not end with their pod. Safe to repeat."""
        self._launches.release(handle.lease_id)
        name = handle.data.get(_POD)
        await _answered(self._end(handle.lease_id, name if isinstance(name, str) else None, grace_s=grace_s))
        log.info("server released lease=%s mode=%s", handle.lease_id, mode.value)

    async def forget(self, user: str, server_name: str) -> None:
        """Delete the claim of a server that is deleted for good, where KubeSpawner would: unless `delete_pvc` is off, or
        the claim is that of the user's default server too. Never one of another hub. Safe to repeat."""
        namespace = await _answered(self.cluster.namespace())
        identity = Identity(user=user, server_name=server_name, base_url="/", api_url="http://127.0.0.1/hub/api")
        child = self._child(identity, namespace, await self.cluster.api.core())
        shared = server_name and not any(
            field in child.pvc_name_template for field in ("{user_server}", "{servername}", "{safe_user_server}")
        )
        if not child.delete_pvc or shared:
            return
        if await _answered(ending.delete_claim(self.cluster, child.pvc_name, hub_id=self._hub_id)):
            log.info("claim deleted name=%s user=%s server=%r", child.pvc_name, user, server_name)

    def keeps_files(self, settings: Mapping[str, Json]) -> bool:
        """Whether a volume outlives the server: the variant's `storage`, else what c.KubeSpawner has; of volumes that an
        administrator names there we know no more, and take them for the students' homes."""
        storage = settings.get("storage")
        if isinstance(storage, Mapping):
            return storage.get("retain", "keep") == "keep"
        attributes = self._attributes()
        return bool(attributes.get("storage_pvc_ensure") or attributes.get("volumes"))

    def _attributes(self) -> dict[str, Any]:
        """Of KubeSpawner, as the administrator set them."""
        hub = self.settings.hub_config.get("KubeSpawner")
        return {**(hub if isinstance(hub, Mapping) else {}), **self.settings.kubespawner}

    def announce_to(self, ear: Ear) -> None:
        """Tell `ear` of servers that end by themselves, and of room that others left."""
        self._announcer.ear = ear

    async def diagnose(self) -> Sequence[Finding]:
        """For `labspawner doctor`: what a start will need of this cluster."""
        return await diagnose(
            Subject(
                call=self.cluster.api.call,
                namespace=self.cluster.namespace,
                slicing=self.settings.gpu,
                attributes=self._attributes(),
            )
        )

    async def close(self) -> None:
        """Finish roll-backs that are under way, end the watches, and give the connections back. Servers keep running."""
        self._announcer.close()
        if self._rollbacks:
            await asyncio.wait(self._rollbacks)
        await self.cluster.close()

    async def _end(self, lease_id: LeaseId, name: str | None, *, grace_s: float) -> None:
        making, job = self._making.pop(lease_id, None), self._jobs.get(lease_id)
        if making is not None:
            if job is not None:
                job.given_up = True
            await asyncio.wait({making})
            if not making.cancelled():
                making.exception()  # heard: its launch was told, or does not listen any more
        found = await ending.pods_of(self.cluster, lease_id, name)
        await _all([ending.end_pod(self.cluster, seen, grace_s=grace_s, stop_s=self.settings.stop_s) for seen in found])

    async def _roll_back(self, job: Job) -> None:
        """End what the launch made, to the end even if its caller is cancelled again."""
        task = asyncio.ensure_future(self._end(job.request.lease_id, job.pod, grace_s=_ROLLBACK_GRACE_S))
        self._rollbacks.add(task)
        task.add_done_callback(self._rollbacks.discard)
        try:
            await asyncio.shield(task)
        except (ApiRefused, ApiSilent, LabError) as exc:  # what made us roll back is what the caller must hear
            log.error("roll-back left something behind %s: %s", job, exc)

    # -- hands

    def _handle_of(self, job: Job, *, held: HeldSlice | None = None) -> Handle:
        return self._handle(job.request.lease_id, job.namespace, job.pod, claim=job.claim, held=held)

    def _handle(
        self, lease_id: LeaseId, namespace: str, pod: str, *, claim: str | None = None, held: HeldSlice | None = None
    ) -> Handle:
        data: dict[str, Json] = {_NAMESPACE: namespace, _POD: pod}
        if claim is not None:
            data[_CLAIM] = claim
        if held is not None:
            data[HeldSlice.KEY] = held.to_json()
        return Handle(lease_id=lease_id, provider=self.name, data=data)

    def _as_promised(self, host: HostCapacity, left: int | None) -> HostCapacity:
        """A host as the administrator lets it be promised: overcommitted, and with no more servers than `max_servers`."""
        cpu, memory = self.settings.cpu_overcommit, self.settings.memory_overcommit
        free = (
            host.servers_free
            if left is None
            else min(left, host.servers_free if host.servers_free is not None else left)
        )
        total = host.servers_total if self.settings.max_servers is None else self.settings.max_servers
        return replace(
            host,
            servers_total=total,
            servers_free=free,
            cpu_total=None if host.cpu_total is None else host.cpu_total * cpu,
            cpu_free=None if host.cpu_free is None else host.cpu_free * cpu,
            memory_total_bytes=None if host.memory_total_bytes is None else int(host.memory_total_bytes * memory),
            memory_free_bytes=None if host.memory_free_bytes is None else int(host.memory_free_bytes * memory),
        )


def _kubespawner(where: str) -> ModuleType:
    """The room that imports kubespawner. Raises BadConfig where it is not installed."""
    if find_spec("kubespawner") is None or find_spec("kubernetes_asyncio") is None:
        raise BadConfig(
            Sentence(
                "{where}: KubeSpawner is not installed in the hub's environment. Install it with: "
                "pip install 'labspawner[kubernetes]'",
                where=where,
            )
        )
    from labspawner.providers.kubernetes import child  # noqa: PLC0415 - it takes seconds, and only this provider needs it

    return child


async def _answered(asked: Awaitable[T]) -> T:
    """What the cluster answered. Raises ProviderUnavailable where it did not, or refused."""
    try:
        return await asked
    except (ApiRefused, ApiSilent) as exc:
        raise reached(exc) from exc


async def _awaited(work: Awaitable[None]) -> None:
    await work


async def _all(work: Sequence[Awaitable[None]]) -> None:
    """Do all of it at once, to the end; then raise the first error."""
    done = await asyncio.gather(*work, return_exceptions=True)
    for outcome in done:
        if isinstance(outcome, BaseException):
            raise outcome
