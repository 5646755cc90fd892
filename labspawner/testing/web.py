"""A very small HTTP client for tests of a real hub: every answer as it is, no exception for a status, no redirect
followed. With an API token, or with the cookies of somebody who logged in."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPResponse
from http.cookiejar import CookieJar
from typing import Any
from urllib.parse import urlencode

TIMEOUT_S = 240.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON; None where it is empty."""
        return json.loads(self.body) if self.body else None

    @property
    def message(self) -> str:
        """The sentence in an error of JupyterHub's API."""
        found = self.json()
        return str(found["message"]) if isinstance(found, dict) and "message" in found else ""


class _AsItIs(urllib.request.HTTPErrorProcessor):
    def http_response(self, request: urllib.request.Request, response: Any) -> Any:
        return response

    https_response = http_response


class Client:
    """Talks to the server at `base` (scheme, host and port). headers: sent with every request."""

    def __init__(self, base: str, headers: Mapping[str, str] | None = None) -> None:
        self.base = base
        self.cookies = CookieJar()
        self._headers = dict(headers or {})
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(self.cookies), _AsItIs
        )

    def call(self, method: str, path: str, body: object = None, *, timeout_s: float = TIMEOUT_S) -> Answer:
        """One request. body: bytes as they are, anything else but None as JSON. Raises OSError if nobody answers."""
        with self._open(method, path, body, {}, timeout_s) as response:
            return Answer(response.status, dict(response.headers.items()), response.read())

    def get(self, path: str, *, within: str = "/hub/") -> Answer:
        """A page, after at most ten redirects to paths `within`; one that leads elsewhere is the answer."""
        answer = self.call("GET", path)
        for _ in range(10):
            target = answer.headers.get("Location", "").removeprefix(self.base)
            if answer.status not in {301, 302, 303} or not target.startswith(within):
                break
            answer = self.call("GET", target)
        return answer

    def post_form(self, path: str, fields: Mapping[str, str] | bytes) -> Answer:
        """Post a form as a browser does, with the XSRF cookie that the page before had set."""
        query = urlencode({"_xsrf": self.cookie("_xsrf")})
        body = fields if isinstance(fields, bytes) else urlencode(fields).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        with self._open("POST", f"{path}{'&' if '?' in path else '?'}{query}", body, headers, TIMEOUT_S) as response:
            return Answer(response.status, dict(response.headers.items()), response.read())

    def cookie(self, name: str) -> str:
        """The value of the newest cookie called `name`; empty without one."""
        values = [cookie.value for cookie in self.cookies if cookie.name == name]
        return values[-1] or "" if values else ""

    def events(self, path: str, *, deadline_s: float = TIMEOUT_S) -> Iterator[dict[str, Any]]:
        """Each server-sent event of a stream, as JSON, until the server ends it. Closing the iterator hangs up.

        Raises AssertionError where there is no stream, or it has not ended in time.
        """
        until = time.monotonic() + deadline_s
        with self._open("GET", path, None, {"Accept": "text/event-stream"}, TIMEOUT_S) as response:
            if response.status != 200:
                raise AssertionError(f"no stream: {response.status} {response.read()[:500]!r}")
            for line in response:
                assert time.monotonic() < until, f"the stream goes on after {deadline_s:g} s"
                if line.startswith(b"data:"):
                    yield json.loads(line[5:])

    def _open(self, method: str, path: str, body: object, headers: Mapping[str, str], timeout_s: float) -> HTTPResponse:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 - a loopback URL of a test
            self.base + path, data=data, method=method, headers={**self._headers, **headers}
        )
        response: HTTPResponse = self._opener.open(request, timeout=timeout_s)
        return response
