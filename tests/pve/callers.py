"""Asks the double as a client without any library would."""

from __future__ import annotations

import http.client
import json
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from labspawner.testing.pve import PveDouble
from labspawner.testing.waiting import eventually_sync

ANSWER_S = 120.0
_DASHED = {"input_data": "input-data", "with_local_disks": "with-local-disks"}


@dataclass(frozen=True)
class Answer:
    """What came back; `data` of a success, `errors` of refused parameters."""

    status: int
    reason: str
    body: Any
    headers: http.client.HTTPMessage

    @property
    def data(self) -> Any:
        assert self.status == 200, f"{self.status} {self.reason} {self.body}"
        return self.body["data"]

    @property
    def errors(self) -> dict[str, str]:
        assert self.status == 400, f"{self.status} {self.reason}"
        found: dict[str, str] = self.body["errors"]
        return found


class Caller:
    """One who asks: with a token (the least-privilege one if not said), through one node's port."""

    def __init__(self, pve: PveDouble, token: str | None = None, node: str = "pve1") -> None:
        self.pve, self.node = pve, node
        self.token = pve.token if token is None else token
        self.headers = {"Authorization": f"PVEAPIToken={self.token}"} if self.token else {}

    def ask(self, method: str, path: str, timeout_s: float = ANSWER_S, **params: Any) -> Answer:
        """What the double answers. Raises OSError and HTTPException as they come."""
        url = urlsplit(self.pve.url_of(self.node))
        named = {_DASHED.get(key, key): value for key, value in params.items()}
        encoded = urlencode(named, doseq=True)
        in_query = method in ("GET", "DELETE") and encoded
        where = f"/api2/json{path}?{encoded}" if in_query else f"/api2/json{path}"
        headers, body = dict(self.headers), None
        if not in_query and encoded:
            body, headers["Content-Type"] = encoded, "application/x-www-form-urlencoded"
        context = ssl.create_default_context(cafile=str(self.pve.ca_file))
        connection = http.client.HTTPSConnection(url.hostname or "", url.port, timeout=timeout_s, context=context)
        try:
            connection.request(method, where, body, headers)
            response = connection.getresponse()
            raw = response.read()
            return Answer(response.status, response.reason, json.loads(raw) if raw else None, response.headers)
        finally:
            connection.close()

    def get(self, path: str, **params: Any) -> Answer:
        return self.ask("GET", path, **params)

    def post(self, path: str, **params: Any) -> Answer:
        return self.ask("POST", path, **params)

    def put(self, path: str, **params: Any) -> Answer:
        return self.ask("PUT", path, **params)

    def delete(self, path: str, **params: Any) -> Answer:
        return self.ask("DELETE", path, **params)

    # tasks

    def end(self, upid: str) -> str:
        """How a task ended."""
        return str(eventually_sync(lambda: self._exit(upid)))

    def _exit(self, upid: str) -> str:
        found = self.get(f"/nodes/{upid.split(':')[1]}/tasks/{quote(upid, safe='')}/status").data
        return str(found.get("exitstatus", ""))

    def done(self, method: str, path: str, **params: Any) -> str:
        """How the task ended that this call starts."""
        return self.end(self.ask(method, path, **params).data)

    def clone(self, newid: int, **params: Any) -> str:
        """How a clone of the shared template ended."""
        return self.done(
            "POST", f"/nodes/pve1/qemu/{self.pve.template}/clone", newid=newid, pool=self.pve.pool, **params
        )

    def running(self, vmid: int) -> None:
        """A clone that runs, with its agent up."""
        assert self.clone(vmid) == "OK"
        assert self.done("POST", f"/nodes/pve1/qemu/{vmid}/status/start") == "OK"
        eventually_sync(lambda: self.post(f"/nodes/pve1/qemu/{vmid}/agent/ping").status == 200)


def vm(vmid: int, rest: str = "", node: str = "pve1") -> str:
    """The path of a VM, or of something below it."""
    return f"/nodes/{node}/qemu/{vmid}{rest}"
