"""What one provider knows of its cluster: its pods, what is said of those that start, the nodes, and who else is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from logging import getLogger

from labspawner.model import LeaseId
from labspawner.providers.kubernetes.answers import ApiRefused, ApiSilent, Obj
from labspawner.providers.kubernetes.manifest import HUB, LEASE, PROVIDER, selector
from labspawner.providers.kubernetes.options import KubernetesSettings
from labspawner.providers.kubernetes.reflector import Pace, Reflector
from labspawner.providers.kubernetes.views import EventView, NodeView, PodView

log = getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Seen:
    """One pod of ours: what we read of it, and the object itself for KubeSpawner's hooks."""

    view: PodView
    raw: Obj

    @property
    def lease_id(self) -> LeaseId:
        """Whose it is."""
        return LeaseId(self.view.labels.get(LEASE, ""))


class Cluster:
    """Reflectors of one provider. All are made by the first question; those that the hub has no right to are done
    without, except the pods."""

    def __init__(self, settings: KubernetesSettings, *, hub_id: str, provider: str) -> None:
        self._settings = settings
        self._hub_id = hub_id
        self._provider = provider
        self._selector = selector(hub_id, provider)
        from labspawner.providers.kubernetes.api import Api  # noqa: PLC0415 - it takes a second, and has to be installed

        self.api = Api(
            kubeconfig=settings.kubeconfig,
            context=settings.context,
            timeout_s=settings.request_timeout_s,
            patience_s=settings.patience_s,
        )
        self._opening: asyncio.Lock | None = None
        self._namespace = ""
        self._pods: Reflector[Seen] | None = None
        self._events: Reflector[EventView] | None = None
        self._nodes: Reflector[NodeView] | None = None
        self._others: Reflector[PodView] | None = None
        self._news: dict[str, asyncio.Event] = {}
        self._said: dict[str, dict[str, EventView]] = {}
        self._lacking: set[str] = set()
        self._known: dict[str, Seen] = {}
        self.on_pod: Callable[[Seen, Seen | None], None] = lambda _before, _now: None
        """Told of each change of a pod that was known: as it was, and as it is; None: it is gone."""

    @property
    def lists(self) -> int:
        """How often pods were listed."""
        return self._pods.lists if self._pods is not None else 0

    async def namespace(self) -> str:
        """Where servers run. Raises BadConfig without credentials."""
        if not self._namespace:
            section = self._settings.hub_config.get("KubeSpawner") or {}
            wanted = self._settings.namespace or self._settings.kubespawner.get("namespace") or section.get("namespace")
            self._namespace = str(wanted) if wanted else await self.api.namespace()
        return self._namespace

    async def path(self, kind: str, name: str = "", below: str = "") -> str:
        """The path of a kind of object in the namespace, of one object, or of something below it."""
        return "/".join(filter(None, (f"/api/v1/namespaces/{await self.namespace()}/{kind}", name, below)))

    # -- pods of ours

    async def pods(self) -> Reflector[Seen]:
        """Our pods; whether they are current is for the caller to ask."""
        path = await self.path("pods")
        if self._pods is None:
            query = {"labelSelector": self._selector}
            self._pods = Reflector(self.api, path, query=query, read=_seen, changed=self._changed, pace=self._pace)
        return self._pods

    async def settled(self) -> Reflector[Seen]:
        """Our pods, as they are now. Raises ApiRefused or ApiSilent."""
        pods = await self.pods()
        await pods.settle()
        return pods

    async def of_lease(self, lease_id: LeaseId) -> list[Seen]:
        """Our pods that carry this lease, as far as is known here."""
        return [seen for seen in await self.pods() if seen.lease_id == lease_id]

    def known(self, name: str) -> Seen | None:
        """One of our pods, as it is known here; None where it is gone."""
        return self._known.get(name)

    # -- one pod that starts or ends

    def attend(self, name: str) -> None:
        """From now on hear of the pod or claim of this name, and of what is said about it."""
        self._news.setdefault(name, asyncio.Event())
        self._said.setdefault(name, {})

    def leave(self, name: str) -> None:
        """No longer."""
        self._news.pop(name, None)
        self._said.pop(name, None)

    async def news(self, name: str, *, timeout_s: float) -> None:
        """Return when something was heard of this pod since the last call, or after `timeout_s`."""
        event = self._news.setdefault(name, asyncio.Event())
        waiting = asyncio.ensure_future(event.wait())
        try:
            done, _ = await asyncio.wait({waiting}, timeout=timeout_s)
        finally:
            waiting.cancel()
        event.clear()
        if not done and self._pods is not None:
            self._pods.doubt()

    def events_of(self, name: str) -> list[EventView]:
        """What was said of a pod that is attended to."""
        return list(self._said.get(name, {}).values())

    async def listen(self) -> None:
        """Begin to hear what is said of pods, where the hub may; waits for nothing but the first answer."""
        path = await self.path("events")
        if self._events is None:
            self._events = Reflector(self.api, path, query={}, read=self._hear, pace=self._pace)
        await self._where_allowed(self._events, "events list, watch", "why a server does not start is told less well")

    # -- nodes and others

    async def nodes(self) -> list[NodeView] | None:
        """The machines; None where the hub may not look at them. Raises ApiSilent, and ApiRefused for another reason."""
        if self._nodes is None:
            self._nodes = Reflector(self.api, "/api/v1/nodes", query={}, read=NodeView.of, pace=self._pace)
        allowed = await self._where_allowed(
            self._nodes,
            "nodes list, watch (ClusterRole)",
            "room is not counted, and nobody stands in line",
            strict=True,
        )
        return list(self._nodes) if allowed else None

    async def neighbours(self) -> list[PodView]:
        """All pods of the cluster that hold something on a node, ours as they are known here; of others only where the
        hub may look. Raises ApiSilent, and ApiRefused for another reason."""
        pods = await self.settled()
        others: Iterable[PodView] = ()
        if self._settings.whole_cluster is not False:
            others = await self._of_others()
        return [*(seen.view for seen in pods), *others]

    async def _of_others(self) -> Iterable[PodView]:
        if self._others is None:
            query = {"fieldSelector": "status.phase!=Succeeded,status.phase!=Failed"}
            self._others = Reflector(self.api, "/api/v1/pods", query=query, read=self._other, pace=self._pace)
        allowed = await self._where_allowed(
            self._others,
            "pods list, watch (ClusterRole)",
            "pods of other namespaces are not counted",
            strict=True,
            loud=self._settings.whole_cluster is True,
        )
        return self._others if allowed else ()

    async def close(self) -> None:
        """End the watches, and give the connections back."""
        for reflector in (self._pods, self._events, self._nodes, self._others):
            if reflector is not None:
                await reflector.close()
        await self.api.close()

    @property
    def _pace(self) -> Pace:
        return Pace(watch_s=self._settings.watch_s, relist_s=self._settings.relist_s)

    async def _where_allowed(
        self,
        reflector: Reflector[EventView] | Reflector[NodeView] | Reflector[PodView],
        right: str,
        loss: str,
        *,
        strict: bool = False,
        loud: bool = True,
    ) -> bool:
        """Settle a reflector that we can do without; False where the hub may not list. strict: other trouble is raised."""
        if right in self._lacking and not reflector.current:
            return False
        try:
            await reflector.settle()
        except ApiRefused as exc:
            if exc.status != 403:
                if strict:
                    raise
                return False
            if right not in self._lacking:
                self._lacking.add(right)
                (log.warning if loud else log.info)("the hub may not: %s; so %s (%s)", right, loss, exc)
            return False
        except ApiSilent:
            if strict:
                raise
            return False
        self._lacking.discard(right)
        return True

    def _changed(self, name: str) -> None:
        """A pod of ours came, changed or went."""
        now = self._pods.get(name) if self._pods is not None else None
        before = self._known.pop(name, None)
        if now is not None:
            self._known[name] = now
        if before is not None and now is not before:
            self.on_pod(before, now)
        self._tell(name)

    def _tell(self, name: str) -> None:
        event = self._news.get(name)
        if event is not None:
            event.set()

    def _hear(self, obj: Obj) -> EventView | None:
        """Keep what is said of a pod that is attended to, beside the reflector: nobody asks for the rest."""
        about = obj.get("involvedObject") or {}
        said = self._said.get(str(about.get("name")))
        if said is not None:
            view = EventView.of(obj)
            said[str((obj.get("metadata") or {}).get("name"))] = view
            self._tell(view.name)
        return None

    def _other(self, obj: Obj) -> PodView | None:
        labels = (obj.get("metadata") or {}).get("labels") or {}
        if f"{HUB}={labels.get(HUB)},{PROVIDER}={labels.get(PROVIDER)}" == self._selector:
            return None
        view = PodView.of(obj)
        return view if view.node else None


def _seen(obj: Obj) -> Seen | None:
    meta = dict(obj.get("metadata") or {})
    meta.pop("managedFields", None)
    return Seen(PodView.of(obj), {**obj, "metadata": meta})


def leases_on_nodes(pods: Iterable[Seen]) -> frozenset[LeaseId]:
    """The leases whose pods hold something on a node now."""
    return frozenset(seen.lease_id for seen in pods if seen.view.node and not seen.view.ended)
