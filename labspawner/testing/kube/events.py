"""Events, as the kubelet and as the scheduler write them: with counts, and with only `eventTime`."""

from __future__ import annotations

import time

from labspawner.testing.kube.clock import micro, new_uid, stamp
from labspawner.testing.kube.resources import EVENTS, Json
from labspawner.testing.kube.store import Store

_Said = tuple[str, str, str, str]  # uid, container, reason, message


class EventLog:
    """Writes events into the store. What was said before of the same object is counted, not repeated."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._said: dict[_Said, str] = {}  # the name of the event that counts it

    def counted(
        self, obj: Json, kind: str, reason: str, message: str, *, component: str, host: str = "", container: str = ""
    ) -> None:
        """An event of the kubelet or a controller: `count`, `firstTimestamp`, `lastTimestamp`."""
        about, at = _reference(obj, container), stamp()
        said = (about["uid"], container, reason, message)
        old = self._old(said, about["namespace"])
        if old is not None:
            self._store.put(EVENTS, old | {"count": old["count"] + 1, "lastTimestamp": at})
            return
        content = {
            "involvedObject": about,
            "reason": reason,
            "message": message,
            "source": {"component": component} | ({"host": host} if host else {}),
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
            "type": kind,
            "eventTime": None,
            "reportingComponent": component,
            "reportingInstance": host,
        }
        self._said[said] = self._write(obj, content)

    def timed(self, obj: Json, kind: str, reason: str, message: str, *, component: str, action: str) -> None:
        """An event of a scheduler: only `eventTime`; the second of its kind begins a series, which then counts."""
        about, at = _reference(obj, ""), micro()
        said = (about["uid"], "", reason, message)
        old = self._old(said, about["namespace"])
        if old is not None and old.get("series"):
            series = {"count": old["series"]["count"] + 1, "lastObservedTime": at}
            self._store.put(EVENTS, old | {"series": series})
            return
        content: Json = {
            "involvedObject": about,
            "reason": reason,
            "message": message,
            "source": {},
            "firstTimestamp": None,
            "lastTimestamp": None,
            "type": kind,
            "eventTime": at,
            **({"series": {"count": 2, "lastObservedTime": at}} if old is not None else {}),
            "action": action,
            "reportingComponent": component,
            "reportingInstance": f"{component}-vm",
        }
        self._said[said] = self._write(obj, content)

    def _old(self, said: _Said, namespace: str) -> Json | None:
        entry = self._store.get(EVENTS, namespace or "default", self._said.get(said, ""))
        return entry.obj if entry else None

    def _write(self, obj: Json, content: Json) -> str:
        metadata = obj["metadata"]
        name = f"{metadata['name']}.{time.time_ns():x}"
        head = {
            "name": name,
            "namespace": metadata.get("namespace") or "default",
            "uid": new_uid(),
            "resourceVersion": "",
            "creationTimestamp": stamp(),
        }
        self._store.put(EVENTS, {"kind": "Event", "apiVersion": "v1", "metadata": head, **content})
        return name


def _reference(obj: Json, container: str) -> Json:
    metadata = obj["metadata"]
    reference = {
        "kind": obj["kind"],
        "namespace": metadata.get("namespace", ""),
        "name": metadata["name"],
        "uid": metadata["uid"],
        "apiVersion": obj["apiVersion"],
        "resourceVersion": metadata["resourceVersion"],
    }
    return reference | ({"fieldPath": f"spec.containers{{{container}}}"} if container else {})
