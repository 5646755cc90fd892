"""What labspawner asks of whatever hosts servers. Data in, data out: no JupyterHub object crosses this line.

A provider is named in the entry point group `labspawner.providers`. The entry point is a callable
`(context: ProviderContext, settings: Mapping[str, Json]) -> Provider`; it raises `BadConfig` for a setting it does not
know. One with an attribute `hub_config`, names of classes, gets the hub's configuration of these as the setting of that
name (`{"KubeSpawner": {...}}`). `tests/conformance` holds every provider to the docstrings below.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol, runtime_checkable

from labspawner.model import (
    Activity,
    Capacity,
    Event,
    Feature,
    Handle,
    Json,
    LaunchRequest,
    LeaseId,
    OwnedResource,
    ReleaseMode,
    Reservation,
    ServerState,
    Usage,
)
from labspawner.sentences import Sentence


class Reserving(Protocol):
    """Things of which there is a list and each may be held by one only: ids, addresses. Each call is one transaction, off
    the event loop; all raise StoreUnavailable. `labspawner.store.reservations` keeps them in the hub's database."""

    async def take(self, pool: str, candidates: Iterable[str], owner: str, now: datetime) -> str | None:
        """Take the first candidate that nobody holds and that is not set aside; None when there is none. An owner that has
        something of the pool gets the same again."""
        ...

    async def free(
        self, owner: str, now: datetime, *, cool_down: timedelta = timedelta(0), pool: str | None = None
    ) -> int:
        """Give back what `owner` holds, of one pool or of all; nobody gets it before `cool_down` is over. Repeatable."""
        ...

    async def held(self, now: datetime, pool: str | None = None) -> list[Reservation]:
        """All that is held or set aside, of one pool or of all."""
        ...

    async def adopt(self, pool: str, value: str, owner: str, now: datetime) -> bool:
        """Record what a host says: `owner` has `value`. False where another owner holds it."""
        ...

    async def set_aside(self, pool: str, value: str, until: datetime, why: str = "") -> None:
        """Let nobody have `value` until then, and take it from whoever holds it."""
        ...

    async def close(self) -> None:
        """Give back what this object holds in this process; may be repeated."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderContext:
    """What a provider may know of the hub that it works for.

    name: the provider's name in the configuration; stands in every handle.
    hub_id: marks everything on a host; two hubs with different ids never touch each other's servers.
    data_dir: a folder of the provider's own, on the hub's machine; it exists.
    reservations: of this provider, in the hub's database; a provider that uses it closes it. None: there is no such
      database, and a provider that needs one keeps it in `data_dir`.
    """

    name: str
    hub_id: str
    data_dir: Path
    reservations: Reserving | None = None


@runtime_checkable
class Provider(Protocol):
    """Hosts servers. All methods may be called concurrently, for different leases, on one event loop.

    None of them blocks the loop. A host that does not answer is `ProviderUnavailable`, in every method but `observe`.
    """

    name: str
    features: frozenset[Feature]

    async def capacity(self) -> Capacity:
        """Say what fits, per host and per card; may be cached for a few seconds."""
        ...

    def launch(self, request: LaunchRequest) -> AsyncIterator[Event]:
        """Start a server, yielding a `Checkpoint` before each thing it leaves on the host. On failure or cancellation
        nothing is left behind; after a hub crash, the last checkpoint is enough to find and free what was made.
        The first event is a `Checkpoint`; the last is `Ready`. Early death of the server is noticed within seconds and
        raised as `StartFailed` with `log_tail`."""
        ...

    async def observe(self, handles: Sequence[Handle]) -> Mapping[LeaseId, ServerState]:
        """Say what is true now, from one listing. Unknown to the host is `GONE`; a host that does not answer is
        `UNKNOWN`. Never raises for a host's sake; every handle asked for is answered."""
        ...

    async def release(self, handle: Handle, mode: ReleaseMode, *, grace_s: float) -> None:
        """Stop, hibernate or destroy, and free all it held. Returns when that is true; safe to repeat, also for a
        handle the host never heard of. grace_s: seconds a server gets to save and exit before it is killed."""
        ...

    async def owned(self) -> Sequence[OwnedResource]:
        """List all on the hosts that carries this hub's id. Raises rather than returning a partial listing."""
        ...

    async def activity(self, handle: Handle) -> Activity | None:
        """Evidence of use, where the provider has some of its own; None where it has not."""
        ...

    async def usage(self, handles: Sequence[Handle]) -> Mapping[LeaseId, Usage]:
        """What each server uses now; one of which nothing can be told is left out. Never raises for a host's sake."""
        ...

    async def logs(self, handle: Handle, lines: int) -> str:
        """The last `lines` lines the server printed; empty where there are none."""
        ...

    async def close(self) -> None:
        """Give back what this object holds in this process (threads, connections). Servers keep running."""
        ...


