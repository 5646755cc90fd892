"""Plain requests to the double, for tests of the double itself."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import threading
from typing import Any
from urllib.parse import urlsplit

from labspawner.testing.kube import KubeDouble

Json = dict[str, Any]
SLEEP = ("sleep", "3600")


def a_pod(name: str = "p", *command: str, image: str = "lab/singleuser:1", **spec: Any) -> Json:
    """A pod of one container that sleeps, or does something else. limits, env, labels, ...: where they belong."""
    limits, labels = spec.pop("limits", None), spec.pop("labels", {})
    container: Json = {"name": "notebook", "image": image, "command": list(command or SLEEP)}
    container |= {
        key: spec.pop(key) for key in ("env", "envFrom", "args", "readinessProbe", "volumeMounts") if key in spec
    }
    container |= {"resources": {"limits": limits} if limits else {}}
    usual = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": False}
    metadata = {"name": name, "labels": labels}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {**usual, **spec, "containers": [container]},
    }


def ask(
    double: KubeDouble,
    method: str,
    path: str,
    body: Any = None,
    *,
    token: str | None = None,
    kind: str = "application/json",
) -> tuple[int, Any]:
    """Status and body of one request; `path` is below the double's namespace unless it begins with /."""
    connection = connected(double)
    headers = {"Content-Type": kind} | _authorization(double, token)
    raw = None if body is None else json.dumps(body)
    connection.request(method, _whole(double, path), body=raw, headers=headers)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    is_json = response.headers.get("Content-Type", "").startswith("application/json")
    return response.status, json.loads(text) if is_json else text


def connected(double: KubeDouble) -> http.client.HTTPConnection:
    url = urlsplit(double.url)
    if double.ca_file is None:
        return http.client.HTTPConnection(url.hostname or "", url.port or 0, timeout=120)
    context = ssl.create_default_context(cafile=str(double.ca_file))
    return http.client.HTTPSConnection(url.hostname or "", url.port or 0, timeout=120, context=context)


def _whole(double: KubeDouble, path: str) -> str:
    return path if path.startswith("/") else f"/api/v1/namespaces/{double.namespace}/{path}"


def _authorization(double: KubeDouble, token: str | None) -> dict[str, str]:
    known = double.token if token is None else token
    return {"Authorization": f"Bearer {known}"} if known else {}


class Watching:
    """An open watch: `lines` grows until it `ended`; `error` says how the connection was lost."""

    def __init__(self, double: KubeDouble, path: str, *, token: str | None = None) -> None:
        self.lines: list[Json] = []
        self.ended, self.error = False, ""
        self._connection = connected(double)
        self._connection.request("GET", _whole(double, path), headers=_authorization(double, token))
        self._response = self._connection.getresponse()
        self.status = self._response.status
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for line in self._response:
                self.lines.append(json.loads(line))
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
            self.error = f"{type(error).__name__}: {error}"
        self.ended = True

    @property
    def kinds(self) -> list[str]:
        return [line["type"] for line in self.lines]

    def close(self) -> None:
        if self._connection.sock is not None:
            with contextlib.suppress(OSError):  # the double has reset it
                self._connection.sock.shutdown(2)
        self._thread.join(60)
        self._connection.close()

    def __enter__(self) -> Watching:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def phase(double: KubeDouble, name: str = "p") -> str:
    return str(double.pod(name)["status"].get("phase"))


def waiting_for(double: KubeDouble, name: str = "p") -> str:
    """The reason why the first container waits; "" when it does not."""
    statuses = double.pod(name)["status"].get("containerStatuses") or [{}]
    return str((statuses[0].get("state") or {}).get("waiting", {}).get("reason", ""))


def condition(double: KubeDouble, kind: str, name: str = "p") -> Json:
    found = [item for item in double.pod(name)["status"].get("conditions") or [] if item["type"] == kind]
    return found[0] if found else {}


def is_ready(double: KubeDouble, name: str = "p") -> bool:
    return condition(double, "Ready", name).get("status") == "True"


def is_gone(double: KubeDouble, name: str = "p") -> bool:
    return name not in [pod["metadata"]["name"] for pod in double.pods()]
