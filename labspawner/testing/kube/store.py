"""What the API server keeps: objects, one resourceVersion for all, and the changes that watches are made of.

Objects are never changed in place: who changes one puts a new one. Each object is encoded once, and each watch line
once, whoever reads them. Lives in the double's event loop; nothing here waits.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from labspawner.testing.kube.resources import Json, Resource
from labspawner.testing.kube.selectors import Matches

_FIRST_VERSION = 1000  # so that "1" is too old
_HISTORY = 50_000
Key = tuple[str, str]


def encode(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


@dataclass(slots=True)
class Entry:
    """One state of one object. `body` is its JSON without kind and apiVersion, which lists leave out."""

    obj: Json
    version: int
    body: bytes = b""

    def item(self) -> bytes:
        if not self.body:
            self.body = encode({key: value for key, value in self.obj.items() if key not in ("kind", "apiVersion")})
        return self.body

    def whole(self) -> bytes:
        head = encode({"kind": self.obj["kind"], "apiVersion": self.obj["apiVersion"]})
        rest = self.item()[1:]
        return head[:-1] + (b"," + rest if rest != b"}" else rest)


@dataclass(slots=True)
class Change:
    """One step of one object. `before` is None for a new one, `after` carries the last state of a deleted one."""

    resource: Resource
    version: int
    before: Entry | None
    after: Entry
    deleted: bool = False
    _lines: dict[str, bytes] = field(default_factory=dict)

    def line(self, matches: Matches | None, wanted_namespace: str) -> bytes:
        """The watch line for who selects so; empty when it does not concern them."""
        if wanted_namespace and self.after.obj["metadata"].get("namespace") != wanted_namespace:
            return b""
        was = self.before is not None and (matches is None or matches(self.before.obj))
        now = not self.deleted and (matches is None or matches(self.after.obj))
        if now:
            return self._line("MODIFIED" if was else "ADDED")
        return self._line("DELETED" if was else "")

    def _line(self, kind: str) -> bytes:
        if kind and kind not in self._lines:
            entry = self.after
            if kind == "DELETED" and not self.deleted and self.before is not None:
                # It left the selector: its old labels, and the new resourceVersion.
                metadata = self.before.obj["metadata"] | {"resourceVersion": str(self.version)}
                entry = Entry(self.before.obj | {"metadata": metadata}, self.version)
            self._lines[kind] = line(kind, entry.whole())
        return self._lines.get(kind, b"")


def line(kind: str, body: bytes) -> bytes:
    return b'{"type":"%s","object":%s}\n' % (kind.encode(), body)


class Store:
    """All objects of the cluster, by resource. Calls `listeners` with each change, after it happened."""

    def __init__(self) -> None:
        self.version = _FIRST_VERSION
        self.floor = _FIRST_VERSION  # changes up to here are forgotten
        self.listeners: list[Callable[[Change], None]] = []
        self._objects: dict[str, dict[Key, Entry]] = {}
        self._history: dict[str, deque[Change]] = {}

    def get(self, resource: Resource, namespace: str, name: str) -> Entry | None:
        return self._kept(resource).get((namespace, name))

    def entries(self, resource: Resource, namespace: str = "") -> list[Entry]:
        """All of one namespace, or of all when it is "", sorted as the server sorts them."""
        kept = self._kept(resource)
        return [kept[key] for key in sorted(kept) if not namespace or key[0] == namespace]

    def objects(self, resource: Resource, namespace: str = "") -> Iterator[Json]:
        """The same in no order, for who only looks."""
        for (where, _), entry in list(self._kept(resource).items()):
            if not namespace or where == namespace:
                yield entry.obj

    def put(self, resource: Resource, obj: Json) -> Entry:
        """Keep this state and tell who listens. Without a difference to the last state nothing happens."""
        metadata = obj["metadata"]
        key = (metadata.get("namespace", ""), metadata["name"])
        before = self._kept(resource).get(key)
        if before is not None and _same(before.obj, obj):
            return before
        self.version += 1
        after = Entry(obj | {"metadata": metadata | {"resourceVersion": str(self.version)}}, self.version)
        self._kept(resource)[key] = after
        self._tell(Change(resource, self.version, before, after))
        return after

    def remove(self, resource: Resource, namespace: str, name: str) -> Entry | None:
        """Forget an object; its DELETED line carries its last state with a new resourceVersion."""
        before = self._kept(resource).pop((namespace, name), None)
        if before is None:
            return None
        self.version += 1
        metadata = before.obj["metadata"] | {"resourceVersion": str(self.version)}
        after = Entry(before.obj | {"metadata": metadata}, self.version)
        self._tell(Change(resource, self.version, before, after, deleted=True))
        return after

    def since(self, resource: Resource, version: int) -> list[Change]:
        """The changes after `version`; ask `oldest` first whether they are still known."""
        return [change for change in self._history.get(resource.plural, ()) if change.version > version]

    def oldest(self, resource: Resource) -> int:
        """The oldest version from which a watch can go on."""
        history = self._history.get(resource.plural)
        if history is not None and len(history) == _HISTORY:
            return max(self.floor, history[0].version)
        return self.floor

    def forget(self) -> None:
        """Compact: no watch can go on from any version handed out so far."""
        self.version += 1
        self.floor = self.version
        self._history.clear()

    def _kept(self, resource: Resource) -> dict[Key, Entry]:
        return self._objects.setdefault(resource.plural, {})

    def _tell(self, change: Change) -> None:
        self._history.setdefault(change.resource.plural, deque(maxlen=_HISTORY)).append(change)
        for listener in self.listeners:
            listener(change)


def _same(old: Json, new: Json) -> bool:
    if old is new:
        return True
    plain_old = old | {"metadata": old["metadata"] | {"resourceVersion": ""}}
    return bool(plain_old == new | {"metadata": new["metadata"] | {"resourceVersion": ""}})
