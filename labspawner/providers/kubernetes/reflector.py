"""A copy of one kind of object, kept true by a list and a watch. One per kind and provider, never one per server.

`current` says whether the copy may be believed. It may not before the first list, while the connection is broken, and
after a list that failed. A watch that ends in order is resumed where it was; after any trouble comes a new list.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from logging import getLogger
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from labspawner.deadlines import let_go
from labspawner.providers.kubernetes.answers import ApiRefused, ApiSilent, Obj

if TYPE_CHECKING:
    from labspawner.providers.kubernetes.api import Api

log = getLogger(__name__)
V = TypeVar("V")

_PAGE = 500
_SLACK = 1.2
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_GONE = 410
_REFUSED_S = 30.0  # between two tries of what the hub has no right to
_WATCH_AGAIN_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """watch_s: a watch is renewed after this; silent for longer, it is dead. relist_s: between lists, without a watch.

    anew_s: after this a renewed watch begins with a list: one from a version that the server has not reached, as after a
    restored backup, is silent and ends in order.
    """

    watch_s: float = 60.0
    relist_s: float = 5.0
    anew_s: float = 600.0


class Expired(Exception):
    """The version from which was watched is too old."""


class Reflector(Generic[V]):
    """path: of the list, for example `/api/v1/namespaces/lab/pods`. read: an object as JSON has it, as what is kept; None
    for one that nobody wants. changed: told the name of each object that came, changed or went; after a list, all.
    """

    def __init__(
        self,
        api: Api,
        path: str,
        *,
        query: Mapping[str, str],
        read: Callable[[Obj], V | None],
        changed: Callable[[str], None] = lambda _name: None,
        pace: Pace = Pace(),
    ) -> None:
        self._api = api
        self.path = path
        self._query = dict(query)
        self._read = read
        self._changed = changed
        self._pace = pace
        self._objects: dict[str, V] = {}
        self._versions: dict[str, str] = {}
        self._version: str | None = None
        self._current = False
        self._asked: asyncio.Future[None] | None = None  # of the next list
        self._awaited: asyncio.Future[None] | None = None  # of the list that is under way
        self._runner: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._wake: asyncio.Event | None = None
        self._heard_at = float("-inf")
        self._listed_at = float("-inf")
        self._no_watch_until = float("-inf")
        self._everywhere = "/namespaces/" not in path
        self.lists = 0
        self.refused: ApiRefused | None = None

    # -- what is known

    @property
    def current(self) -> bool:
        """Whether what is known here is what the API server knows, as far as can be told."""
        return self._current

    def get(self, key: str) -> V | None:
        """The object of this name (`namespace/name` where the list is of all namespaces)."""
        return self._objects.get(key)

    def __iter__(self) -> Iterator[V]:
        return iter(tuple(self._objects.values()))

    def reached(self, obj: Obj) -> bool:
        """Whether what is known here is at least as new as `obj` is: what is not here by now is gone."""
        return self._current and _older(_version(obj), self._version)

    def forget(self, key: str) -> None:
        """Drop one that is no longer of interest."""
        self._objects.pop(key, None)
        self._versions.pop(key, None)

    # -- asking

    async def settle(self) -> None:
        """Return when the copy may be believed. Raises ApiRefused or ApiSilent when that cannot be had."""
        self._begin()
        if not self._current:
            await self.refresh()

    async def refresh(self) -> None:
        """A list that begins now; all who ask meanwhile share it. Raises ApiRefused or ApiSilent when it fails."""
        self._begin()
        if self._asked is None:
            self._asked = asyncio.get_running_loop().create_future()
            self._asked.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._interrupt()
        await asyncio.shield(self._asked)

    def doubt(self) -> None:
        """Nothing was heard that should have come: have a list made, unless something came within `relist_s`."""
        now = asyncio.get_running_loop().time()
        if self._asked is None and now - max(self._heard_at, self._listed_at) >= self._pace.relist_s:
            self._begin()
            self._asked = asyncio.get_running_loop().create_future()
            self._asked.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._interrupt()

    async def close(self) -> None:
        """End the watch. A later question begins anew, with a list."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await let_go(runner)
        self._current, self._version = False, None
        self._answer_all(ApiSilent(f"{self.path}: closed"))

    # -- at work

    def _begin(self) -> None:
        if self._runner is None or self._runner.done():
            self._current, self._version = False, None
            self._wake = asyncio.Event()
            self._asked = self._asked or asyncio.get_running_loop().create_future()
            self._asked.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._runner = asyncio.get_running_loop().create_task(self._run(), name=f"reflect {self.path}")

    def _interrupt(self) -> None:
        if self._wake is not None:
            self._wake.set()
        if self._watching is not None:
            self._watching.cancel()

    async def _run(self) -> None:
        """List and watch for ever. Whatever goes wrong costs a pause and a new list."""
        pause = _FIRST_PAUSE_S
        try:
            while True:
                try:
                    while self._version is None or self._asked is not None:
                        await self._list()
                    pause = _FIRST_PAUSE_S
                    await self._follow()
                    if asyncio.get_running_loop().time() - self._listed_at >= self._pace.anew_s:
                        self._version = None
                    continue
                except Expired:
                    log.info("listing anew, the watch was too old path=%s", self.path)
                    self._version = None
                    continue
                except (ApiRefused, ApiSilent) as exc:
                    self._lose(exc)
                    wait_s = _REFUSED_S if isinstance(exc, ApiRefused) and exc.status in {401, 403, 404} else pause
                except Exception:
                    log.exception("a fault of ours in the reflector path=%s; listing anew", self.path)
                    self._lose(ApiSilent(f"{self.path}: a fault of ours"))
                    wait_s = pause
                await self._rest(wait_s)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
        finally:
            self._current = False
            self._answer_all(ApiSilent(f"{self.path}: closed"))

    def _lose(self, exc: ApiRefused | ApiSilent) -> None:
        level = log.info if self._current else log.debug
        level("lost path=%s: %s", self.path, exc)
        self._current, self._version = False, None
        self.refused = exc if isinstance(exc, ApiRefused) and exc.status == 403 else self.refused
        self._answer(exc)

    def _answer(self, exc: Exception | None = None) -> None:
        """Tell those who asked before the list that was made. Who asked during it has the next one."""
        awaited, self._awaited = self._awaited, None
        if awaited is not None and not awaited.done():
            if exc is None:
                awaited.set_result(None)
            else:
                awaited.set_exception(exc)

    def _answer_all(self, exc: Exception) -> None:
        """Tell all who asked: there is no next list."""
        self._answer(exc)
        self._awaited, self._asked = self._asked, None
        self._answer(exc)

    async def _rest(self, seconds: float) -> None:
        """Wait, or until somebody asks."""
        if self._wake is None or self._asked is not None:
            return
        self._wake.clear()
        waiting = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait({waiting}, timeout=seconds)
        finally:
            waiting.cancel()

    async def _list(self) -> None:
        """Replace the copy by a list of now, page by page, so that no page holds up the event loop."""
        self._awaited, self._asked = self._asked, None
        found, version = await self._pages()
        self.lists += 1
        names = {*self._objects, *found}
        self._objects = {key: value for key, (value, _) in found.items()}
        self._versions = {key: at for key, (_, at) in found.items()}
        self._version = version
        self._current = True
        self._heard_at = self._listed_at = asyncio.get_running_loop().time()
        for name in names:
            self._changed(name)
        self._answer()

    async def _pages(self) -> tuple[dict[str, tuple[V, str]], str]:
        found: dict[str, tuple[V, str]] = {}
        query = {**self._query, "limit": str(_PAGE)}
        while True:
            page = await self._api.call("GET", self.path, query=query, patience_s=0.0)
            for obj in page.get("items") or ():
                value = self._read(obj)
                if value is not None:
                    found[self._key(obj)] = (value, _version(obj))
            meta = page.get("metadata") or {}
            more = meta.get("continue")
            if not more:
                return found, str(meta.get("resourceVersion") or "0")
            query["continue"] = str(more)
            await asyncio.sleep(0)

    async def _follow(self) -> None:
        """Watch until the watch ends in order, or somebody asks for a list."""
        if asyncio.get_running_loop().time() < self._no_watch_until:
            await self._rest(self._pace.relist_s)
            self._version = None
            return
        self._watching = asyncio.get_running_loop().create_task(self._watch())
        try:
            await asyncio.wait({self._watching})
            watching = self._watching
        except asyncio.CancelledError:
            await let_go(self._watching)
            raise
        finally:
            self._watching = None
        if watching.cancelled():  # by who asked for a list
            return
        try:
            watching.result()
        except ApiRefused as exc:
            if exc.status == _GONE:
                raise Expired from exc
            if exc.status == 403:
                self._say_no_watch(exc)
                return
            raise

    def _say_no_watch(self, exc: ApiRefused) -> None:
        """Go on with lists, at a pace that the API server bears."""
        self.refused = exc
        self._no_watch_until = asyncio.get_running_loop().time() + _WATCH_AGAIN_S
        log.error(
            "the hub may not watch %s, so it lists every %.0f s instead: add the verb `watch` to its Role (%s)",
            self.path.rpartition("/")[2],
            self._pace.relist_s,
            exc,
        )

    async def _watch(self) -> None:
        query = {
            **self._query,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version or "0",
            "timeoutSeconds": str(max(1, round(self._pace.watch_s))),
        }
        silence_s = self._pace.watch_s * _SLACK + 1.0
        async with self._api.lines(self.path, query=query, silence_s=silence_s) as lines:
            self._current = True
            async for line in lines:
                if line.strip():
                    self._hear(json.loads(line))

    def _key(self, obj: Obj) -> str:
        meta = obj.get("metadata") or {}
        name, namespace = str(meta.get("name") or ""), str(meta.get("namespace") or "")
        return f"{namespace}/{name}" if self._everywhere and namespace else name

    def _hear(self, event: Mapping[str, Any]) -> None:
        """Take over one event. One that was heard before changes nothing."""
        kind, obj = event.get("type"), event.get("object") or {}
        if kind == "ERROR":
            if obj.get("code") == _GONE or obj.get("reason") == "Expired":
                raise Expired
            raise ApiRefused(int(obj.get("code") or 500), obj, f"watch {self.path}")
        self._heard_at = asyncio.get_running_loop().time()
        version = _version(obj)
        if _older(version, self._version):
            return
        self._version = version or self._version
        if kind == "BOOKMARK":
            return
        key = self._key(obj)
        value = None if kind == "DELETED" else self._read(obj)
        if value is None:
            self.forget(key)
        else:
            self._objects[key], self._versions[key] = value, version
        self._changed(key)


def _version(obj: Obj) -> str:
    return str((obj.get("metadata") or {}).get("resourceVersion") or "")


def _older(version: str, known: str | None) -> bool:
    """Whether an event tells what was heard already: versions grow within one watch."""
    return (
        bool(known) and version.isdecimal() and known is not None and known.isdecimal() and int(version) <= int(known)
    )
