"""What the providers say that they have: one question for all who ask at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from labspawner.deadlines import within
from labspawner.errors import BadConfig, ProviderUnavailable
from labspawner.model import Capacity
from labspawner.providers.contract import Provider
from labspawner.sentences import Sentence

PATIENCE_S = 1.0
"""How long a page waits for a provider's capacity."""
CAPACITY_S = 30.0
"""How long a start waits for it."""
FRESH_S = 0.25
"""How long one answer serves all who ask. An old one never shows too much room: what was promised since is subtracted,
what was given back since still counts. So only who finds no room in it asks again."""


@dataclass(frozen=True, slots=True)
class _Look:
    """One question to a provider, which many wait for. began: seconds of the event loop's clock."""

    began: float
    answer: asyncio.Task[Capacity]

    def failed(self) -> bool:
        return self.answer.done() and (self.answer.cancelled() or self.answer.exception() is not None)


class Looks:
    """The last answer of each provider."""

    def __init__(self, providers: Mapping[str, Provider]) -> None:
        self._providers = providers
        self._looks: dict[str, _Look] = {}
        self._outdated: dict[str, float] = {}

    def outdate(self, provider: str) -> None:
        """What was answered until now shows too little."""
        self._outdated[provider] = asyncio.get_running_loop().time()

    async def capacity(self, provider: str, seconds: float, *, not_before: float = float("-inf")) -> Capacity:
        """What the provider has, from a look that began `FRESH_S` ago at most, and not before that instant nor before
        something was given back here. Raises ProviderUnavailable where it does not answer in that time, and BadConfig for
        one that is not configured."""
        if provider not in self._providers:
            raise BadConfig(
                Sentence("This profile needs a provider that is not set up here. Tell your instructor."),
                detail=f"provider={provider} is not configured",
            )
        now = asyncio.get_running_loop().time()
        look = self._looks.get(provider)
        not_before = max(now - FRESH_S, not_before, self._outdated.get(provider, not_before))
        if look is None or look.began < not_before or look.failed():
            asked = within(CAPACITY_S, self._providers[provider].capacity(), let_go_s=PATIENCE_S)
            look = self._looks[provider] = _Look(now, asyncio.get_running_loop().create_task(asked))
            look.answer.add_done_callback(_heard)
        done, _ = await asyncio.wait({look.answer}, timeout=seconds)
        try:
            if not done:
                raise asyncio.TimeoutError
            return look.answer.result()
        except asyncio.TimeoutError as exc:
            raise ProviderUnavailable(
                Sentence("The machines for this profile do not answer. Try again in a few minutes."),
                detail=f"provider={provider} did not tell its capacity in {seconds:.0f} s",
                retry_after_s=60,
            ) from exc

    async def close(self) -> None:
        """End the questions that are under way."""
        tasks = [look.answer for look in self._looks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _heard(answer: asyncio.Task[Capacity]) -> None:
    """An error that nobody waited for any more needs no complaint from asyncio."""
    if not answer.cancelled():
        answer.exception()
