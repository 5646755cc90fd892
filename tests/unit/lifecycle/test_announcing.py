"""A provider that hears of ends by itself is believed at once; one that keeps something for users is told to forget."""

from __future__ import annotations

import pytest

from labspawner.errors import ProviderUnavailable
from labspawner.model import Phase, Resources
from labspawner.naming import new_lease_id
from labspawner.providers.contract import Ear
from labspawner.sentences import Sentence
from labspawner.testing.waiting import eventually

from .conftest import OpenEngine, Scripted, a_variant, an_order, launching, nothing_is_left, quiet, reaches

EVICTED = Sentence("The machine of your server was overloaded, so your server was ended.")


class Talking(Scripted):
    """Tells what it hears, and keeps a volume per user."""

    ear: Ear

    def __init__(self, *, places: int | None = None) -> None:
        super().__init__(places=places)
        self.forgotten: list[tuple[str, str]] = []

    def announce_to(self, ear: Ear) -> None:
        self.ear = ear

    async def forget(self, user: str, server_name: str) -> None:
        self.forgotten.append((user, server_name))


async def test_a_server_that_is_said_to_have_ended_is_freed_at_once_with_the_reason_for_its_student(
    open_engine: OpenEngine,
):
    provider = Talking()
    engine = open_engine(provider)
    lease = await engine.launch(an_order(), quiet)

    provider.ear.ended(lease.id, EVICTED)

    await eventually(lambda: engine.book.all() == [])
    notice = engine.notice("student1", "")
    assert notice is not None
    assert notice.ending.reason == EVICTED
    await nothing_is_left(engine, provider)


async def test_what_is_said_of_servers_that_are_unknown_or_being_ended_changes_nothing(open_engine: OpenEngine):
    provider = Talking()
    engine = open_engine(provider)
    lease = await engine.launch(an_order(), quiet)

    provider.ear.ended(new_lease_id(), EVICTED)

    assert engine.book.all() == [lease]
    await engine.stop("student1", "")
    provider.ear.ended(lease.id, EVICTED)
    assert engine.notice("student1", "") is None


async def test_who_is_next_in_line_is_let_in_when_room_is_announced_and_not_at_the_next_look(open_engine: OpenEngine):
    provider = Talking(places=1)
    provider.things[new_lease_id()] = "runs"  # somebody else's
    engine = open_engine(provider, recheck_s=3600.0)
    variant = a_variant()
    assert variant.resources == Resources()

    with launching(engine, an_order(variants=(variant,), wait_s=3600.0)) as start:
        await reaches(engine, Phase.QUEUED)
        await eventually(lambda: engine._admission._lines.get(("sim", False)))
        provider.things.clear()
        provider.ear.freed()

        lease = await start
    assert lease.phase is Phase.READY


async def test_a_server_that_is_deleted_for_good_is_forgotten_by_who_kept_something_for_it(open_engine: OpenEngine):
    provider = Talking()
    engine = open_engine(provider)
    await engine.launch(an_order(), quiet)

    await engine.forget("student1", "")

    assert provider.forgotten == [("student1", "")]
    await nothing_is_left(engine, provider)


async def test_what_cannot_be_forgotten_now_is_said_and_hinders_nobody(
    open_engine: OpenEngine, caplog: pytest.LogCaptureFixture
):
    class Away(Talking):
        async def forget(self, user: str, server_name: str) -> None:
            raise ProviderUnavailable(Sentence("The cluster does not answer."))

    await open_engine(Away()).forget("student1", "")

    assert "keeps what it had for user=student1" in caplog.text
