"""What a launch must do, and what it must not leave when it fails."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from labspawner.errors import BadConfig, LabError, NoRoom, StartFailed
from labspawner.model import Checkpoint, Event, Feature, Progress, Ready, ReleaseMode, ServerState
from labspawner.providers.contract import Provider
from labspawner.testing.conformance.base import STRANGE_NAMES, OpenProvider, ProviderCase, drain, status_of
from labspawner.testing.stopwatch import Stopwatch
from labspawner.testing.waiting import eventually

_LONGEST_BLOCK_S = 1.0


class Starting(ProviderCase):
    """Contract basics, slow, failing and dying starts, many at once."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        stages = {
            "slow_stage": self.slow_stages,
            "failing_stage": self.failing_stages,
            "checkpoint": range(self.checkpoints),
            "kill_point": [(index, before) for index in range(self.checkpoints + 1) for before in (True, False)],
        }
        for name, values in stages.items():
            if name in metafunc.fixturenames:
                metafunc.parametrize(name, values, ids=str if name != "kill_point" else _kill_name)

    async def test_it_has_all_verbs_and_the_features_it_claims(self, provider: Provider) -> None:
        assert isinstance(provider, Provider)
        assert provider.features == self.features
        assert all(isinstance(feature, Feature) for feature in provider.features)

    async def test_a_setting_nobody_knows_is_refused_by_name(self, open_provider: OpenProvider) -> None:
        with pytest.raises(BadConfig, match="no_such_setting"):
            open_provider(no_such_setting=1)

    async def test_a_launch_goes_from_a_checkpoint_to_ready_and_never_back(self, provider: Provider) -> None:
        events: list[Event] = []

        await drain(provider.launch(self.ask()), events)

        assert isinstance(events[0], Checkpoint)
        assert isinstance(events[-1], Ready)
        assert [type(event) for event in events].count(Ready) == 1
        assert [type(event) for event in events].count(Checkpoint) == self.checkpoints
        percents = [event.percent for event in events if isinstance(event, Progress)]
        assert percents == sorted(percents)
        assert all(0 <= percent <= 100 for percent in percents)

    async def test_every_handle_is_small_json_of_this_lease_without_secrets(self, provider: Provider) -> None:
        events: list[Event] = []
        request = self.ask()

        await drain(provider.launch(request), events)

        for handle in (event.handle for event in events if isinstance(event, Checkpoint)):
            assert (handle.lease_id, handle.provider) == (request.lease_id, provider.name)
            text = json.dumps(dict(handle.data))
            assert len(text) <= 4096
            assert request.environment["JUPYTERHUB_API_TOKEN"] not in text

    async def test_a_ready_server_answers_at_its_url_and_is_running(self, provider: Provider) -> None:
        server = await self.start(provider, self.ask())

        assert await status_of(server.api_url) == 200
        assert await provider.observe([server.handle]) == {server.handle.lease_id: ServerState.RUNNING}

    async def test_a_start_too_slow_at_a_stage_fails_in_time_and_leaves_nothing(
        self, provider: Provider, root: Path, slow_stage: str
    ) -> None:
        request = self.ask_slow(slow_stage, ready_timeout_s=0.5)

        with Stopwatch() as watch, pytest.raises(StartFailed) as failure:
            await self.start(provider, request)

        assert watch.seconds < request.ready_timeout_s + self.settle_s
        assert str(failure.value.message)
        await self.nothing_left(provider, root)

    async def test_a_start_failing_at_a_stage_says_why_and_leaves_nothing(
        self, provider: Provider, root: Path, failing_stage: str
    ) -> None:
        with pytest.raises(self.failing_error(failing_stage)) as failure:
            await self.start(provider, self.ask_failing(failing_stage))

        assert str(failure.value.message)
        assert self.failing_words(failing_stage) in failure.value.log_tail
        await self.nothing_left(provider, root)

    async def test_after_a_failed_start_the_next_one_of_the_same_user_works(
        self, provider: Provider, failing_stage: str
    ) -> None:
        with pytest.raises(LabError):
            await self.start(provider, self.ask_failing(failing_stage))

        server = await self.start(provider, self.ask())

        assert await status_of(server.api_url) == 200

    async def test_a_server_that_dies_after_ready_is_gone_within_seconds_and_can_be_freed(
        self, provider: Provider, root: Path
    ) -> None:
        server = await self.start(provider, self.ask_dying())
        await status_of(f"{server.url}{server.request.base_url}die")

        async def gone() -> bool:
            return (await provider.observe([server.handle]))[server.handle.lease_id] is ServerState.GONE

        await eventually(gone, self.settle_s)
        await provider.release(server.handle, ReleaseMode.DESTROY, grace_s=1)
        await self.nothing_left(provider, root)

    @pytest.mark.parametrize("name", STRANGE_NAMES)
    async def test_a_user_of_any_name_gets_a_server_that_answers_and_is_freed(
        self, provider: Provider, root: Path, name: str
    ) -> None:
        server = await self.start(provider, self.ask(user=STRANGE_NAMES[name]))

        assert await status_of(server.api_url) == 200
        await provider.release(server.handle, ReleaseMode.DESTROY, grace_s=1)
        await self.nothing_left(provider, root)

    async def test_one_user_has_several_servers_that_come_and_go_alone(self, provider: Provider) -> None:
        first, second = await asyncio.gather(
            self.start(provider, self.ask()), self.start(provider, self.ask(server_name="数据/2"))
        )

        await provider.release(first.handle, ReleaseMode.DESTROY, grace_s=1)

        assert await status_of(second.api_url) == 200
        assert [resource.lease_id for resource in await provider.owned()] == [second.handle.lease_id]

    async def test_many_launches_at_once_all_get_ready_and_never_block_the_loop(self, provider: Provider) -> None:
        requests = [self.ask(user=f"student{number}") for number in range(self.concurrency)]
        beat = asyncio.create_task(_longest_block_s())

        servers = await asyncio.gather(*(self.start(provider, request) for request in requests))
        beat.cancel()

        assert await asyncio.gather(*(status_of(server.api_url) for server in servers)) == [200] * len(servers)
        assert len({server.handle.lease_id for server in servers}) == len(servers)
        assert await beat < _LONGEST_BLOCK_S

    async def test_a_lease_started_twice_leaves_nothing_that_its_release_does_not_free(
        self, provider: Provider, root: Path
    ) -> None:
        server = await self.start(provider, self.ask())

        with suppress(LabError):  # refusing is as good
            server = await self.start(provider, server.request)

        assert await status_of(server.api_url) == 200
        await provider.release(server.handle, ReleaseMode.DESTROY, grace_s=1)
        await self.nothing_left(provider, root)

    async def test_with_room_for_one_server_one_of_two_gets_it_and_the_other_after_it(
        self, open_provider: OpenProvider
    ) -> None:
        if self.scarce_settings is None:
            pytest.skip("this provider has no room of its own to run out of")
        provider = open_provider(**self.scarce_settings)
        both: list[Any] = await asyncio.gather(
            *(self.start(provider, self.ask(user=user)) for user in ("ann", "bob")), return_exceptions=True
        )
        refused = [outcome for outcome in both if isinstance(outcome, BaseException)]
        served = [outcome for outcome in both if not isinstance(outcome, BaseException)]

        assert [type(outcome) for outcome in refused] == [NoRoom]
        await provider.release(served[0].handle, ReleaseMode.DESTROY, grace_s=1)
        await self.start(provider, self.ask(user="carl"))


def _kill_name(point: tuple[int, bool]) -> str:
    return f"{'before' if point[1] else 'after'}-{point[0]}"


async def _longest_block_s() -> float:
    """How long the event loop did not turn, at worst, until cancelled."""
    longest = last = 0.0
    with Stopwatch() as watch:
        try:
            while True:
                await asyncio.sleep(0.01)
                longest, last = max(longest, watch.seconds - last), watch.seconds
        except asyncio.CancelledError:
            return longest
