"""Proxmox VE by its HTTP API alone, with Python's own library: what the suite speaks to the double and to real clusters."""

from __future__ import annotations

import hashlib
import http.client
import json
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode, urlsplit


@dataclass(frozen=True)
class Answer:
    """What came back. text: the reason phrase and the message, whichever has words."""

    status: int
    reason: str
    body: Any

    @property
    def data(self) -> Any:
        return self.body.get("data") if isinstance(self.body, Mapping) else None

    @property
    def errors(self) -> Mapping[str, str]:
        return (self.body.get("errors") if isinstance(self.body, Mapping) else None) or {}

    @property
    def text(self) -> str:
        said = self.body.get("message") if isinstance(self.body, Mapping) else ""
        return str(said or self.reason).strip()


@dataclass
class Api:
    """One endpoint, as one token. fingerprint: SHA-256 of its certificate, with colons, which is all that is trusted."""

    url: str
    token: str
    fingerprint: str
    patience_s: float = 60.0
    _line: http.client.HTTPSConnection | None = field(default=None, repr=False)

    def __call__(self, method: str, path: str, /, token: str | None = None, **params: Any) -> Answer:
        """Ask once; a connection that the other side has closed meanwhile is made anew for a GET."""
        sent = urlencode([(k, str(v)) for k, value in params.items() for v in _each(value)], quote_via=quote)
        target = f"/api2/json{path}" + (f"?{sent}" if sent and method in {"GET", "DELETE"} else "")
        body = sent if sent and method not in {"GET", "DELETE"} else None
        headers = {"Content-Type": "application/x-www-form-urlencoded"} if body else {}
        given = self.token if token is None else token
        if given:
            headers["Authorization"] = f"PVEAPIToken={given}"
        try:
            return self._send(method, target, body, headers)
        except (OSError, http.client.HTTPException):
            self.close()
            if method != "GET":
                raise
            return self._send(method, target, body, headers)

    def _send(self, method: str, target: str, body: str | None, headers: Mapping[str, str]) -> Answer:
        line = self._connection()
        line.request(method, target, body=body, headers=dict(headers))
        with line.getresponse() as got:
            raw = got.read()
            try:
                said = json.loads(raw) if raw else None
            except ValueError:
                said = None
            return Answer(got.status, got.reason or "", said)

    def _connection(self) -> http.client.HTTPSConnection:
        if self._line is None:
            parts = urlsplit(self.url)
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the pin below is what counts
            line = http.client.HTTPSConnection(
                parts.hostname or "", parts.port or 8006, timeout=self.patience_s, context=context
            )
            line.connect()
            shown = line.sock.getpeercert(binary_form=True)  # type: ignore[union-attr]
            if hashlib.sha256(shown or b"").hexdigest() != self.fingerprint.replace(":", "").lower():
                line.close()
                raise AssertionError(f"{self.url} shows another certificate than LABSPAWNER_PVE_FINGERPRINT")
            self._line = line
        return self._line

    def close(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None

    def as_(self, token: str) -> Api:
        """The same endpoint, as another token, on a connection of its own."""
        return Api(self.url, token, self.fingerprint, self.patience_s)


@dataclass
class Lab:
    """What the suite works with: one cluster, one pool, one template, ids that are free for it.

    every_s: how often it is looked again; long_s: how long a boot may take.
    """

    api: Api
    pool: str
    template: int
    ids: Sequence[int]
    addresses: Sequence[str] = ()
    prefix: int = 24
    every_s: float = 1.0
    long_s: float = 600.0
    kvm: bool = True
    _taken: int = 0
    made: list[int] = field(default_factory=list)

    def new_id(self) -> int:
        vmid = self.ids[self._taken]
        self._taken += 1
        self.made.append(vmid)
        return vmid

    def vm(self, vmid: int) -> Mapping[str, Any] | None:
        listed = self.api("GET", "/cluster/resources", type="vm").data
        return next((each for each in listed if each.get("vmid") == vmid), None)

    def node_of(self, vmid: int) -> str:
        found = self.eventually(lambda: self.vm(vmid), f"VM {vmid} is listed")
        return str(found["node"])

    def path(self, vmid: int, below: str = "") -> str:
        return f"/nodes/{self.node_of(vmid)}/qemu/{vmid}{below}"

    def eventually(self, look: Callable[[], Any], what: str) -> Any:
        until = time.monotonic() + self.long_s
        while True:
            found = look()
            if found:
                return found
            if time.monotonic() > until:
                raise AssertionError(f"not within {self.long_s:.0f} s: {what}")
            time.sleep(self.every_s)

    def end_of(self, upid: str) -> str:
        """The exit status of a task."""
        node = upid.split(":")[1]
        path = f"/nodes/{node}/tasks/{quote(upid, safe='')}/status"

        def ended() -> Any:
            said = self.api("GET", path).data
            return said if said and said.get("status") == "stopped" else None

        return str(self.eventually(ended, f"the end of {upid}")["exitstatus"])

    def done(self, answer: Answer) -> str:
        """The exit status of the task that an answer names."""
        assert answer.status == 200, (answer.status, answer.text, answer.errors)
        assert str(answer.data).startswith("UPID:"), answer.data
        return self.end_of(str(answer.data))

    def clone(self, **params: Any) -> int:
        """A linked clone, made and set up for a quick boot."""
        vmid = self.new_id()
        answer = self.api("POST", self.path(self.template, "/clone"), newid=vmid, pool=self.pool, **params)
        assert self.done(answer) == "OK"
        return vmid

    def settle(self, vmid: int) -> None:
        changes: dict[str, Any] = {"ciupgrade": 0}
        if self.addresses:
            changes["ipconfig0"] = f"ip={self.addresses[len(self.made) % len(self.addresses)]}/{self.prefix}"
        if not self.kvm:
            changes["kvm"] = 0
        answer = self.api("PUT", self.path(vmid, "/config"), **changes)
        assert answer.status == 200, answer.text

    def boot(self, vmid: int) -> None:
        """Start it, and wait for its guest agent."""
        assert self.done(self.api("POST", self.path(vmid, "/status/start"))) == "OK"
        self.eventually(lambda: self.api("POST", self.path(vmid, "/agent/ping")).status == 200, f"the agent of {vmid}")

    def remove(self, vmid: int) -> None:
        """Delete a VM of ours, whatever it does; nothing where it is gone."""
        if self.vm(vmid) is None:
            return
        self.done(self.api("POST", self.path(vmid, "/status/stop")))
        self.done(self.api("DELETE", self.path(vmid), purge=1))


def _each(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else [value]
