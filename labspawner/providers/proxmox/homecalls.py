"""Virtual machines that call the hub for their environment, because no guest agent answers in them.

Each start gives its VM a nonce, through the one field of cloud-init that PVE shows to nobody: a password that no password
fits. A call is answered once, to the nonce of a start that waits for it, from the address that the hub gave to its VM. All
else is refused without a reason, and where the nonce was right, people are told: somebody else has it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from logging import getLogger
from urllib.parse import urlsplit

from labspawner.model import LeaseId
from labspawner.providers.contract import HomeAnswer, HomeCall
from labspawner.providers.proxmox.job import Job

log = getLogger(__name__)

POOL = "called-home"
"""The pool of reservations that keeps what people have to know of calls, by lease."""

HINT = "$6$labspawner$"
"""Begins the password that is none: as the hash of one it has an impossible length, so that nobody can log in with it."""

RETRY_AFTER_S = 3.0
_PLACE = "/labspawner/guest"
_NONCE_BYTES = 32

Tell = Callable[[LeaseId, str], Awaitable[None]]


def new_nonce() -> str:
    """Good for one call; 256 bits, in letters that need no quoting anywhere."""
    return secrets.token_urlsafe(_NONCE_BYTES)


def digest(nonce: str) -> str:
    """What is kept of a nonce."""
    return hashlib.sha256(nonce.encode("utf-8", "surrogateescape")).hexdigest()


def hint(nonce: str, url: str) -> str:
    """`cipassword` of a VM that is to call `url` with `nonce`; PVE takes it for a hash, and leaves it as it is."""
    return f"{HINT}{nonce}${base64.urlsafe_b64encode(url.encode()).decode().rstrip('=')}"


def place_of(environment: Mapping[str, str], hub_connect_url: str | None) -> str | None:
    """The URL that a VM of the server with this environment calls; None where the hub has none that a VM reaches: its own
    loopback, unless the administrator wrote that."""
    api = urlsplit(environment.get("JUPYTERHUB_API_URL", ""))
    path = api.path.rstrip("/").removesuffix("/api") + _PLACE
    if hub_connect_url:
        return hub_connect_url.rstrip("/") + path
    host = api.hostname or ""
    if api.scheme not in {"http", "https"} or not host or host == "localhost":
        return None
    with contextlib.suppress(ValueError):
        if ip_address(host).is_loopback or ip_address(host).is_unspecified:
            return None
    return f"{api.scheme}://{api.netloc}{path}"


@dataclass(slots=True, kw_only=True, eq=False)
class Expected:
    """One start that waits for its VM's call.

    heard_at: when the right one called first, by the provider's pace. answers: whether a call is answered now; before, the
    VM is told to ask again. called: what it said, once it is to be answered. body: what it gets then; None: a refusal.
    """

    lease_id: LeaseId
    digest: str = field(repr=False)
    address: str
    uuid: str
    until: float
    answers: bool = False
    heard_at: float | None = None
    used: bool = False
    called: asyncio.Future[HomeCall]
    body: asyncio.Future[str | None] = field(repr=False)

    def give(self, body: str | None) -> None:
        """Answer the call that was taken; only the first word counts."""
        if not self.body.done():
            self.body.set_result(body)


class HomeCalls:
    """Which VMs may call now. tell: has people know what was wrong with a call of a lease; it gets no nonce. remembers: how
    many answered calls are known as such when they come again."""

    def __init__(self, *, now: Callable[[], float], tell: Tell, remembers: int = 1000) -> None:
        self._now = now
        self._tell = tell
        self._remembers = remembers
        self._expected: dict[LeaseId, Expected] = {}
        self._spent: OrderedDict[str, LeaseId] = OrderedDict()
        self._told: OrderedDict[tuple[LeaseId, str], None] = OrderedDict()

    @contextlib.contextmanager
    def expecting(self, job: Job) -> Iterator[Expected | None]:
        """The call of a start, for as long as it lasts; None where its VM has no nonce."""
        if not job.nonce:
            yield None
            return
        loop, lease_id = asyncio.get_running_loop(), job.request.lease_id
        expected = self._expected[lease_id] = Expected(
            lease_id=lease_id,
            digest=job.record.nonce,
            address=job.record.address,
            uuid=job.record.uuid,
            until=loop.time() + job.left_s(),
            called=loop.create_future(),
            body=loop.create_future(),
        )
        try:
            yield expected
        finally:
            self.forget(expected)

    def forget(self, expected: Expected) -> None:
        """Its nonce opens nothing any more. Safe to repeat."""
        if self._expected.get(expected.lease_id) is expected:
            del self._expected[expected.lease_id]
        expected.give(None)

    async def answer(self, call: HomeCall) -> HomeAnswer | None:
        """See `Welcoming.call_home`."""
        expected = self._of(digest(call.nonce))
        if expected is None:
            await self._of_nobody(call)
            return None
        wrong = _wrong(expected, call)
        if wrong:
            await self._refused(expected.lease_id, wrong)
            return None
        if asyncio.get_running_loop().time() >= expected.until:
            return None
        if expected.heard_at is None:
            expected.heard_at = self._now()
        if not expected.answers:
            return HomeAnswer(retry_after_s=RETRY_AFTER_S)
        expected.used = True  # before anything is waited for: a second one finds it used
        self._spend(expected)
        if not expected.called.done():
            expected.called.set_result(call)
        body = await asyncio.shield(expected.body)
        return HomeAnswer(body=body) if body is not None else None

    def _of(self, found: str) -> Expected | None:
        """The start whose nonce has this hash. All are compared, and each in constant time."""
        right = None
        for each in self._expected.values():
            if hmac.compare_digest(each.digest, found):
                right = each
        return right

    async def _of_nobody(self, call: HomeCall) -> None:
        lease_id = self._spent.get(digest(call.nonce))
        if lease_id is not None:
            await self._refused(lease_id, _again(call))

    def _spend(self, expected: Expected) -> None:
        self._spent[expected.digest] = expected.lease_id
        while len(self._spent) > self._remembers:
            self._spent.popitem(last=False)

    async def _refused(self, lease_id: LeaseId, wrong: str) -> None:
        """Have people know, once for each thing that is wrong: a nonce is nothing that anybody guesses."""
        if (lease_id, wrong) in self._told:
            return
        self._told[lease_id, wrong] = None
        while len(self._told) > self._remembers:
            self._told.popitem(last=False)
        log.error("a call home was refused, look at this machine lease=%s: %s", lease_id, wrong)
        await self._tell(lease_id, wrong)


def _wrong(expected: Expected, call: HomeCall) -> str:
    """What is wrong with a call whose nonce is right; empty where nothing is. Pure."""
    if not _same_address(expected.address, call.address):
        return f"its nonce was shown from {call.address}, and its address is {expected.address}"
    if call.uuid and expected.uuid and call.uuid.lower() != expected.uuid.lower():
        return f"its nonce was shown from {call.address} by another machine than its own"
    return _again(call) if expected.used else ""


def _again(call: HomeCall) -> str:
    return (
        f"its nonce was shown once more, from {call.address}: one of the two is not its machine, or an answer was lost"
    )


def _same_address(wanted: str, seen: str) -> bool:
    try:
        here, there = ip_address(wanted), ip_address(seen.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(there, "ipv4_mapped", None)
    return here == (mapped or there)
