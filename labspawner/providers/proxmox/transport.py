"""One thread's line to one endpoint: the only place that imports proxmoxer and requests. Everything here blocks."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakSet

import requests
from proxmoxer import ProxmoxAPI
from proxmoxer.backends.https import ProxmoxHTTPAuthBase
from proxmoxer.core import ResourceException
from requests.adapters import HTTPAdapter
from requests.cookies import cookiejar_from_dict

from labspawner.providers.proxmox.asking import Answer, Ask, Call, Lost, NotSent, Untrusted
from labspawner.providers.proxmox.trust import Context, WrongPin, context_for

_STALE_S = 2.0  # a connection that was idle for longer may be closed by the other side just as something is sent on it


class Line:
    """One session. Of one thread, but for `hang_up`, which any may call."""

    def __init__(self, url: str, *, fingerprint: str, ca_file: Path | None, connect_s: float) -> None:
        self._context = context_for(fingerprint=fingerprint, ca_file=ca_file)
        self._context.opened = self._opened
        self._context.sending = self._sending
        self._adapter = _Adapter(self._context)
        self._auth = _Auth(connect_s)
        self._api = _Api(url, self._adapter, self._auth, self._answered)
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self._lock = threading.Lock()
        self._call: Call | None = None
        self._response: requests.Response | None = None
        self._used_at = float("-inf")

    def run(self, call: Call) -> Answer:
        """Ask. Raises NotSent, Untrusted and Lost."""
        ask = call.ask
        call.begin(self)
        self._call, self._response = call, None
        if ask.method != "GET" and time.monotonic() - self._used_at > _STALE_S:
            self._adapter.close()
        self._auth.take(ask)
        began = time.time()
        try:
            data, refused = self._api.ask(ask)
        except (requests.RequestException, OSError, ValueError, LookupError, TypeError) as exc:
            raise self._meaning(exc, call) from exc
        finally:
            call.end()
            self._call, self._used_at = None, time.monotonic()
        return self._read(data, refused, began)

    def hang_up(self) -> None:
        """End what is under way, from another thread: a read that hangs fails at once."""
        with self._lock:
            sockets = list(self._sockets)
        for each in sockets:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(each, socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the connections back."""
        self._adapter.close()

    def _opened(self, opened: socket.socket) -> None:
        with self._lock:
            self._sockets.add(opened)

    def _sending(self) -> None:
        if self._call is not None:
            self._call.sending()

    def _answered(self, response: requests.Response, *_args: Any, **_kwargs: Any) -> None:
        self._response = response

    def _meaning(self, exc: Exception, call: Call) -> NotSent | Lost:
        chain = list(_causes(exc))
        for each in chain:
            if isinstance(each, WrongPin):
                return Untrusted(str(each.args[0]), expected=each.expected, shown=each.shown)
            if isinstance(each, ssl.SSLCertVerificationError):
                return Untrusted(f"the certificate is not trusted: {getattr(each, 'verify_message', '') or each}")
        root = next((each for each in reversed(chain) if not isinstance(each, requests.RequestException)), exc)
        why = f"{type(root).__name__}: {str(root)[:300]}" if call.sent else _why_not(root)
        return Lost(why) if call.sent else NotSent(why)

    def _read(self, data: Any, refused: ResourceException | None, began: float) -> Answer:
        response, self._response = self._response, None
        skew_s = _skew(response, began) if response is not None else None
        if refused is None:
            if response is not None and response.status_code >= 300:
                raise Lost(f"redirected: {response.status_code} {response.reason}")
            if isinstance(data, dict) and data.keys() == {"errors"} and isinstance(data["errors"], bytes):
                raise Lost("the answer is no JSON")
            return Answer(200, data, skew_s=skew_s)
        body = _body(response)
        text = str(body.get("message") or refused.content or "").strip()
        errors = body.get("errors")
        errors = {str(key): str(value) for key, value in errors.items()} if isinstance(errors, dict) else {}
        return Answer(int(refused.status_code), None, text, errors, skew_s)


