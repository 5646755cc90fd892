"""What a provider says of its hosts: exact, from one listing, and nothing at all rather than something wrong."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from labspawner.errors import LabError, ProviderUnavailable
from labspawner.model import Handle, ReleaseMode, ServerState
from labspawner.naming import new_lease_id
from labspawner.providers.contract import Provider
from labspawner.testing.conformance.base import OpenProvider, ProviderCase, status_of
from labspawner.testing.stopwatch import Stopwatch


class Listing(ProviderCase):
    """observe, owned, capacity; two hubs on one host."""

    async def test_owned_lists_exactly_what_is_there_and_each_entry_is_enough_to_free_it(
        self, provider: Provider, root: Path
    ) -> None:
        servers = [await self.start(provider, self.ask(user=f"student{number}")) for number in range(3)]
        await provider.release(servers[1].handle, ReleaseMode.DESTROY, grace_s=1)

        owned = await provider.owned()

        assert {resource.lease_id for resource in owned} == {servers[0].handle.lease_id, servers[2].handle.lease_id}
        assert all(resource.handle.lease_id == resource.lease_id for resource in owned)
        for resource in owned:
            await provider.release(resource.handle, ReleaseMode.DESTROY, grace_s=1)
        await self.nothing_left(provider, root)

    async def test_observing_a_thousand_handles_is_one_listing(self, provider: Provider) -> None:
        server = await self.start(provider, self.ask())
        unknown = [Handle(lease_id=new_lease_id(), provider=provider.name) for _ in range(999)]
        before = self.listings(provider)

        with Stopwatch() as watch:
            states = await provider.observe([server.handle, *unknown])

        assert watch.seconds < 2.0
        after = self.listings(provider)
        assert before is None or after is None or after - before <= 1
        assert len(states) == 1000
        assert [lease for lease, state in states.items() if state is ServerState.RUNNING] == [server.handle.lease_id]
        assert ServerState.UNKNOWN not in states.values()

    async def test_observing_nothing_is_nothing(self, provider: Provider) -> None:
        assert await provider.observe([]) == {}

    async def test_a_failed_listing_raises_or_is_unknown_and_is_never_partial(self, provider: Provider) -> None:
        server = await self.start(provider, self.ask())

        with self.break_listing(provider):
            with pytest.raises(ProviderUnavailable):
                await provider.owned()
            assert await provider.observe([server.handle]) == {server.handle.lease_id: ServerState.UNKNOWN}

        assert await provider.observe([server.handle]) == {server.handle.lease_id: ServerState.RUNNING}
        assert len(await provider.owned()) == 1

    async def test_a_silent_host_is_unavailable_in_every_verb_and_unknown_in_observe(self, provider: Provider) -> None:
        server = await self.start(provider, self.ask())

        with self.break_host(provider):
            for call in (
                provider.owned(),
                provider.capacity(),
                provider.release(server.handle, ReleaseMode.DESTROY, grace_s=1),
                self.start(provider, self.ask()),
            ):
                with pytest.raises(ProviderUnavailable):
                    await call
            assert await provider.observe([server.handle]) == {server.handle.lease_id: ServerState.UNKNOWN}

        assert await status_of(server.api_url) == 200
        assert [resource.lease_id for resource in await provider.owned()] == [server.handle.lease_id]

    async def test_capacity_counts_running_servers_and_forgets_released_ones(self, provider: Provider) -> None:
        empty = await provider.capacity()
        server = await self.start(provider, self.ask())
        await provider.release(server.handle, ReleaseMode.DESTROY, grace_s=1)

        after = await provider.capacity()

        assert after.taken_at.tzinfo is not None
        assert server.handle.lease_id not in after.counted
        assert {host.name for host in after.hosts} == {host.name for host in empty.hosts}
        for host in after.hosts:
            if host.servers_total is not None and host.servers_free is not None:
                assert 0 <= host.servers_free <= host.servers_total
            assert all(0 <= card.memory_free_bytes <= card.memory_total_bytes for card in host.cards)

    async def test_two_hubs_on_one_host_never_see_or_touch_each_others_servers(
        self, open_provider: OpenProvider
    ) -> None:
        ours, theirs = open_provider(), open_provider(self.hub_id + "-2")
        server, other = await asyncio.gather(
            self.start(ours, self.ask()), self.start(theirs, self.ask(hub_id=self.hub_id + "-2"))
        )

        assert [resource.lease_id for resource in await ours.owned()] == [server.handle.lease_id]
        assert [resource.lease_id for resource in await theirs.owned()] == [other.handle.lease_id]
        with suppress(LabError):  # refusing is as good as ignoring
            await ours.release(other.handle, ReleaseMode.DESTROY, grace_s=1)
        assert await status_of(other.api_url) == 200
        assert await theirs.observe([other.handle]) == {other.handle.lease_id: ServerState.RUNNING}
