"""Plays a recording of a real Proxmox VE cluster against the double and says where the answers differ.

Compared: status, reason, message, which parameters are refused with which words, how tasks end, and which fields a body has
with which values, but for what differs between any two clusters: times, ids of processes, addresses, load. Where the real one
let the client wait for three seconds or more, the double lets its own clock pass as long.
"""

from __future__ import annotations

import gzip
import http.client
import json
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

from labspawner.testing.pve import PveDouble
from labspawner.testing.waiting import eventually_sync

Row = dict[str, Any]
_KEPT = re.compile(r"(vm-\d+-state-suspend-)\d{4}-\d\d-\d\d")
_FILE = Path(__file__).parent / "recorded-pve-8.4.jsonl.gz"
_UPID = re.compile(r"UPID:\w+:[0-9A-F]+:[0-9A-F]+:[0-9A-F]+:\w+:[^:\s]*:[^:\s]+:")
_NORMAL = (
    (_UPID, lambda found: ":".join(part for at, part in enumerate(found.group().split(":")) if at in (0, 1, 5, 6, 7))),
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "<uuid>"),
    (re.compile(r"(?i)\b[0-9a-f]{2}(:[0-9a-f]{2}){5}\b"), "<mac>"),
    (re.compile(r"\b[0-9a-f]{40}\b"), "<sha1>"),
    (re.compile(r"\.conf\.tmp\.\d+"), ".conf.tmp.<pid>"),
    (re.compile(r"\d{4}-\d\d-\d\d"), "<date>"),
    (re.compile(r"ctime=\d+"), "ctime=<time>"),
    (re.compile(r"\d+\.\d+ [KMG]iB"), "<size>"),
)
# Numbers and words that no two clusters share; only their kind is compared.
_VOLATILE = frozenset(
    """
    cpu mem disk diskread diskwrite netin netout uptime maxdisk freemem pid pstart starttime endtime ctime used size total
    avail used_fraction time snaptime ssl_fingerprint ticket password CSRFPreventionToken cert digest fingerprint version
    release repoid loadavg wait kversion model flags mhz cpus cores maxcpu maxmem free ip address cidr gateway content
    ballooninfo blockstat nics proxmox-support cap rootfs memory-total statistics localtime user_hz balloon hvm current-kernel
    cpuinfo pveversion boot-info ksm swap running-qemu idle out-data kernel-version kernel-release pretty-name id-like
    supported_commands version-id hostname last_update ip-addresses prefix port nodes allowed-tags map cpulimit
    """.split()  # noqa: SIM905 - forty lines else
)
_NAMES = ("vmid", "upid", "key", "volid", "iface", "poolid", "userid", "storage", "name", "id")


def rows(scenario: str) -> list[Row]:
    """The recorded lines of a scenario, in order, numbered as in the file."""
    with gzip.open(_FILE, "rt", encoding="utf-8") as source:
        lines = [json.loads(line) | {"line": number} for number, line in enumerate(source)]
    return [line for line in lines if line["scenario"] == scenario]


def title(row: Row) -> str:
    request = row["request"]
    asked = f" [{request['token']}]" if request else ""
    return f"line {row['line']}: {row['step']}{asked}"


@dataclass
class Answered:
    status: int | None
    reason: str
    body: Any
    passed_s: float


