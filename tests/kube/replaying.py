"""Plays a recording of a real API server against the double and says where the answers differ.

Compared: status, reason, message, and which fields a body has with which values, but for what differs between any two
clusters: times, uids, addresses, versions, counts. Watches are compared line by line when they end.
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from labspawner.testing.kube import KubeDouble, quantities
from labspawner.testing.waiting import NotInTime, eventually_sync

Row = dict[str, Any]
_FILE = Path(__file__).parent / "recorded-kube-1.34.jsonl.gz"
_VOLATILE = frozenset(
    """
    resourceVersion uid creationTimestamp deletionTimestamp lastTransitionTime startTime startedAt finishedAt time
    firstTimestamp lastTimestamp eventTime lastObservedTime containerID imageID podIP podIPs hostIP hostIPs ip count
    expirationTimestamp token continue clusterIP clusterIPs serverAddress restartCount lastPhaseTransitionTime series
    reportingInstance managedFields host
    """.split()  # noqa: SIM905 - forty lines else
)
_MAY_LACK = frozenset({"series", "count", "restartCount"})
# When a kubelet says that it has seen the deletion is a matter of its pace; the watch of pod-life shows that it says it.
_BEFORE_THE_KUBELET = frozenset({"get while terminating", "delete again while terminating"})
_NORMAL = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "<uid>"),
    (re.compile(r"\.[0-9a-f]{16}$"), ".<event>"),
    (re.compile(r"back-off \d+s"), "back-off <n>s"),
    (re.compile(r"^jupyter-[a-z0-9]{5}$"), "jupyter-<random>"),
    (re.compile(r"\n(@@ .*)?$", re.DOTALL), ""),  # how a refused change looked, in Go
)
_NUMBERS = re.compile(r"(?<![\w.\"=])\d{4,}(?![\w.])")


def rows(*scenarios: str) -> list[Row]:
    """The recorded lines of these scenarios, in order."""
    with gzip.open(_FILE, "rt", encoding="utf-8") as source:
        return [row for row in map(json.loads, source) if row["scenario"] in scenarios]


@dataclass
class Answered:
    status: int
    body: Any
    content_type: str = ""


@dataclass
class Watch:
    """One watch of the double, read by a thread of its own."""

    connection: http.client.HTTPConnection
    response: http.client.HTTPResponse
    expected: list[Row] = field(default_factory=list)
    lines: list[Row] = field(default_factory=list)
    ended: bool = False
    thread: threading.Thread | None = None

    def begin(self) -> None:
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        try:
            for line in self.response:
                self.lines.append(json.loads(line))
        except (OSError, ValueError, http.client.HTTPException, AttributeError):
            pass
        self.ended = True

    def close(self) -> None:
        if self.connection.sock is not None:
            self.connection.sock.shutdown(2)
        if self.thread is not None:
            self.thread.join(60)
        self.connection.close()


class Player:
    """Sends recorded requests. `hooks` run before the row of that step, for what was done but not recorded."""

    def __init__(self, double: KubeDouble, hooks: dict[str, Callable[[], None]], left_out: dict[str, str]) -> None:
        self._double, self._hooks, self.left_out = double, hooks, left_out
        self._versions: dict[str, str] = {}
        self._continue = ""
        self._token = ""
        self._watches: dict[str, Watch] = {}
        self.wrong: list[str] = []
        self.compared = 0
        self.deadline_s = 10.0  # of each GET that is asked until it answers as recorded

    def play(self, recorded: list[Row]) -> None:
        try:
            for row in recorded:
                self._step(row)
        finally:
            for watch in self._watches.values():
                watch.close()

    def _step(self, row: Row) -> None:
        step = row["step"]
        if hook := self._hooks.get(step):
            hook()
        if step in self.left_out or not row["request"]["method"]:
            return
        body = row["response"]["body"]
        name, _, what = step.rpartition(": ")
        if what == "open":
            self._open(name, row)
        elif re.match(r"line \d+ ", what):
            self._watches[name].expected.append(body)
        elif what in ("stream ended by the server", "closed by the client"):
            self._compare_watch(name, row)
        elif isinstance(body, dict) and "x-summary" in body:
            self._stream_or_list(row, body["x-summary"])
        else:
            self._compare(row)

    # one request

    def _compare(self, row: Row) -> None:
        self.compared += 1
        last: list[str] = []

        def same() -> bool:
            last[:] = list(self._differences(row, self.send(row["request"], row)))
            return not last

        if row["request"]["method"] != "GET":
            same()
        else:
            with contextlib.suppress(NotInTime):
                eventually_sync(same, self.deadline_s, row["step"])
        self.wrong += [f"{row['scenario']} / {row['step']}: {text}" for text in last]

    def _differences(self, row: Row, got: Answered) -> Iterator[str]:
        said = row["response"]
        if got.status != said["status"]:
            yield f"status {got.status}, recorded {said['status']}: {got.body!r}"[:600]
            return
        if "reply_content_type" in row and got.content_type != (row["reply_content_type"] or ""):
            yield f"content type {got.content_type}, recorded {row['reply_content_type']}"
        for text in self._unlike(said["body"], got.body, "", trimmed=_is_trimmed(row)):
            if "observedGeneration" not in text or row["step"] not in _BEFORE_THE_KUBELET:
                yield text

    def send(self, request: Row, row: Row | None = None) -> Answered:
        """The double's answer to this request."""
        connection, path, headers, body = self._prepared(request, row or {})
        connection.request(request["method"], path, body=body, headers=headers)
        response = connection.getresponse()
        text, kind = response.read(), response.headers.get("Content-Type", "")
        connection.close()
        try:
            return Answered(response.status, json.loads(text), kind)
        except ValueError:
            return Answered(response.status, text.decode(), kind)

    def _prepared(self, request: Row, row: Row) -> tuple[http.client.HTTPConnection, str, dict[str, str], bytes | None]:
        query = {key: self._mapped(key, value) for key, value in (request["query"] or {}).items()}
        path = request["path"] + (("&" if "?" in request["path"] else "?") + urlencode(query) if query else "")
        body = request["body"]
        raw = None if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode()
        headers = {"Content-Type": row.get("content_type", "application/json")} if raw is not None else {}
        token = {"none": "", "wrong token": "nobody's"}.get(row.get("identity", ""), self._double.token)
        if str(row.get("identity", "")).startswith("system:serviceaccount"):
            token = self._token or self._double.token_of("hub", row["identity"].split(":")[2])
        if token:
            headers["Authorization"] = f"Bearer {token}"
        url = urlsplit(self._double.url)
        return http.client.HTTPConnection(url.hostname or "", url.port or 0, timeout=60), path, headers, raw

    def _mapped(self, key: str, value: str) -> str:
        if key == "resourceVersion":
            unseen = value.isdigit() and 1000 < int(value) < 999999999  # of a list that was not recorded
            now = str(self._double.call(lambda inside: inside.world.store.version))
            return self._versions.get(value, now if unseen else value)
        if key == "timeoutSeconds":
            return value if int(value) <= 1 else "60"
        return self._continue if key == "continue" and len(value) > 10 else value

    # watches

    def _open(self, name: str, row: Row) -> None:
        connection, path, headers, _ = self._prepared(row["request"], row)
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        for key, value in row["response"]["body"]["x-headers"].items():
            if response.headers.get(key) != value:
                self.wrong.append(f"{row['step']}: header {key} is {response.headers.get(key)!r}, recorded {value!r}")
        watch = self._watches[name] = Watch(connection, response)
        watch.begin()

    def _compare_watch(self, name: str, row: Row) -> None:
        watch = self._watches.pop(name)
        self.compared += len(watch.expected)
        of_events = row["request"]["path"].endswith("/events")
        with contextlib.suppress(NotInTime):  # the comparison says what is missing
            wanted = len(_first_of(watch.expected, of_events))
            eventually_sync(lambda: len(_first_of(watch.lines, of_events)) >= wanted, self.deadline_s)
        if row["step"].endswith("server") and watch.expected and watch.expected[-1]["type"] == "ERROR":
            eventually_sync(lambda: watch.ended, what="the watch ends")
        watch.close()
        expected, got = _first_of(watch.expected, of_events), _first_of(watch.lines, of_events)
        kinds = [line["type"] for line in got][: len(expected)]
        if kinds != [line["type"] for line in expected]:
            self.wrong.append(f"{name}: lines {kinds}, recorded {[line['type'] for line in expected]}")
            return
        for number, (said, have) in enumerate(zip(expected, got, strict=False)):
            found = self._unlike(said["object"], have["object"], "", trimmed="x-trimmed" in said["object"])
            self.wrong += [f"{name}: line {number + 1} {said['type']}: {text}" for text in found]

    def _stream_or_list(self, row: Row, summary: str) -> None:
        self.compared += 1
        connection, path, headers, _ = self._prepared(row["request"], row)
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        kind = "stream" if response.headers.get("Transfer-Encoding") == "chunked" else "list"
        if connection.sock is not None:
            connection.sock.close()
        connection.close()
        if kind != summary:
            self.wrong.append(f"{row['step']}: a {kind}, recorded a {summary}")

    # comparing

    def _unlike(self, said: Any, got: Any, where: str, *, trimmed: bool) -> Iterator[str]:
        if isinstance(said, dict) and isinstance(got, dict):
            yield from self._unlike_objects(said, got, where, trimmed=trimmed)
        elif isinstance(said, list) and isinstance(got, list):
            said, got = (_without_repeats(part) for part in (said, got))
            if len(said) != len(got):
                yield f"{where} has {len(got)} items, recorded {len(said)}: {_names(got)} and {_names(said)}"
            for number, (one, other) in enumerate(zip(said, got, strict=False)):
                yield from self._unlike(one, other, f"{where}[{number}]", trimmed=trimmed)
        elif _normal(said) != _normal(got) and not _same_amount(said, got):
            yield f"{where} is {got!r}, recorded {said!r}"

    def _unlike_objects(self, said: Row, got: Row, where: str, *, trimmed: bool) -> Iterator[str]:
        self._learn(said, got)
        for key in said:
            if key.startswith("x-") or key in _MAY_LACK:
                continue
            if key not in got:
                yield f"{where}.{key} is missing, recorded {str(said[key])[:80]!r}"
            elif key not in _VOLATILE:
                yield from self._unlike(said[key], got[key], f"{where}.{key}", trimmed=trimmed)
        more = [key for key in got if key not in said and key not in _VOLATILE]
        if more and not trimmed:
            yield f"{where} has {more} besides what was recorded"

    def _learn(self, said: Row, got: Row) -> None:
        if isinstance(said.get("resourceVersion"), str) and isinstance(got.get("resourceVersion"), str):
            self._versions[said["resourceVersion"]] = got["resourceVersion"]
        self._continue = got.get("continue") or self._continue
        if said.get("token") == "MASKED":
            self._token = got.get("token") or self._token