class _Api(ProxmoxAPI):  # type: ignore[misc]
    """proxmoxer's client with connections of our making."""

    def __init__(self, url: str, adapter: HTTPAdapter, auth: _Auth, answered: Any) -> None:
        parts = urlsplit(url)
        super().__init__(
            parts.hostname,
            port=parts.port,
            path_prefix=parts.path.strip("/") or None,
            user="-",  # the credentials come with each request: tickets are shared by all threads, tokens may be renewed
            token_name="-",  # noqa: S106 - none
            token_value="-",  # noqa: S106 - none
        )
        session: requests.Session = self._store["session"]
        session.auth = auth
        session.trust_env = False  # neither a proxy nor a .netrc of the hub's environment
        session.max_redirects = 0
        session.hooks["response"] = [answered]
        session.adapters.clear()
        session.mount("https://", adapter)

    def ask(self, ask: Ask) -> tuple[Any, ResourceException | None]:
        """The data, or why there is none. Raises what requests raises."""
        method = {"GET": "get", "POST": "post", "PUT": "put", "DELETE": "delete"}[ask.method]
        resource = self(ask.path.strip("/"))
        try:
            return getattr(resource, method)(**_plain(ask.params)), None
        except ResourceException as exc:
            return None, exc


class _Auth(ProxmoxHTTPAuthBase):  # type: ignore[misc]
    """The credentials and deadlines of the request that is under way."""

    def __init__(self, connect_s: float) -> None:
        super().__init__(verify_ssl=True)  # our adapter decides by its context, whatever stands here
        self._connect_s = connect_s
        self._headers: Mapping[str, str] = {}
        self._cookies: Mapping[str, str] = {}

    def take(self, ask: Ask) -> None:
        """Be those of this request."""
        self._headers, self._cookies = ask.headers, ask.cookies
        self.timeout = (min(self._connect_s, ask.read_s), ask.read_s)

    def get_cookies(self) -> Any:
        return cookiejar_from_dict(dict(self._cookies))

    def __call__(self, req: Any) -> Any:
        req.headers.update(self._headers)
        return req


class _Adapter(HTTPAdapter):
    """Connections that trust what their context trusts, and nothing that requests would add to it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        super().__init__(pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        kwargs["ssl_context"] = self._context
        if self._context.pin:
            kwargs["assert_fingerprint"] = self._context.pin  # looked at twice, so that urllib3 knows it was
        super().init_poolmanager(*args, **kwargs)

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Nothing: the context does."""

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {}


def _plain(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as PVE reads them: no None, booleans as 0 and 1; lists stay, and repeat their key."""
    return {key: int(value) if isinstance(value, bool) else value for key, value in params.items() if value is not None}


def _body(response: requests.Response | None) -> dict[str, Any]:
    try:
        found = json.loads(response.content) if response is not None else None
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {}


def _skew(response: requests.Response, began: float) -> float | None:
    try:
        there = parsedate_to_datetime(response.headers["Date"]).timestamp() + 0.5  # it is cut to whole seconds
    except (KeyError, ValueError, TypeError):
        return None
    return there - (began + time.time()) / 2


def _causes(exc: BaseException) -> Any:
    """An exception and all that it wraps, outermost first: requests and urllib3 hide them in several places."""
    todo, seen = [exc], set()
    while todo:
        each = todo.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        inner = [*each.args, getattr(each, "reason", None), each.__cause__, each.__context__]
        todo += [one for one in inner if isinstance(one, BaseException)]


def _why_not(root: BaseException) -> str:
    text = str(root)
    return f"{type(root).__name__}: {text[text.rfind('>: ') + 3 :] if '>: ' in text else text}"[:300]


class _NoBodies(logging.Filter):
    """Keeps what proxmoxer logs of requests and answers out of every log: there are passwords in them."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING


class _NoQueries(logging.Filter):
    """Cuts the parameters off the paths that urllib3 logs."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                arg.partition("?")[0] + "?..." if isinstance(arg, str) and "/api2/" in arg and "?" in arg else arg
                for arg in record.args
            )
        return True


def _keep_secrets() -> None:
    for name in ("proxmoxer", "proxmoxer.core", "proxmoxer.backends.https"):
        logging.getLogger(name).addFilter(_NoBodies())
    logging.getLogger("urllib3.connectionpool").addFilter(_NoQueries())


_keep_secrets()
