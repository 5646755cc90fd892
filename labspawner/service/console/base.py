"""What every address of the console does first: who asks, by which way, and how large a body is.

A body is read only after its sender is known, and only if it is small. Errors are problems (see `problems`), as JSON for
programs and as pages for people.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from jupyterhub.services.auth import HubOAuthenticated
from tornado import httputil, web

from labspawner.errors import LabError
from labspawner.pages import i18n
from labspawner.pages.handlers import request_language
from labspawner.service.console import words
from labspawner.service.console.addresses import sender
from labspawner.service.console.house import House
from labspawner.service.console.pages.render import POLICY
from labspawner.service.console.problems import (
    LogIn,
    Problem,
    Refused,
    TooLarge,
    as_json,
    of_exception,
)
from labspawner.service.console.rights import Caller, Verb

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 256 * 1024
_DISCARD_BYTES = 64 * 1024 * 1024
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


@web.stream_request_body
class ConsoleHandler(HubOAuthenticated, web.RequestHandler):  # type: ignore[misc]
    """Knows who asks, in `caller`, before a method runs. programs: errors are JSON, and nobody is sent to the log-in."""

    programs = False
    caller: Caller

    def initialize(self, house: House) -> None:
        self.house = house
        self.hub_auth = house.hub.auth
        self._hub_auth_user_cache: Any = None  # never asked for by a way that blocks
        self._chunks: list[bytes] = []
        self._size = 0
        self._body_taken = False

    # -- who asks --------------------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Let in who is logged in; others go to the hub's log-in, or get 401."""
        if "token" in self.request.query_arguments:
            raise Problem(words.TOKEN_IN_URL, kind="token-in-address")
        if await self._refuse_size():
            return
        caller = await self.house.hub.who(self)
        if caller is None:
            self._nobody()
            return
        self.caller = replace(caller, ip=sender(self.request.headers, self._peer()))
        self._hub_auth_user_cache = {"name": caller.name}
        self._guard()

    def _peer(self) -> str:
        """The address that the connection came from, whatever the request's headers say."""
        address = getattr(getattr(self.request.connection, "context", None), "address", None)
        return str(address[0]) if isinstance(address, tuple) and address else self.request.remote_ip or ""

    def _nobody(self) -> None:
        if self.programs:
            raise LogIn(words.BAD_TOKEN if "Authorization" in self.request.headers else words.NO_TOKEN)
        if self.request.method != "GET":
            raise LogIn(words.LOG_IN)
        self.redirect(self.get_login_url())

    @property
    def by_token(self) -> bool:
        """Whether a header of the request says who asks, and no cookie."""
        return bool(getattr(self, "_token_authenticated", False))

    async def _refuse_size(self) -> bool:
        """Answer 413 now where the body says that it is too large. What comes of it is thrown away, so that its sender
        hears the answer."""
        try:
            size = int(self.request.headers.get("Content-Length", "0"))
        except ValueError:
            return False
        if size <= MAX_BODY_BYTES:
            return False
        self._answer_problem(TooLarge(words.TOO_LARGE))
        self.set_header("Connection", "close")
        if size > _DISCARD_BYTES:
            self.finish()
            return True
        await self.flush()
        setattr(self, str(self.request.method).lower(), self.finish)
        return True

    def data_received(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size <= MAX_BODY_BYTES:
            self._chunks.append(chunk)

    def _guard(self) -> None:
        """Have the method run after its body is there, and after the request is known to be no forgery."""
        name = str(self.request.method).lower()
        method: Callable[..., Awaitable[None] | None] = getattr(self, name)

        async def guarded(*args: str, **kwargs: str) -> None:
            self._take_body()
            if self.request.method not in _SAFE:
                self._refuse_forgery()
            running = method(*args, **kwargs)
            if running is not None:
                await running

        setattr(self, name, guarded)

    def _take_body(self) -> None:
        if self._size > MAX_BODY_BYTES:
            raise TooLarge(words.TOO_LARGE)
        self._body_taken = True
        self.request.body = b"".join(self._chunks)
        if self.programs:
            return  # no form is read there
        kind = self.request.headers.get("Content-Type", "")
        try:
            httputil.parse_body_arguments(
                kind, self.request.body, self.request.body_arguments, self.request.files, self.request.headers
            )
        except httputil.HTTPInputError as exc:
            raise Problem(words.UNREADABLE) from exc
        for key, values in self.request.body_arguments.items():
            self.request.arguments.setdefault(key, []).extend(values)

    def check_xsrf_cookie(self) -> None:
        """JupyterHub's check of a cookie's request. Of a change it is put off until the body is there, where a form has its
        token: `_refuse_forgery` makes it then, before anything else happens."""
        if self.request.method in _SAFE or self._body_taken:
            super().check_xsrf_cookie()

    def _refuse_forgery(self) -> None:
        """A change that a cookie speaks for needs JupyterHub's XSRF token, and comes from a page of this host."""
        if self.by_token:
            return
        if "Authorization" in self.request.headers:
            raise LogIn(words.BAD_TOKEN)
        origin = self.request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc.lower() not in self.house.hosts(self.request.host):
            raise Refused(words.FORGED, kind="forged")
        if self.request.headers.get("Sec-Fetch-Site", "same-origin") not in {"same-origin", "none"}:
            raise Refused(words.FORGED, kind="forged")
        try:
            self.check_xsrf_cookie()
        except web.HTTPError as exc:
            raise Refused(words.FORGED, kind="forged") from exc

    # -- rights ----------------------------------------------------------------------------------------------------

    def require(self, verb: Verb, course: str = "") -> None:
        """Go on only if the caller may. Raises Refused; Missing for a course that they may not know of."""
        self.house.require(self.caller, verb, course)

    # -- language --------------------------------------------------------------------------------------------------

    @property
    def base_url(self) -> str:
        """Where the hub is; the language cookie is for all of it."""
        return self.house.base_url

    @property
    def language(self) -> str:
        return request_language(self)

    def say(self, sentence: str) -> str:
        """In the reader's language."""
        return i18n.translate(sentence, self.language)

    # -- headers and errors ----------------------------------------------------------------------------------------

    def set_default_headers(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("X-Frame-Options", "DENY")
        self.set_header("Referrer-Policy", "same-origin")
        self.set_header("Cross-Origin-Opener-Policy", "same-origin")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")
        self.set_header("Content-Security-Policy", POLICY)
        self.clear_header("Server")

    def log_exception(self, kind: Any, value: Any, trace: Any) -> None:
        if isinstance(value, LabError):
            log.warning("%s %s: %s", self.request.method, self.request.path, value)
        elif not isinstance(value, Problem):
            super().log_exception(kind, value, trace)

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        cause = (kwargs.get("exc_info") or (None, None, None))[1]
        super().send_error(of_exception(cause, status_code).status, **kwargs)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        cause = (kwargs.get("exc_info") or (None, None, None))[1]
        self._answer_problem(of_exception(cause, status_code))
        self.finish()

    def _answer_problem(self, problem: Problem) -> None:
        self.set_status(problem.status)
        if "retry_after_s" in problem.members:
            self.set_header("Retry-After", str(max(1, round(problem.members["retry_after_s"]))))
        self.write_problem(problem)

    def write_problem(self, problem: Problem) -> None:
        """The body of an error: JSON here, a page where people read."""
        body = json.dumps(as_json(problem, language=self.language, instance=self.request.path)).encode()
        self.set_header("Content-Type", "application/problem+json")
        self.set_header("Content-Length", str(len(body)))
        self.write(body)