def _is_trimmed(row: Row) -> bool:
    body = row["response"]["body"]
    small = isinstance(body, dict) and (
        "kind" not in body or len(body) == 1
    )  # the recorder kept only what it looked at
    return isinstance(body, dict) and ("x-trimmed" in body or small or row["step"] in ("api/v1", "apis"))


def _first_of(lines: list[Row], of_events: bool) -> list[Row]:
    """Of events, which come in no order and are counted again at will: each once, sorted."""
    if not of_events:
        return lines
    added = {
        (line["object"]["reason"], line["object"]["message"]): line
        for line in reversed(lines)
        if line["type"] == "ADDED"
    }
    return [added[key] for key in sorted(added, key=lambda pair: (pair[0], _normal(pair[1])))]


def _without_repeats(items: list[Any]) -> list[Any]:
    if items and isinstance(items[0], dict) and "involvedObject" in items[0]:
        found = {(item["reason"], _normal(item["message"])): item for item in reversed(items)}
        return [found[key] for key in sorted(found)]
    return items


def _names(items: list[Any]) -> list[str]:
    return [
        item.get("reason") or (item.get("metadata") or {}).get("name", "?") for item in items if isinstance(item, dict)
    ]


def _normal(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    for pattern, text in _NORMAL:
        value = pattern.sub(text, value)
    return _NUMBERS.sub("<n>", value) if "ersion" in value else value


def _same_amount(one: Any, other: Any) -> bool:
    try:
        return quantities.value(one) == quantities.value(other)
    except (quantities.BadQuantity, TypeError, AttributeError):
        return False
