"""A hub that restarts or is killed loses no server and leaks none."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from labspawner.lifecycle import Engine
from labspawner.model import Checkpoint, Event, Feature, Phase, ReleaseMode, ServerState
from labspawner.providers.contract import Provider
from labspawner.store import Store
from labspawner.testing.conformance.base import OpenProvider, ProviderCase, last_handle, pull, status_of
from labspawner.testing.enginehub import launch_with_engine_and_die, open_engine
from labspawner.testing.killing import launch_and_die
from labspawner.testing.waiting import eventually


class Surviving(ProviderCase):
    """Close, restart, kill."""

    async def test_after_close_a_new_provider_finds_every_server_running(
        self, open_provider: OpenProvider, root: Path
    ) -> None:
        old = open_provider()
        servers = [await self.start(old, self.ask(user=f"student{number}")) for number in range(3)]
        await old.close()

        new = open_provider()
        states = await new.observe([server.handle for server in servers])

        assert states == {server.handle.lease_id: ServerState.RUNNING for server in servers}
        assert {resource.lease_id for resource in await new.owned()} == set(states)
        assert [await status_of(server.api_url) for server in servers] == [200] * 3
        for server in servers:
            await new.release(server.handle, ReleaseMode.DESTROY, grace_s=1)
        await self.nothing_left(new, root)

    async def test_close_may_be_repeated_and_keeps_servers_running(
        self, open_provider: OpenProvider, provider: Provider
    ) -> None:
        server = await self.start(provider, self.ask())

        await provider.close()
        await provider.close()

        assert await open_provider().observe([server.handle]) == {server.handle.lease_id: ServerState.RUNNING}

    async def test_a_new_provider_frees_what_a_lost_launch_made_by_its_checkpoint(
        self, open_provider: OpenProvider, root: Path, checkpoint: int
    ) -> None:
        for more in (0, 1):  # the checkpoint was stored; and what it stands for was made
            lost: Any = open_provider().launch(self.ask())
            seen: list[Event] = []
            while sum(isinstance(event, Checkpoint) for event in seen) <= checkpoint:
                seen += await pull(lost, 1)
            handle = last_handle(seen + await pull(lost, more))
            new = open_provider()

            await new.observe([handle])
            await new.release(handle, ReleaseMode.DESTROY, grace_s=1)

            await self.nothing_left(new, root)
            await lost.aclose()
            await self.nothing_left(new, root)

    async def test_a_hub_killed_at_an_event_is_followed_by_one_that_adopts_or_frees_all(
        self, open_provider: OpenProvider, root: Path, tmp_path: Path, kill_point: tuple[int, bool]
    ) -> None:
        index, before = kill_point
        request = self.ask()
        doomed = await launch_and_die(
            entry_point=self.entry_point,
            context=self.context(root, self.hub_id),
            settings=self.settings,
            request=request,
            event_index=index,
            before=before,
            folder=tmp_path,
        )
        assert doomed.returncode == -signal.SIGKILL, doomed.stderr
        assert len(doomed.handles) == min(index + (not before), self.checkpoints)
        new = open_provider()

        if doomed.url is not None:
            state = await new.observe([doomed.handles[-1]])
            assert state == {request.lease_id: ServerState.RUNNING}
            url = doomed.url + request.base_url + "api"

            async def answers() -> bool:
                return await status_of(url) == 200

            await eventually(answers, self.settle_s)
        if doomed.handles:
            await new.release(doomed.handles[-1], ReleaseMode.DESTROY, grace_s=1)
        await self.nothing_left(new, root)

    async def test_an_engine_killed_at_an_event_is_followed_by_one_that_frees_what_was_half_made(
        self, open_provider: OpenProvider, root: Path, tmp_path: Path, kill_point: tuple[int, bool]
    ) -> None:
        after = await self._engine_after_a_kill(open_provider, root, tmp_path, kill_point)
        try:
            await after.start()

            async def all_ended() -> bool:
                return not [lease for lease in after.book.all() if lease.phase is not Phase.ENDED]

            await eventually(all_ended, self.settle_s)
            await self.nothing_left(next(iter(after.providers.values())), root)
        finally:
            await after.close()

    async def test_an_engine_killed_after_a_launch_is_followed_by_one_that_keeps_the_server(
        self, open_provider: OpenProvider, root: Path, tmp_path: Path
    ) -> None:
        after = await self._engine_after_a_kill(open_provider, root, tmp_path, (self.checkpoints + 1, True))
        try:
            await after.start()
            await after.reconciler.pass_once()
            await after.reconciler.pass_once()

            (lease,) = after.book.all()
            assert lease.phase is Phase.READY
            assert await after.is_running(lease.user, lease.server_name)
            url = f"{lease.url}{self.ask().base_url}api"

            async def answers() -> bool:
                return await status_of(url) == 200

            await eventually(answers, self.settle_s)
            await after.stop(lease.user, lease.server_name)
            if Feature.PARK not in self.features:
                await self.nothing_left(next(iter(after.providers.values())), root)
        finally:
            await after.close()

    async def _engine_after_a_kill(
        self, open_provider: OpenProvider, root: Path, tmp_path: Path, kill_point: tuple[int, bool]
    ) -> Engine:
        """The engine that comes after one that died at `kill_point`, on the same store; not started.

        Asserts that the lease was written before the provider was asked for anything.
        """
        store = tmp_path / "leases.sqlite"
        context = self.context(root, self.hub_id)
        code, stderr = await launch_with_engine_and_die(
            entry_point=self.entry_point,
            context=context,
            settings=self.settings,
            request=self.ask(),
            event_index=kill_point[0],
            before=kill_point[1],
            folder=tmp_path,
            store=store,
        )
        assert code == -signal.SIGKILL, stderr
        left = Store.open(f"sqlite:///{store}")
        assert len(await left.live(context.hub_id)) == 1
        await left.close()
        return open_engine(open_provider(), hub_id=context.hub_id, store=store)
