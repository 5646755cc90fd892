"""The door to Proxmox VE: calls that hold nothing up, with a deadline each, at whichever endpoint answers.

What blocks is in transport.py, which alone knows proxmoxer and is imported by the first thread that needs it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from logging import getLogger
from typing import Any

from labspawner import metrics
from labspawner.deadlines import within
from labspawner.providers.proxmox.access import Access, EndpointHealth, Health, Way
from labspawner.providers.proxmox.answers import PveRefused, PveSilent, PveUntrusted
from labspawner.providers.proxmox.asking import Answer, Ask, Lost, NotSent, Untrusted
from labspawner.providers.proxmox.breaker import Breaker
from labspawner.providers.proxmox.credentials import Credentials, Keyring
from labspawner.providers.proxmox.endpoints import Endpoint, Endpoints
from labspawner.providers.proxmox.pace import CLOCK, Pace
from labspawner.providers.proxmox.routes import route_of
from labspawner.providers.proxmox.threads import Threads
from labspawner.providers.proxmox.trust import spelled

__all__ = ["Access", "Client", "EndpointHealth", "Health", "Way"]

log = getLogger(__name__)

_GET_READ_S = 12.0  # a GET that hangs for longer is asked again, elsewhere if there is an elsewhere
_AGAIN_S = 0.5
_SHARE = 0.9  # of what is left, for the socket: its deadline comes first, so that no thread has to be freed
_LOGIN_S = 30.0
_BETWEEN = frozenset({502, 504, 596, 597, 598, 599})  # said by a proxy in between: it may have been done
_NOBODY = 503  # said by a proxy that reached nobody


class Client:
    """One cluster, as one account. Calls come from one event loop; none holds it up, and none outlasts its deadline."""

    def __init__(self, access: Access, *, pace: Pace = CLOCK, threads: int = 8, connect_s: float = 5.0) -> None:
        """threads: how many calls go at once; the others wait, within their deadlines. connect_s: TLS included."""
        self._access = access
        self._pace = pace
        self._connect_s = connect_s
        self._threads = Threads(access, most=threads, connect_s=connect_s)
        self._endpoints = Endpoints(access.endpoints)
        self._breaker = Breaker()
        self._keyring = Keyring(access, self._login, pace)
        self._counts: Counter[tuple[str, str]] = Counter()
        self._worked = False
        self._closed = False

    async def get(self, path: str, /, *, node: str | None = None, within_s: float = 30.0, **params: Any) -> Any:
        """What is there. path: `/nodes/pve1/qemu/100/config`, parts percent-encoded. Asked again, elsewhere too, when there
        is no answer; all within `within_s`. Raises PveRefused and PveSilent."""
        return await self._ask("GET", path, params, node, within_s)

    async def post(self, path: str, /, *, node: str | None = None, within_s: float = 60.0, **params: Any) -> Any:
        """Do something, at most once: a UPID, null, or data. params: None is left out, booleans are 0 and 1, lists repeat
        the key. node: whose own endpoint is preferred, where its host has that name. Raises PveRefused and PveSilent."""
        return await self._ask("POST", path, params, node, within_s)

    async def put(self, path: str, /, *, node: str | None = None, within_s: float = 60.0, **params: Any) -> Any:
        """The same for a change."""
        return await self._ask("PUT", path, params, node, within_s)

    async def delete(self, path: str, /, *, node: str | None = None, within_s: float = 60.0, **params: Any) -> Any:
        """The same for a removal."""
        return await self._ask("DELETE", path, params, node, within_s)

    async def way(self, *, node: str | None = None) -> Way:
        """The endpoint that is believed good now, that of `node` if there is one, with credentials. Asks nothing, except for
        a ticket where one is needed: raises PveRefused and PveSilent then."""
        url = self._endpoints.best(self._pace.now(), node=node).url
        used = await self._credentials("GET", "the credentials", asyncio.get_running_loop().time() + _LOGIN_S)
        cookie = "; ".join(f"{key}={value}" for key, value in used.cookies.items())
        headers = {**used.headers, "Cookie": cookie} if cookie else used.headers
        pin = self._access.pin(url)
        return Way(url=url, headers=headers, fingerprint=pin, ca_file=None if pin else self._access.ca_file)

    def health(self) -> Health:
        """What is known of the endpoints and the credentials, without asking."""
        now = self._pace.now()
        best = self._endpoints.best(now)
        return Health(
            endpoints=tuple(self._health_of(each, best) for each in self._endpoints.all),
            credentials="refused" if self._breaker.why else "ok" if self._worked else "untried",
            why=self._breaker.why,
            again_in_s=self._breaker.again_in(now),
            hanging=self._threads.hanging,
        )

    def counts(self) -> Mapping[tuple[str, str], int]:
        """How many requests went out, by method and route: ("POST", "/nodes/{node}/qemu/{vmid}/clone")."""
        return dict(self._counts)

    def clock_skew_s(self) -> Mapping[str, float]:
        """By endpoint: its clock minus ours, from the date of its last answer, to about a second."""
        return {each.url: each.skew_s for each in self._endpoints.all if each.skew_s is not None}

    def shun(self, why: str) -> bool:
        """Ask others than the endpoint in use for a while, if there is one that is well; answers whether."""
        now = self._pace.now()
        well = [each for each in self._endpoints.all if each.failed_at is None]
        if len(well) < 2:
            return False
        shunned = self._endpoints.best(now)
        log.warning("asking other endpoints than %s for a while: %s", shunned.url, why)
        self._endpoints.failed(shunned, now, why)
        return True

    async def close(self) -> None:
        """Give threads and connections back. Calls under way fail, and so does a later one."""
        self._closed = True
        await self._threads.close()

    # -- one request

    async def _ask(self, method: str, path: str, params: Mapping[str, Any], node: str | None, within_s: float) -> Any:
        what, until = f"{method} {path}", asyncio.get_running_loop().time() + within_s
        renewed = False
        while True:
            if not renewed:
                self._may_go(what)
            asked_at = self._pace.now()
            try:
                used = await self._credentials(method, what, until)
                answer = await self._anywhere(method, path, params, node, used, until)
            except BaseException as exc:
                if not (isinstance(exc, PveRefused) and exc.status == 401):
                    self._breaker.unsettled(self._pace.now(), asked_at=asked_at)
                raise
            # Refused is not done: even a POST may be sent again, with newer credentials.
            if answer.status == 401 and not renewed and self._keyring.renew(used):
                renewed = True
                continue
            return self._settled(answer, what, asked_at)

    def _settled(self, answer: Answer, what: str, asked_at: float) -> Any:
        """The data. Raises PveRefused."""
        if answer.status == 401:
            self._refused(answer.text, asked_at)
        else:
            self._worked = True
            self._breaker.worked(asked_at=asked_at)
        if answer.status >= 400:
            raise PveRefused(answer.status, answer.text, answer.errors, what)
        return answer.data

    def _refused(self, why: str, asked_at: float) -> None:
        if self._breaker.refused(self._pace.now(), asked_at=asked_at, why=why):
            log.error(
                "the Proxmox VE cluster refuses our credentials (%s): not asked again for %.0f s; check the token, and that "
                "it has not expired",
                why,
                self._breaker.again_in(self._pace.now()),
            )

    def _may_go(self, what: str) -> None:
        if self._closed:
            raise PveSilent(what, False, "closed")
        held_back_s = self._breaker.held_back(self._pace.now())
        if held_back_s is not None:
            raise PveRefused(401, self._breaker.why, None, what, held_back_s=held_back_s)

    async def _credentials(self, method: str, what: str, until: float) -> Credentials:
        if not self._keyring.asks:
            return await self._keyring.get(method)
        asked_at = self._pace.now()
        try:
            return await within(max(0.0, until - asyncio.get_running_loop().time()), self._keyring.get(method))
        except asyncio.TimeoutError as exc:
            raise PveSilent(what, False, "no ticket in time") from exc
        except PveRefused as exc:
            if exc.status == 401:
                self._refused(exc.text, asked_at)
            raise

    async def _login(self, username: str, password: str) -> Mapping[str, Any]:
        """A ticket. Raises PveRefused and PveSilent."""
        until = asyncio.get_running_loop().time() + _LOGIN_S
        params = {"username": username, "password": password}
        answer = await self._anywhere("POST", "/access/ticket", params, None, Credentials({}, {}), until)
        if answer.status >= 400:
            raise PveRefused(answer.status, answer.text, answer.errors, "POST /access/ticket")
        return answer.data if isinstance(answer.data, dict) else {}

    # -- at one endpoint after the other

    async def _anywhere(
        self, method: str, path: str, params: Mapping[str, Any], node: str | None, used: Credentials, until: float
    ) -> Answer:
        """The first answer, twice around the endpoints. Sent again is only a GET. Raises PveSilent."""
        loop, what = asyncio.get_running_loop(), f"{method} {path}"
        trouble: PveSilent | None = None
        for around in (1, 2):
            for endpoint in self._endpoints.order(self._pace.now(), node=node):
                left_s = until - loop.time()
                if left_s <= 0:
                    break
                read_s = _SHARE * left_s
                if method == "GET":
                    read_s = min(_GET_READ_S, read_s if around == 2 else left_s / 2)
                ask = Ask(method, path, params, used.headers, used.cookies, read_s)
                try:
                    return await self._at(endpoint, ask, left_s)
                except PveSilent as exc:
                    if exc.sent and (method != "GET" or (exc.status and around == 2)):
                        raise
                    trouble = exc if not isinstance(trouble, PveUntrusted) else trouble
            if around == 1:
                await asyncio.sleep(max(0.0, min(_AGAIN_S, until - loop.time())))
        raise trouble or PveSilent(what, False, "no time for it")

    async def _at(self, endpoint: Endpoint, ask: Ask, left_s: float) -> Answer:
        """What one endpoint answers. Raises PveSilent, which says whether it may have been done."""
        what, route = f"{ask.method} {ask.path}", route_of(ask.path)
        self._counts[ask.method, route] += 1
        metrics.PVE_REQUESTS.labels(ask.method, route).inc()
        try:
            answer = await self._threads.run(
                endpoint.url, ask, within_s=min(left_s, self._connect_s + ask.read_s / _SHARE)
            )
        except Untrusted as exc:
            self._fail(endpoint, str(exc), untrusted=True)
            why = f"{endpoint.url}: {exc}. Nothing was sent"
            raise PveUntrusted(what, why, expected=spelled(exc.expected), shown=spelled(exc.shown)) from exc
        except (NotSent, Lost) as exc:
            self._fail(endpoint, str(exc))
            raise PveSilent(what, isinstance(exc, Lost), f"{endpoint.url}: {exc}") from exc
        endpoint.skew_s = answer.skew_s if answer.skew_s is not None else endpoint.skew_s
        if answer.status in _BETWEEN or answer.status == _NOBODY:
            why = f"{answer.status} {answer.text}"
            raise PveSilent(what, answer.status != _NOBODY, why, status=answer.status)
        if endpoint.failed_at is not None:
            log.info("Proxmox VE answers again endpoint=%s", endpoint.url)
        self._endpoints.worked(endpoint, self._pace.now())
        endpoint.heard(ask.path, answer.data)
        return answer

    def _fail(self, endpoint: Endpoint, why: str, *, untrusted: bool = False) -> None:
        if untrusted and not endpoint.untrusted:
            log.error(
                "Proxmox VE shows a certificate that we do not trust, so nothing is sent there endpoint=%s: %s. If it was "
                "changed on purpose, change the fingerprint or the CA file in the configuration",
                endpoint.url,
                why,
            )
        elif endpoint.failed_at is None:
            log.warning("Proxmox VE does not answer, other endpoints are asked endpoint=%s: %s", endpoint.url, why)
        self._endpoints.failed(endpoint, self._pace.now(), why, untrusted=untrusted)

    def _health_of(self, endpoint: Endpoint, best: Endpoint) -> EndpointHealth:
        if endpoint.untrusted:
            state = "untrusted"
        elif endpoint.failed_at is not None:
            state = "failed"
        else:
            state = "in use" if endpoint is best and endpoint.answered_at is not None else "ready"
        trust = self._access.trust(endpoint.url)
        return EndpointHealth(
            url=endpoint.url, state=state, trust=trust, why=endpoint.why, clock_skew_s=endpoint.skew_s
        )