@dataclass
class Player:
    """left_out: step or line -> why. hooks: line -> what the recorder did before it. untimed: lines whose wait had
    begun before.
    """

    pve: PveDouble
    left_out: Mapping[str | int, str]
    hooks: Mapping[int, Callable[[], object]] = field(default_factory=dict)
    untimed: frozenset[int] = frozenset()
    secrets: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    compared: int = 0
    _upids: dict[str, str] = field(default_factory=dict)
    _digests: dict[str, str] = field(default_factory=dict)
    _pids: dict[int, int] = field(default_factory=dict)
    _vnc: str = ""

    def play(self, recorded: list[Row]) -> None:
        """Ask all that was asked, in the same order."""
        for row in recorded:
            hook = self.hooks.get(row["line"])
            if hook is not None:
                hook()
            if row["request"] is None or row["step"] in self.left_out or row["line"] in self.left_out:
                continue
            before = len(self.wrong)
            self._play(row)
            self.compared += 1
            for at in range(before, len(self.wrong)):
                self.wrong[at] = f"{title(row)}: {self.wrong[at]}"

    def _play(self, row: Row) -> None:
        expected = row["response"]
        if "task status (last)" in row["step"]:
            answered = self._ended(row)
        else:
            answered = self._exited(row) if _has_exited(expected) else self.ask(row)
        if "task status (running)" in row["step"] and _status_of(answered) == "stopped":
            return  # ours was done when it was asked
        self._learn(row, answered)
        self._let_begin(answered)
        self._compare_head(row, answered)
        if expected.get("body") is not None and answered.status == expected["status"]:
            self._compare(expected["body"], answered.body, "", row)

    def _ended(self, row: Row) -> Answered:
        self.pve.faults.release()
        found: list[Answered] = []

        def over() -> bool:
            found[:] = [self.ask(row)]
            return _status_of(found[0]) != "running"

        eventually_sync(over)
        self.pve.faults.hold("")
        return found[0]

    def _exited(self, row: Row) -> Answered:
        """A program that had ended has ended."""
        found: list[Answered] = []

        def over() -> bool:
            found[:] = [self.ask(row)]
            return _has_exited({"body": found[0].body}) or found[0].status != 200

        eventually_sync(over)
        return found[0]

    def _let_begin(self, answered: Answered) -> None:
        """A task that was just started gets as far as it can while tasks are held."""
        upid = answered.body.get("data") if isinstance(answered.body, dict) else None
        if isinstance(upid, str) and upid.startswith("UPID:"):
            task = self.pve.call(lambda inside: inside.tasks.all[upid])
            eventually_sync(lambda: not task.running or task.waits != "")

    # asking

    def ask(self, row: Row) -> Answered:
        """Send a recorded request, with what is ours in place of what was the recorder's."""
        request = row["request"]
        params = self._params(row)
        path = self._path(request["path"])
        url = urlsplit(self.pve.url_of(request["node"]))
        headers, body = self._headers(row), None
        if request["method"] in ("GET", "DELETE"):
            path += f"?{urlencode(params, doseq=True)}" if params else ""
        elif params is not None:
            as_json = "JSON" in row["step"]
            body = json.dumps(params) if as_json else urlencode(params, doseq=True)
            headers["Content-Type"] = "application/json" if as_json else "application/x-www-form-urlencoded"
        before = self.pve.now()
        connection = http.client.HTTPSConnection(url.hostname or "", url.port, timeout=120, context=self._context())
        try:
            connection.request(request["method"], f"/api2/json{path}", body, headers)
            response = connection.getresponse()
            raw = response.read()
        except (http.client.RemoteDisconnected, ConnectionResetError):
            return Answered(None, "", None, self.pve.now() - before)
        finally:
            connection.close()
        told = json.loads(raw) if raw else ""
        return Answered(response.status, response.reason, told, self.pve.now() - before)

    def _context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.pve.ca_file))

    def _path(self, path: str) -> str:
        """What is kept of a hibernated VM has its day in its name, and at a double's pace midnight is never far."""
        kept = self.pve.volumes() if "suspend-" in path else []
        ours = {found[1]: found[0] for one in kept if (found := _KEPT.search(one.volid))}
        parts = [_KEPT.sub(lambda found: ours.get(found[1], found[0]), unquote(part)) for part in path.split("/")]
        return "/".join(quote(self._upids.get(part, part), safe="") for part in parts)

    def _params(self, row: Row) -> dict[str, Any]:
        given = dict(row["request"].get("params") or {})
        for key, value in given.items():
            if key == "password":
                given[key] = "wrong" if "wrong" in row["step"] else self.pve.password
            elif key == "digest":
                given[key] = self._digests.get(value, value)
            elif key == "vncticket" and value.startswith("<masked>"):
                given[key] = self._vnc
            elif key == "pid":
                given[key] = self._pids.get(value, value)
            elif isinstance(value, str) and (cut := re.fullmatch(r"(.)\1*\.\.\.<(\d+) characters>", value)):
                given[key] = cut.group(1) * int(cut.group(2))
        return given

    def _headers(self, row: Row) -> dict[str, str]:
        token = row["request"]["token"]
        given = {"spawner": self.pve.token, "admin": self.pve.admin_token, "malformed": "nonsense"}
        given |= {"bad-secret": self.pve.token[:-4] + "0000", "bad-tokenid": self.pve.token.replace("!hub", "!bub")}
        headers = {"Authorization": f"PVEAPIToken={given[token]}"} if token in given else {}
        if token == "root@pam ticket":
            # Of this moment: a ticket is good for two hours, which are seconds here.
            ticket, csrf = self.pve.call(lambda inside: inside.access.login("root@pam", self.pve.password))
            headers["Cookie"] = "PVEAuthCookie=" + quote(ticket)
            if "without a CSRF" not in row["step"]:
                headers["CSRFPreventionToken"] = csrf
        if "upgrade" in row["step"] and "without" not in row["step"]:
            headers |= {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
            headers |= {"Sec-WebSocket-Key": "x3JJHMbDL1EzLkh9GBhXDw==", "Sec-WebSocket-Protocol": "binary"}
        return headers

    def _learn(self, row: Row, answered: Answered) -> None:
        """Which of our UPIDs, digests and tickets stands for which recorded one."""
        body = row["response"].get("body")
        theirs = body.get("data") if isinstance(body, dict) else None
        ours = answered.body.get("data") if isinstance(answered.body, dict) else None
        if isinstance(theirs, str) and isinstance(ours, str) and theirs.startswith("UPID:"):
            self._upids[theirs] = ours
        if not isinstance(theirs, dict) or not isinstance(ours, dict):
            return
        for known, key in ((self._upids, "upid"), (self._digests, "digest"), (self._pids, "pid")):
            if key in theirs and key in ours:
                known[theirs[key]] = ours[key]  # type: ignore[index]
        if "ticket" in ours and "CSRFPreventionToken" not in ours:
            self._vnc = ours["ticket"]

    # comparing

    def _compare_head(self, row: Row, answered: Answered) -> None:
        expected = row["response"]
        if answered.status != expected.get("status"):
            said = f"{expected.get('status')} {expected.get('reason')!r}"
            self.wrong.append(f"{answered.status} {answered.reason!r} {answered.body} instead of {said}")
            return
        if normal(answered.reason) != normal(expected.get("reason") or ""):
            self.wrong.append(f"reason {answered.reason!r} instead of {expected['reason']!r}")
        waited = 0 if row["line"] in self.untimed else row.get("elapsed_s") or 0
        usual = "no cause found" not in (row.get("note") or "") and "task status" not in row["step"]
        if usual and 2.9 < waited < 35 and answered.passed_s < waited * 0.85:
            self.wrong.append(f"answered after {answered.passed_s:.1f} s instead of {waited} s")

    def _compare(self, theirs: Any, ours: Any, where: str, row: Row) -> None:
        if isinstance(theirs, dict) and isinstance(ours, dict):
            self._compare_dicts(theirs, ours, where, row)
        elif isinstance(theirs, list) and isinstance(ours, list):
            self._compare_lists(theirs, ours, where, row)
        elif _kind(theirs) != _kind(ours) or (
            where.rpartition(".")[2] not in _VOLATILE and normal(ours) != normal(theirs)
        ):
            self.wrong.append(f"{where}: {ours!r} instead of {theirs!r}")

    def _compare_dicts(self, theirs: Row, ours: Row, where: str, row: Row) -> None:
        if (lacking := theirs.keys() - ours.keys()) and not where.endswith("cap"):
            self.wrong.append(f"{where}: without {sorted(lacking)}")
        if extra := ours.keys() - theirs.keys():
            self.wrong.append(f"{where}: with {sorted(extra)}")
        for key in theirs.keys() & ours.keys():
            if key in _VOLATILE and isinstance(theirs[key], (dict, list)):
                if type(theirs[key]) is not type(ours[key]):
                    self.wrong.append(f"{where}.{key}: {ours[key]!r} instead of {theirs[key]!r}")
                continue
            self._compare(theirs[key], ours[key], f"{where}.{key}", row)

    def _compare_lists(self, theirs: list[Any], ours: list[Any], where: str, row: Row) -> None:
        cut = "truncated" in (row["response"].get("note") or "")
        named, our_named = _by_name(theirs), _by_name(ours)
        if named is None or our_named is None:
            if len(theirs) != len(ours) and not cut:
                self.wrong.append(f"{where}: {len(ours)} entries instead of {len(theirs)}: {_short(ours)}")
            for number, (one, other) in enumerate(zip(theirs, ours, strict=False)):
                self._compare(one, other, f"{where}[{number}]", row)
            return
        if lacking := named.keys() - our_named.keys():
            self.wrong.append(f"{where}: without {sorted(lacking)}")
        if (extra := our_named.keys() - named.keys()) and not cut:
            self.wrong.append(f"{where}: with {sorted(extra)}")
        for key in named.keys() & our_named.keys():
            self._compare(named[key], our_named[key], f"{where}[{key}]", row)


def normal(value: Any) -> Any:
    """Without what differs between any two clusters."""
    if isinstance(value, bool):
        return int(value)
    if not isinstance(value, str):
        return value
    text = value.rstrip("\n")
    for pattern, instead in _NORMAL:
        text = pattern.sub(instead, text)
    return text


def _kind(value: Any) -> str:
    if isinstance(value, (bool, int, float)):
        return "number"
    return type(value).__name__


def _by_name(entries: list[Any]) -> dict[str, Any] | None:
    """The entries by what names them; None when something does not, or names two."""
    for key in _NAMES:
        if entries and all(isinstance(one, dict) and key in one for one in entries):
            found = {normal(str(one[key])): one for one in entries}
            if len(found) == len(entries):
                return found
    return {} if not entries else None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 400 else text[:400] + "..."


def _has_exited(response: Mapping[str, Any]) -> bool:
    body = response.get("body")
    data = body.get("data") if isinstance(body, dict) else None
    return isinstance(data, dict) and data.get("exited") == 1


def _status_of(answered: Answered) -> str:
    data = answered.body.get("data") if isinstance(answered.body, dict) else None
    return str(data.get("status", "")) if isinstance(data, dict) else ""
