"""The kit is worth something only if a provider that breaks a promise does not pass."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from labspawner.errors import ProviderUnavailable, StartFailed
from labspawner.model import (
    Activity,
    Checkpoint,
    Event,
    Feature,
    Handle,
    LaunchRequest,
    OwnedResource,
    Progress,
    Ready,
    ReleaseMode,
    ServerState,
)
from labspawner.providers.contract import Provider, ProviderContext
from labspawner.providers.sim import SimProvider
from labspawner.testing.conformance import ProviderConformance
from labspawner.testing.requests import launch_request


class Kit(ProviderConformance):
    """The kit as a third party would set it up for sim; not collected, its tests are called one by one."""

    entry_point = "labspawner.providers.sim:SimProvider"
    settings = {"start_s": 0.0}
    features = frozenset({Feature.LOGS, Feature.ACTIVITY, Feature.HIBERNATE})
    checkpoints = 3
    slow_stages = failing_stages = ("boot",)
    settle_s = 0.3

    def slow_request(self, stage: str, **changes: Any) -> LaunchRequest:
        return launch_request(settings={"stall_at": stage}, **changes)

    def failing_request(self, stage: str, **changes: Any) -> LaunchRequest:
        return launch_request(settings={"fail_at": stage}, **changes)

    def dying_request(self, **changes: Any) -> LaunchRequest:
        return launch_request(settings={"die_after_ready_s": 0.0}, **changes)

    def break_host(self, provider: Provider) -> Any:
        return _Knob(provider, unavailable=True)

    def break_listing(self, provider: Provider) -> Any:
        return _Knob(provider, listing_fails=True)

    def listings(self, provider: Provider) -> int | None:
        return provider.listings if isinstance(provider, SimProvider) else None

    def data_dir_of(self, root: Path, hub_id: str) -> Path:
        return root


class _Knob:
    def __init__(self, provider: Any, **knobs: bool) -> None:
        self._provider, self._knobs = provider, knobs

    def __enter__(self) -> None:
        self._provider.faults(**self._knobs)

    def __exit__(self, *exc: object) -> None:
        self._provider.faults()


class StartsAtReady(SimProvider):
    async def launch(self, request: LaunchRequest) -> AsyncIterator[Event]:
        async for event in super().launch(request):
            if not isinstance(event, Checkpoint):
                yield event


class GoesBack(SimProvider):
    async def launch(self, request: LaunchRequest) -> AsyncIterator[Event]:
        percent = 99
        async for event in super().launch(request):
            percent -= 1
            yield Progress(percent, event.message) if isinstance(event, Progress) else event


class TellsSecrets(SimProvider):
    async def launch(self, request: LaunchRequest) -> AsyncIterator[Event]:
        async for event in super().launch(request):
            if isinstance(event, Checkpoint):
                data = {"environment": dict(request.environment)}
                yield Checkpoint(Handle(lease_id=request.lease_id, provider=self.name, data=data))  # type: ignore[arg-type]
            else:
                yield event


class ListensElsewhere(SimProvider):
    async def launch(self, request: LaunchRequest) -> AsyncIterator[Event]:
        async for event in super().launch(request):
            yield Ready("http://127.0.0.1:9") if isinstance(event, Ready) else event


class Leaks(SimProvider):
    def __init__(self, context: ProviderContext, settings: Mapping[str, Any]) -> None:
        super().__init__(context, {**settings, "leaks": True})


class ReleasesNothing(SimProvider):
    async def release(self, handle: Handle, mode: ReleaseMode, *, grace_s: float) -> None:
        return None


class ReleasesOnce(SimProvider):
    async def release(self, handle: Handle, mode: ReleaseMode, *, grace_s: float) -> None:
        if handle.lease_id not in [resource.lease_id for resource in await super().owned()]:
            raise KeyError(handle.lease_id)
        await super().release(handle, mode, grace_s=grace_s)


class SaysAllRun(SimProvider):
    async def observe(self, handles: Sequence[Handle]) -> Mapping[Any, ServerState]:
        await super().observe(handles)
        return {handle.lease_id: ServerState.RUNNING for handle in handles}


class SaysGoneForUnknown(SimProvider):
    async def observe(self, handles: Sequence[Handle]) -> Mapping[Any, ServerState]:
        states = await super().observe(handles)
        return {lease: ServerState.GONE if state is ServerState.UNKNOWN else state for lease, state in states.items()}


class ListsForEach(SimProvider):
    async def observe(self, handles: Sequence[Handle]) -> Mapping[Any, ServerState]:
        states: dict[Any, ServerState] = {}
        for handle in handles:
            states |= await super().observe([handle])
        return states


class ListsPartly(SimProvider):
    async def owned(self) -> Sequence[OwnedResource]:
        try:
            return await super().owned()
        except ProviderUnavailable:
            return []


class ServesAll(SimProvider):
    """Of whatever hub."""

    def __init__(self, context: ProviderContext, settings: Mapping[str, Any]) -> None:
        super().__init__(ProviderContext(name=context.name, hub_id="all", data_dir=context.data_dir), settings)


class Forgets(SimProvider):
    async def close(self) -> None:
        if not self._sim._closed:
            for resource in await super().owned():
                await super().release(resource.handle, ReleaseMode.DESTROY, grace_s=0)
        await super().close()


class RollsBackWhatIsReady(SimProvider):
    async def launch(self, request: LaunchRequest) -> AsyncIterator[Event]:
        handle: Any = None
        try:
            async for event in super().launch(request):
                handle = event.handle if isinstance(event, Checkpoint) else handle
                yield event
        except GeneratorExit:
            await self.release(handle, ReleaseMode.DESTROY, grace_s=0)
            raise


class FailsSilently(SimProvider):
    async def launch(self, request: LaunchRequest) -> AsyncIterator[Event]:
        try:
            async for event in super().launch(request):
                yield event
        except StartFailed:
            return


class TakesAnySetting(SimProvider):
    def __init__(self, context: ProviderContext, settings: Mapping[str, Any]) -> None:
        super().__init__(context, {key: value for key, value in settings.items() if key != "no_such_setting"})


class GuessesActivity(SimProvider):
    async def activity(self, handle: Handle) -> Activity | None:
        return Activity(busy=False)


Test = Callable[..., Any]
BROKEN: list[tuple[type[SimProvider], Test, dict[str, Any]]] = [
    (StartsAtReady, Kit.test_a_launch_goes_from_a_checkpoint_to_ready_and_never_back, {}),
    (GoesBack, Kit.test_a_launch_goes_from_a_checkpoint_to_ready_and_never_back, {}),
    (TellsSecrets, Kit.test_every_handle_is_small_json_of_this_lease_without_secrets, {}),
    (ListensElsewhere, Kit.test_a_ready_server_answers_at_its_url_and_is_running, {}),
    (Leaks, Kit.test_a_start_too_slow_at_a_stage_fails_in_time_and_leaves_nothing, {"slow_stage": "boot"}),
    (Leaks, Kit.test_a_start_failing_at_a_stage_says_why_and_leaves_nothing, {"failing_stage": "boot"}),
    (Leaks, Kit.test_closing_a_launch_after_any_event_leaves_nothing, {}),
    (Leaks, Kit.test_cancelling_a_launch_after_any_event_leaves_nothing, {}),
    (FailsSilently, Kit.test_a_start_failing_at_a_stage_says_why_and_leaves_nothing, {"failing_stage": "boot"}),
    (SaysAllRun, Kit.test_a_server_that_dies_after_ready_is_gone_within_seconds_and_can_be_freed, {}),
    (SaysAllRun, Kit.test_releasing_a_handle_the_host_never_heard_of_is_nothing, {}),
    (GuessesActivity, Kit.test_releasing_a_handle_the_host_never_heard_of_is_nothing, {}),
    (
        ReleasesNothing,
        Kit.test_release_ends_the_server_and_may_be_repeated_in_turn_and_at_once,
        {"mode": ReleaseMode.STOP},
    ),
    (ReleasesNothing, Kit.test_releasing_a_server_that_is_starting_ends_its_launch, {}),
    (ReleasesNothing, Kit.test_a_new_provider_frees_what_a_lost_launch_made_by_its_checkpoint, {"checkpoint": 1}),
    (
        ReleasesOnce,
        Kit.test_release_ends_the_server_and_may_be_repeated_in_turn_and_at_once,
        {"mode": ReleaseMode.DESTROY},
    ),
    (ReleasesOnce, Kit.test_releasing_a_handle_the_host_never_heard_of_is_nothing, {}),
    (RollsBackWhatIsReady, Kit.test_closing_a_launch_after_ready_keeps_the_server, {}),
    (SaysGoneForUnknown, Kit.test_a_failed_listing_raises_or_is_unknown_and_is_never_partial, {}),
    (ListsPartly, Kit.test_a_failed_listing_raises_or_is_unknown_and_is_never_partial, {}),
    (SaysGoneForUnknown, Kit.test_a_silent_host_is_unavailable_in_every_verb_and_unknown_in_observe, {}),
    (ListsForEach, Kit.test_observing_a_thousand_handles_is_one_listing, {}),
    (ServesAll, Kit.test_two_hubs_on_one_host_never_see_or_touch_each_others_servers, {}),
    (Forgets, Kit.test_after_close_a_new_provider_finds_every_server_running, {}),
    (TakesAnySetting, Kit.test_a_setting_nobody_knows_is_refused_by_name, {}),
]


@pytest.mark.parametrize(
    ("broken", "test", "arguments"), BROKEN, ids=lambda value: getattr(value, "__name__", "") or None
)
async def test_a_provider_that_breaks_a_promise_does_not_pass(
    tmp_path: Path, broken: type[SimProvider], test: Test, arguments: dict[str, Any]
):
    made: list[Provider] = []
    kit = Kit()

    def open_one(hub_id: str = "", **settings: Any) -> Provider:
        made.append(broken(kit.context(tmp_path, hub_id), {**kit.settings, **settings}))
        return made[-1]

    offered = {"open_provider": open_one, "root": tmp_path, "tmp_path": tmp_path, "provider": None}
    wanted = inspect.signature(test).parameters
    values = {name: value for name, value in offered.items() if name in wanted}
    if "provider" in wanted:
        values["provider"] = open_one()

    try:
        with pytest.raises((AssertionError, pytest.fail.Exception, KeyError, asyncio.TimeoutError)):
            await test(kit, **values, **arguments)
    finally:
        for provider in made:
            await provider.close()
