"""Whatever ends a server, nothing of it is left: cancellation at any point, release in any order, parking."""

from __future__ import annotations

import asyncio
import random
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from labspawner.errors import LabError
from labspawner.model import Event, Feature, Handle, Ready, ReleaseMode, ServerState
from labspawner.naming import new_lease_id
from labspawner.providers.contract import Provider
from labspawner.testing.conformance.base import ProviderCase, drain, last_handle, pull, status_of
from labspawner.testing.waiting import PATIENCE, eventually

PARKING = {Feature.HIBERNATE: ReleaseMode.HIBERNATE, Feature.PARK: ReleaseMode.STOP}


class Ending(ProviderCase):
    """Cancel, release, park."""

    async def test_closing_a_launch_after_any_event_leaves_nothing(self, provider: Provider, root: Path) -> None:
        for cut in count(1):
            events: Any = provider.launch(self.ask())
            seen = await pull(events, cut)
            if isinstance(seen[-1], Ready):
                break

            await events.aclose()

            await self.nothing_left(provider, root)

    async def test_cancelling_a_launch_after_any_event_leaves_nothing(self, provider: Provider, root: Path) -> None:
        for cut in count(0):
            seen: list[Event] = []
            task = asyncio.create_task(drain(provider.launch(self.ask()), seen, cancel_after=cut))
            outcome = (await asyncio.gather(task, return_exceptions=True))[0]
            if seen and isinstance(seen[-1], Ready):
                break

            assert isinstance(outcome, asyncio.CancelledError)
            await self.nothing_left(provider, root)

    async def test_closing_a_launch_after_ready_keeps_the_server(self, provider: Provider) -> None:
        request = self.ask()
        events: Any = provider.launch(request)
        seen: list[Event] = []
        while not seen or not isinstance(seen[-1], Ready):
            seen += await pull(events, 1)

        await events.aclose()

        assert await status_of(seen[-1].url + request.base_url + "api") == 200

    async def test_a_storm_of_launches_cancelled_at_odd_moments_leaves_nothing(
        self, provider: Provider, root: Path
    ) -> None:
        chance = random.Random(4)  # noqa: S311 - any moments will do, the same each time
        tasks = [
            asyncio.create_task(drain(provider.launch(self.ask(user=f"student{number}")), []))
            for number in range(self.concurrency)
        ]
        for task in chance.sample(tasks, len(tasks)):
            await asyncio.sleep(chance.uniform(0, 0.02))
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

        for resource in await provider.owned():  # those that were ready before their turn came
            assert (await provider.observe([resource.handle]))[resource.lease_id] is ServerState.RUNNING
            await provider.release(resource.handle, ReleaseMode.DESTROY, grace_s=1)
        await self.nothing_left(provider, root)

    @pytest.mark.parametrize("mode", [ReleaseMode.STOP, ReleaseMode.DESTROY], ids=lambda mode: mode.value)
    async def test_release_ends_the_server_and_may_be_repeated_in_turn_and_at_once(
        self, provider: Provider, root: Path, mode: ReleaseMode
    ) -> None:
        server = await self.start(provider, self.ask())

        await provider.release(server.handle, mode, grace_s=1)

        assert await status_of(server.api_url) != 200
        assert await provider.observe([server.handle]) == {server.handle.lease_id: ServerState.GONE}
        await asyncio.gather(*(provider.release(server.handle, mode, grace_s=1) for _ in range(3)))
        if Feature.PARK in self.features:
            await provider.release(server.handle, ReleaseMode.DESTROY, grace_s=1)
        await self.nothing_left(provider, root)

    async def test_releases_at_once_of_a_running_server_all_return(self, provider: Provider, root: Path) -> None:
        server = await self.start(provider, self.ask())

        await asyncio.gather(*(provider.release(server.handle, ReleaseMode.DESTROY, grace_s=1) for _ in range(5)))

        await self.nothing_left(provider, root)

    async def test_releasing_a_handle_the_host_never_heard_of_is_nothing(self, provider: Provider, root: Path) -> None:
        known = await self.start(provider, self.ask())
        unknown = Handle(lease_id=new_lease_id(), provider=provider.name)

        for mode in ReleaseMode:
            await provider.release(unknown, mode, grace_s=1)

        assert await provider.observe([unknown]) == {unknown.lease_id: ServerState.GONE}
        assert await provider.logs(unknown, 10) == ""
        assert await provider.activity(unknown) is None
        assert await status_of(known.api_url) == 200

    async def test_releasing_a_server_that_is_starting_ends_its_launch(self, provider: Provider, root: Path) -> None:
        if not self.slow_stages:
            pytest.skip("no launch can be made slow enough to be overtaken")
        seen: list[Event] = []
        slow = self.ask_slow(self.slow_stages[-1], ready_timeout_s=3600.0)
        task = asyncio.create_task(drain(provider.launch(slow), seen))

        async def made() -> bool:
            return task.done() or slow.lease_id in [resource.lease_id for resource in await provider.owned()]

        await eventually(made, self.settle_s)
        await provider.release(last_handle(seen), ReleaseMode.DESTROY, grace_s=1)

        with pytest.raises(LabError):
            await asyncio.wait_for(task, PATIENCE * self.settle_s)
        await self.nothing_left(provider, root)

    async def test_after_a_release_the_same_user_starts_again(self, provider: Provider) -> None:
        first = await self.start(provider, self.ask())
        await provider.release(first.handle, ReleaseMode.STOP, grace_s=1)

        second = await self.start(provider, self.ask())

        assert await status_of(second.api_url) == 200

    @pytest.mark.parametrize("feature", PARKING)
    async def test_what_is_parked_serves_nobody_and_wakes_again(
        self, provider: Provider, root: Path, feature: Feature
    ) -> None:
        self._needs(feature)
        server = await self.start(provider, self.ask())

        await provider.release(server.handle, PARKING[feature], grace_s=5)
        parked = await provider.observe([server.handle])
        woken = await self.start(provider, self.ask(lease_id=server.handle.lease_id, parked=server.handle))

        assert parked == {server.handle.lease_id: ServerState.GONE}
        assert await status_of(woken.api_url) == 200
        await provider.release(woken.handle, ReleaseMode.DESTROY, grace_s=1)
        await self.nothing_left(provider, root)

    @pytest.mark.parametrize("feature", PARKING)
    async def test_what_is_parked_is_listed_and_can_be_destroyed(
        self, provider: Provider, root: Path, feature: Feature
    ) -> None:
        self._needs(feature)
        server = await self.start(provider, self.ask())
        for _ in range(2):
            await provider.release(server.handle, PARKING[feature], grace_s=5)

        assert [resource.lease_id for resource in await provider.owned()] == [server.handle.lease_id]
        await provider.release(server.handle, ReleaseMode.DESTROY, grace_s=1)
        await self.nothing_left(provider, root)

    @pytest.mark.parametrize("feature", PARKING)
    async def test_a_resume_that_fails_keeps_what_was_parked_for_the_next(
        self, provider: Provider, failing_stage: str, feature: Feature
    ) -> None:
        self._needs(feature)
        first = await self.start(provider, self.ask())
        await provider.release(first.handle, PARKING[feature], grace_s=5)
        again = {"lease_id": first.handle.lease_id, "parked": first.handle}

        with pytest.raises(LabError):
            await self.start(provider, self.ask_failing(failing_stage, **again))
        await provider.release(first.handle, PARKING[feature], grace_s=5)

        assert [resource.lease_id for resource in await provider.owned()] == [first.handle.lease_id]
        woken = await self.start(provider, self.ask(**again))
        assert await status_of(woken.api_url) == 200

    async def test_a_launch_whose_parked_server_is_lost_starts_afresh(self, provider: Provider) -> None:
        lost = Handle(lease_id=new_lease_id(), provider=provider.name)

        server = await self.start(provider, self.ask(parked=lost))

        assert await status_of(server.api_url) == 200

    async def test_logs_give_the_last_lines_and_no_more(self, provider: Provider) -> None:
        self._needs(Feature.LOGS)
        server = await self.start(provider, self.ask())

        assert len((await provider.logs(server.handle, 2)).splitlines()) <= 2
        assert await provider.logs(server.handle, 0) == ""

    def _needs(self, feature: Feature) -> None:
        if feature not in self.features:
            pytest.skip(f"the provider does not claim {feature.value}")
