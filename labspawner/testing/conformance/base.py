"""What the kit must know of a provider, and the hands it works with."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from labspawner.errors import LabError, StartFailed
from labspawner.model import Checkpoint, Event, Feature, Handle, Json, LaunchRequest, Ready, ReleaseMode
from labspawner.naming import new_lease_id
from labspawner.providers.contract import Provider, ProviderContext, ProviderFactory
from labspawner.testing.requests import launch_request
from labspawner.testing.waiting import eventually

OpenProvider = Callable[..., Provider]
STRANGE_NAMES = {
    "unicode": "张三-Zoë-🎓",
    "slashes": "../../etc/passwd",
    "long": "x" * 300,
    "quotes": "o'brien \"; $(reboot) %2F &<b>",
    "case": "Student1",
}


@dataclass(frozen=True, slots=True)
class Started:
    """A launch that got to Ready."""

    request: LaunchRequest
    handle: Handle
    url: str

    @property
    def api_url(self) -> str:
        return self.url + self.request.base_url + "api"


class ProviderCase:
    """Override what differs for your provider.

    entry_point: `module:name`, importable in a child process. settings: the provider's, as JSON.
    checkpoints: how many Checkpoints a cold launch yields. features: what it must claim.
    slow_stages, failing_stages: names, yours, that `slow_request` and `failing_request` understand.
    concurrency: how many launches at once it must bear here. settle_s: how long anything on the host may take.
    scarce_settings: settings with room for exactly one `request()`; None: it has no room of its own to run out of.
    """

    entry_point: ClassVar[str]
    settings: ClassVar[Mapping[str, Json]] = {}
    features: ClassVar[frozenset[Feature]] = frozenset()
    checkpoints: ClassVar[int] = 1
    slow_stages: ClassVar[tuple[str, ...]] = ()
    failing_stages: ClassVar[tuple[str, ...]] = ()
    concurrency: ClassVar[int] = 20
    settle_s: ClassVar[float] = 10.0
    scarce_settings: ClassVar[Mapping[str, Json] | None] = None

    def request(self, **changes: Any) -> LaunchRequest:
        """A request that gets ready soon."""
        return launch_request(**changes)

    def slow_request(self, stage: str, **changes: Any) -> LaunchRequest:
        """A request that would take far longer than its `ready_timeout_s` at `stage`."""
        raise NotImplementedError

    def failing_request(self, stage: str, **changes: Any) -> LaunchRequest:
        """A request whose launch fails at `stage`."""
        raise NotImplementedError

    def failing_error(self, stage: str) -> type[LabError]:
        """What the launch of `failing_request(stage)` raises."""
        return StartFailed

    def failing_words(self, stage: str) -> str:
        """What `log_tail` must contain then; empty: not asked."""
        return ""

    def dying_request(self, **changes: Any) -> LaunchRequest:
        """A request whose server dies, a second or so after it was ready or as soon as its page `die` is asked for."""
        pytest.skip("no server can be made to die by itself")

    def break_host(self, provider: Provider) -> AbstractContextManager[object]:
        """While open, the host does not answer `provider`."""
        pytest.skip("the host cannot be made silent")

    def break_listing(self, provider: Provider) -> AbstractContextManager[object]:
        """While open, listings fail or are partial."""
        pytest.skip("listings cannot be made to fail")

    def listings(self, provider: Provider) -> int | None:
        """How many listings `provider` has made until now; None: it does not count."""
        return None

    def data_dir_of(self, root: Path, hub_id: str) -> Path:
        """The `data_dir` of a hub's provider; all hubs of one `root` are on one host."""
        return root / hub_id

    async def left_on_host(self, root: Path) -> list[str]:
        """What is left on the host that `owned` may not know of: processes, folders, control groups."""
        return []

    # -- fixtures

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        """The host of one test."""
        return tmp_path

    @pytest_asyncio.fixture
    async def open_provider(self, root: Path) -> AsyncIterator[OpenProvider]:
        """Makes providers: `open_provider(hub_id, **settings)`, of the test's own hub unless told otherwise.

        After the test all are closed, and what is left of their hubs is freed: the next test finds a clean host.
        """
        made: list[Provider] = []
        hubs = {self.hub_id}

        def open_one(hub_id: str = "", **settings: Json) -> Provider:
            hub_id = hub_id or self.hub_id
            provider = self.build(root, hub_id, settings)
            made.append(provider)
            hubs.add(hub_id)
            return provider

        yield open_one
        for provider in made:
            await provider.close()
        for hub_id in hubs:
            sweeper = self.build(root, hub_id, {})
            try:
                for resource in await sweeper.owned():
                    await sweeper.release(resource.handle, ReleaseMode.DESTROY, grace_s=1)
            finally:
                await sweeper.close()

    @pytest.fixture
    def provider(self, open_provider: OpenProvider) -> Provider:
        """The provider of the test's own hub, with `settings` as they are."""
        return open_provider()

    # -- hands

    @property
    def hub_id(self) -> str:
        """A hub of this test alone: tests that run at the same time on one machine never meet."""
        if not hasattr(self, "_hub_id"):
            self._hub_id = f"kit-{new_lease_id()}"
        return self._hub_id

    def ask(self, **changes: Any) -> LaunchRequest:
        """`request`, of the test's own hub; so are the next three."""
        return self.request(**{"hub_id": self.hub_id, **changes})

    def ask_slow(self, stage: str, **changes: Any) -> LaunchRequest:
        return self.slow_request(stage, **{"hub_id": self.hub_id, **changes})

    def ask_failing(self, stage: str, **changes: Any) -> LaunchRequest:
        return self.failing_request(stage, **{"hub_id": self.hub_id, **changes})

    def ask_dying(self, **changes: Any) -> LaunchRequest:
        return self.dying_request(**{"hub_id": self.hub_id, **changes})

    def context(self, root: Path, hub_id: str = "") -> ProviderContext:
        """What a hub tells its provider; the folder is made."""
        hub_id = hub_id or self.hub_id
        data_dir = self.data_dir_of(root, hub_id)
        data_dir.mkdir(parents=True, exist_ok=True)
        name = self.entry_point.partition(":")[2].removesuffix("Provider").lower()
        return ProviderContext(name=name, hub_id=hub_id, data_dir=data_dir)

    def build(self, root: Path, hub_id: str, settings: Mapping[str, Json]) -> Provider:
        """A provider object, as a hub makes it."""
        factory: ProviderFactory = resolve_name(self.entry_point)
        return factory(self.context(root, hub_id), {**self.settings, **settings})

    async def start(self, provider: Provider, request: LaunchRequest) -> Started:
        """Launch until Ready."""
        handle, last = None, None
        events: Any = provider.launch(request)
        async with aclosing(events):
            async for last in events:
                handle = last.handle if isinstance(last, Checkpoint) else handle
        assert handle is not None, "no Checkpoint"
        assert isinstance(last, Ready), f"ended with {last}"
        return Started(request, handle, last.url)

    async def nothing_left(self, provider: Provider, root: Path) -> None:
        """Assert that `owned` is empty now, and the host soon."""
        assert list(await provider.owned()) == []

        async def swept() -> bool:
            left = await self.left_on_host(root)
            assert left == []
            return True

        await eventually(swept, self.settle_s, "the host is as before")


