"""The one door to the API server: this node's own annotation, and nothing else. Blocking: use a thread.

The right that it needs is `patch` on `nodes`. The token is read anew for each call, because the kubelet exchanges it.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT_S = 15.0
_NODE = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)
_MOST_WORDS = 300


class NodeError(Exception):
    """The API server did not take it; the text says why, and no secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDoor:
    """This node at its API server. url: `https://10.43.0.1:443`. token, ca: files; None: none is needed."""

    node: str
    url: str
    token: Path | None = None
    ca: Path | None = None

    @classmethod
    def in_cluster(
        cls, node: str | None, environment: Mapping[str, str] = os.environ, *, account: Path = _ACCOUNT
    ) -> NodeDoor | None:
        """The door of a pod with a service account; None where this is no pod, or nobody says which node it is on."""
        host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "443")
        if not node or not host or not (account / "token").exists():
            return None
        host = f"[{host}]" if ":" in host else host
        return cls(node=node, url=f"https://{host}:{port}", token=account / "token", ca=account / "ca.crt")

    def annotate(self, annotations: Mapping[str, str | None]) -> None:
        """Set annotations of this node; None removes one. Raises NodeError."""
        if not _NODE.fullmatch(self.node):
            raise NodeError(f"{self.node!r} is no node's name")
        body = json.dumps({"metadata": {"annotations": dict(annotations)}}).encode()
        headers = {"Content-Type": "application/merge-patch+json", "Accept": "application/json"}
        try:
            if self.token is not None:
                headers["Authorization"] = f"Bearer {self.token.read_text(encoding='ascii').strip()}"
            status, said = self._patch(f"/api/v1/nodes/{quote(self.node)}", body, headers)
        except (OSError, http.client.HTTPException, UnicodeError, ValueError) as exc:
            raise NodeError(f"the API server cannot be reached: {type(exc).__name__}: {exc}") from exc
        if status != http.HTTPStatus.OK:
            raise NodeError(f"the API server says {status}: {_message(said)}")

    def _patch(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        parts = urlsplit(self.url)
        if parts.hostname is None:
            raise ValueError(f"{self.url!r} is no address")
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=None if self.ca is None else str(self.ca))
            connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=_TIMEOUT_S, context=context)
        else:
            connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=_TIMEOUT_S)
        try:
            connection.request("PATCH", parts.path.rstrip("/") + path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


def _message(said: bytes) -> str:
    """The words of a Status object, or what there is instead."""
    try:
        found = json.loads(said)["message"]
    except (ValueError, TypeError, KeyError):
        found = said.decode("utf-8", "replace")
    return str(found)[:_MOST_WORDS]
