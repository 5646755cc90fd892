"""The way to the hub that started this server: small requests, small answers, never an exception for its sake."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.simple_httpclient import SimpleAsyncHTTPClient

AWAY = 0
_LARGEST_ANSWER_BYTES = 64 * 1024


@dataclass(frozen=True)
class Address:
    """Where the hub is and who we are. base: of the hub, as in `http://127.0.0.1:8081/hub`, without a slash."""

    base: str
    token: str = field(repr=False)
    key: str = ""
    certificate: str = ""
    authority: str = ""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Address | None:
        """What JupyterHub put into a server's environment; None where it did not."""
        url, token = environment.get("JUPYTERHUB_API_URL", ""), environment.get("JUPYTERHUB_API_TOKEN", "")
        if not (url and token):
            return None
        base = url.rstrip("/")
        return cls(
            base=base[: -len("/api")] if base.endswith("/api") else base,
            token=token,
            key=environment.get("JUPYTERHUB_SSL_KEYFILE", ""),
            certificate=environment.get("JUPYTERHUB_SSL_CERTFILE", ""),
            authority=environment.get("JUPYTERHUB_SSL_CLIENT_CA", ""),
        )

    def url(self, what: str) -> str:
        """The address of `report`, `extend` or `hold`."""
        return f"{self.base}/labspawner/{what}"

    def tls(self) -> ssl.SSLContext | None:
        """For a hub with `internal_ssl`: our certificate, and whom to trust; None for a hub without."""
        if not (self.base.startswith("https:") and (self.authority or self.certificate)):
            return None
        context = ssl.create_default_context(cafile=self.authority or None)
        if self.certificate:
            context.load_cert_chain(self.certificate, self.key or None)
        return context


@dataclass(frozen=True)
class Reply:
    """What the hub said. status: 0 when nobody answered. body: {} where it was no JSON object."""

    status: int
    body: Mapping[str, Any]

    @property
    def ok(self) -> bool:
        return self.status == 200


class Hub:
    """Posts to the hub. Every request ends within `timeout_s` seconds."""

    def __init__(self, address: Address, *, timeout_s: float = 10.0) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._tls = address.tls()
        # Not the configurable client: another extension may have made that one libcurl, which obeys proxy variables.
        self._client = SimpleAsyncHTTPClient(force_instance=True, max_body_size=_LARGEST_ANSWER_BYTES)

    async def post(self, what: str, body: Mapping[str, Any]) -> Reply:
        """Post `body` to `report`, `extend` or `hold`; never raises because of the hub."""
        request = HTTPRequest(
            self._address.url(what),
            method="POST",
            headers={"Authorization": f"token {self._address.token}", "Content-Type": "application/json"},
            body=json.dumps(body),
            connect_timeout=self._timeout_s / 2,
            request_timeout=self._timeout_s,
            follow_redirects=False,
            ssl_options=self._tls,
        )
        try:
            response = await self._client.fetch(request, raise_error=False)
        except (HTTPClientError, OSError):
            return Reply(AWAY, {})
        if response.code == 599:
            return Reply(AWAY, {})
        try:
            answer = json.loads(response.body)
        except ValueError:
            answer = {}
        return Reply(response.code, answer if isinstance(answer, dict) else {})

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()