async def status_of(url: str) -> int | None:
    """The HTTP status of a GET; None if nobody answers there."""
    return await asyncio.to_thread(_status_of, url)


def _status_of(url: str) -> int | None:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    try:
        connection.request("GET", parts.path)
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):
        return None
    else:
        return answer.status
    finally:
        connection.close()


async def pull(events: AsyncIterator[Event], count: int) -> list[Event]:
    """The next `count` events, fewer if it ends."""
    pulled = []
    for _ in range(count):
        try:
            pulled.append(await anext(events))
        except StopAsyncIteration:
            break
    return pulled


async def drain(events: AsyncIterator[Event], seen: list[Event], cancel_after: int | None = None) -> None:
    """Take all events into `seen`, as they come; closes the launch when it is cancelled.

    cancel_after: cancel the task that runs this at exactly that event, so wherever the provider waits next.
    """
    closable: Any = events
    task = asyncio.current_task()
    async with aclosing(closable):
        if task is not None and cancel_after == 0:
            task.cancel()
        async for event in events:
            seen.append(event)
            if task is not None and cancel_after == len(seen) and not isinstance(event, Ready):
                task.cancel()


def last_handle(events: list[Event]) -> Handle:
    """What a hub has stored after these events."""
    return [event.handle for event in events if isinstance(event, Checkpoint)][-1]