class Ear(Protocol):
    """What the hub wants to hear without asking. Both may be called at any time on its event loop, and never raise."""

    def ended(self, lease_id: LeaseId, reason: Sentence | None) -> None:
        """A server ended that nobody here was told to end. reason: what its student reads, where it is known."""
        ...

    def freed(self) -> None:
        """There may be more room than at the last question for `capacity`."""
        ...


@runtime_checkable
class Announcing(Protocol):
    """A provider that hears of its servers' ends by itself, and passes it on. Optional: others are asked often enough."""

    def announce_to(self, ear: Ear) -> None:
        """From now on tell `ear`; before, nobody was told."""
        ...


@runtime_checkable
class Forgetting(Protocol):
    """A provider that keeps something for a user beyond a lease (a volume). Optional."""

    async def forget(self, user: str, server_name: str) -> None:
        """The server was deleted for good, or its user was: delete what was kept for it, as the administrator's settings
        say. Safe to repeat."""
        ...


@runtime_checkable
class Keeping(Protocol):
    """A provider whose servers may end with their files. Optional: of any other provider the home outlives the server."""

    def keeps_files(self, settings: Mapping[str, Json]) -> bool:
        """Whether the next server finds what one with these settings of a variant wrote; from configuration alone."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleTicket:
    """One way to a server's screen, open for a few seconds and for one connection; made anew for each.

    url: of a websocket (`wss://host:port/path?query`) whose messages are raw RFB; like `headers` and `password` it is
      secret, and never leaves the process that asked for it, but for the password: what the viewer answers RFB's own
      question with, over a connection that is its owner's.
    fingerprint: SHA-256 of the one certificate that is right, in hex (colons and case do not matter), whoever signed it.
    ca_file: PEM of the authority that signed it; neither: those of the machine.
    reference: what `console_ended` knows this console by; no secret.
    """

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False, default_factory=dict)
    password: str = field(repr=False, default="")
    subprotocol: str = "binary"
    fingerprint: str | None = None
    ca_file: Path | None = None
    reference: str = ""


@runtime_checkable
class Consoling(Protocol):
    """A provider whose servers have a screen (`Feature.CONSOLE`). Optional. What shows it is a process of its own
    (`labspawner.service.desktop`), which builds the provider as the hub does and calls only these, `observe` and
    `close`: a provider that is only built must not start to work, or two processes would."""

    async def console(self, handle: Handle) -> ConsoleTicket:
        """A new way to this server's screen. Raises LabError with the sentence its viewer reads: where the machine is off,
        gone or out of reach."""
        ...

    async def console_ended(self, handle: Handle, reference: str) -> Sentence | None:
        """Why a console ended that gave no picture, or lost it; None where nobody knows, or it ended in order. Never
        raises for a host's sake."""
        ...

    def ssh(self, handle: Handle) -> str | None:
        """What stands after `ssh ` to reach this server (`student@10.0.0.7`); None where its profile has none. From the
        handle alone."""
        ...


@runtime_checkable
class ScreenOffering(Protocol):
    """A provider where a profile says whether its servers' screens may be opened. Optional: of any other `Consoling` one
    every screen may."""

    def offers_screen(self, settings: Mapping[str, Json]) -> bool:
        """Whether a server with these settings of a variant offers its screen; from configuration alone."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeCall:
    """What a machine says that calls the hub for its environment. Nothing of it is proven, but for `address`.

    nonce: secret; good once. address: from where the connection came, as its socket says, and no header. uuid: the
    machine's own, empty where it has none. versions: what it would run, by name (`jupyterhub`).
    """

    nonce: str = field(repr=False)
    address: str
    uuid: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeAnswer:
    """What such a machine is told. body: JSON that it reads, secret; None: not yet, it is to ask again in
    `retry_after_s` seconds."""

    body: str | None = field(repr=False, default=None)
    retry_after_s: float = 0.0


@runtime_checkable
class Welcoming(Protocol):
    """A provider whose machines may call the hub for their environment, where nothing else reaches into them. Optional.
    `labspawner.pages.callhome` is where they call."""

    async def call_home(self, call: HomeCall) -> HomeAnswer | None:
        """The environment of the machine that a start waits for, to the nonce of that start, from its own address, once.
        None for everything else: who calls is not told why. Never raises for the caller's sake."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """A host that an administrator announced to take away. at: when; said_at: when it was announced, which tells one
    announcement from the next. Both carry a timezone."""

    at: datetime
    said_at: datetime


@runtime_checkable
class Forewarning(Protocol):
    """A provider whose hosts can be announced to go away, so that students are warned. Optional."""

    async def departures(self, handles: Sequence[Handle]) -> Mapping[LeaseId, Departure]:
        """Of these servers, those on a host that goes away; as known for some seconds. Raises LabError where nobody can
        tell."""
        ...


class ProviderFactory(Protocol):
    def __call__(self, context: ProviderContext, settings: Mapping[str, Json]) -> Provider: ...
