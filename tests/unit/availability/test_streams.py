"""The pages that watch: told once, at once, only what is theirs; and who does not read is let go."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import replace
from typing import Any

import pytest
from builders import NOW, a_lease
from unit.availability.conftest import STUDENT, Rooms

from labspawner.availability import Availability
from labspawner.availability.streams import PER_USER, People, Streams
from labspawner.lifecycle.admission import Room
from labspawner.model import Phase
from labspawner.testing.waiting import eventually

IN_PY101 = frozenset({"course-py101"})


class Page:
    """A page in a browser. reads: whether it takes what is sent."""

    def __init__(self, *, reads: bool = True) -> None:
        self.reads = reads
        self.got: list[bytes] = []
        self.hung_up = False
        self.waits: list[asyncio.Future[None]] = []

    def send(self, data: bytes) -> asyncio.Future[None]:
        self.got.append(data)
        taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waits.append(taken)
        if self.reads:
            taken.set_result(None)
        return taken

    def hang_up(self) -> None:
        self.hung_up = True

    def events(self, name: str) -> list[Any]:
        """The data of all events of this name."""
        text = b"".join(self.got).decode()
        return [json.loads(body) for body in re.findall(rf"event: {name}\ndata: (.*)\n", text)]

    @property
    def said(self) -> list[str]:
        """What the card of the first profile said, one after another."""
        return [event["profiles"]["py101/base"]["text"] for event in self.events("availability")]


OpenStreams = Callable[..., Streams]


@pytest.fixture
async def open_streams(desk: Availability, rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OpenStreams]:
    """Makes streams that look around very often; `people` is what a test says."""
    monkeypatch.setattr("labspawner.availability.streams.GAP_S", 0.01)
    monkeypatch.setattr("labspawner.availability.streams.TICK_S", 0.02)
    monkeypatch.setattr("labspawner.availability.streams.PEOPLE_S", 0.0)
    made: list[Streams] = []

    def everybody(names: Collection[str]) -> People:
        return dict.fromkeys(names, (IN_PY101, False))

    def open_one(people: Callable[[Collection[str]], People] = everybody, **settings: Any) -> Streams:
        made.append(
            Streams(desk, rooms.book, room_changed=rooms.room_changed, people=people, clock=lambda: NOW, **settings)
        )
        return made[-1]

    yield open_one
    for streams in made:
        await streams.close()


@pytest.fixture
def streams(open_streams: OpenStreams) -> Streams:
    return open_streams()


async def watch(streams: Streams, page: Page, user: str = "student1", *, knows: str = "", language: str = "en") -> Any:
    stream = streams.add(replace(STUDENT, user=user), language, page)
    assert stream is not None
    await streams.tell(stream, knows=knows)
    return stream


async def test_a_page_is_told_at_once_and_again_when_something_changed(streams: Streams, rooms: Rooms):
    page = Page()
    await watch(streams, page)
    assert page.said == ["5 free"]

    rooms.set("lab", Room(free=0, total=9))

    await eventually(lambda: page.said[1:] == ["full: you would be 1st in line"], deadline_s=60)


async def test_each_page_reads_its_own_language(streams: Streams):
    page = Page()
    await watch(streams, page, language="zh-CN")

    assert page.said == ["空闲 5 个"]


async def test_nothing_is_sent_while_nothing_changes_but_a_sign_of_life(open_streams: OpenStreams, rooms: Rooms):
    quiet, alive = Page(), Page()
    await watch(open_streams(), quiet)
    await watch(open_streams(heartbeat_s=0.0), alive)

    await eventually(lambda: alive.got[1:4] == [b":\n\n"] * 3, deadline_s=60)

    assert len(quiet.got) == 1


async def test_the_same_words_are_made_once_for_all_who_read_them(streams: Streams, rooms: Rooms):
    pages = [Page() for _ in range(20)]
    for number, page in enumerate(pages):
        await watch(streams, page, f"s{number}")
    rooms.set("lab", Room(free=3, total=9))
    await eventually(lambda: all(page.said[-1] == "3 free" for page in pages), deadline_s=60)

    picture = await streams._desk.look()
    assert len(picture.said) == 1


async def test_a_page_that_knows_the_last_words_is_not_told_them_again(streams: Streams):
    first, again, other = Page(), Page(), Page()
    await watch(streams, first)
    (id_,) = re.findall(r"id: (\w+)", b"".join(first.got).decode())

    await watch(streams, again, knows=id_)
    await watch(streams, other, knows="nonsense")

    assert (again.said, other.said) == ([], ["5 free"])


async def test_a_page_hears_of_the_own_servers_and_of_nobody_elses(streams: Streams, rooms: Rooms):
    mine, other = Page(), Page()
    await watch(streams, mine)
    await watch(streams, other, "other")

    rooms.leases = [a_lease(user="student1", phase=Phase.LAUNCHING)]
    rooms.book.changed.ring()

    await eventually(
        lambda: mine.events("servers")[-1]["servers"] == [{"name": "", "state": "starting"}], deadline_s=60
    )
    assert [event["servers"] for event in other.events("servers")] == [[]]


async def test_few_pages_of_one_user_watch_and_the_next_is_refused(streams: Streams):
    for _ in range(PER_USER):
        await watch(streams, Page())

    assert streams.add(STUDENT, "en", Page()) is None
    assert streams.add(replace(STUDENT, user="other"), "en", Page()) is not None


async def test_a_page_that_is_closed_makes_room_for_the_next(streams: Streams):
    opened = [await watch(streams, Page()) for _ in range(PER_USER)]
    streams.drop(opened[0])
    streams.drop(opened[0])

    assert streams.add(STUDENT, "en", Page()) is not None


async def test_a_page_that_does_not_read_is_let_go_and_nothing_is_kept_for_it(open_streams: OpenStreams, rooms: Rooms):
    streams = open_streams(unread_s=0.05)
    deaf, good = Page(reads=False), Page()
    stream = await watch(streams, deaf)
    await watch(streams, good, "other")
    rooms.set("lab", Room(free=1, total=9))

    await eventually(lambda: deaf.hung_up, deadline_s=60)

    assert stream.over.done()
    assert len(deaf.got) == 1
    await eventually(lambda: good.said[-1] == "1 free", deadline_s=60)


async def test_a_connection_that_breaks_is_forgotten(streams: Streams, rooms: Rooms):
    page = Page(reads=False)
    stream = await watch(streams, page)

    page.waits[0].set_exception(ConnectionError("gone"))

    await eventually(stream.over.done, deadline_s=60)
    assert streams.count() == 0


async def test_a_page_that_breaks_takes_nobody_along(streams: Streams, rooms: Rooms, caplog: pytest.LogCaptureFixture):
    class Broken(Page):
        def send(self, data: bytes) -> asyncio.Future[None]:
            if self.got:
                raise RuntimeError("a defect")
            return super().send(data)

    broken, good = Broken(), Page()
    stream = await watch(streams, broken)
    await watch(streams, good, "other")

    rooms.set("lab", Room(free=1, total=9))

    await eventually(lambda: good.said[-1] == "1 free", deadline_s=60)
    assert stream.over.done()
    assert broken.hung_up
    assert "a defect" in caplog.text


async def test_after_a_while_a_page_has_to_show_its_cookie_again(open_streams: OpenStreams):
    stream = await watch(open_streams(longest_s=0.0), Page())

    await eventually(stream.over.done, deadline_s=60)


async def test_who_leaves_a_course_sees_it_no_more_without_loading_the_page(open_streams: OpenStreams):
    groups = {"student1": (IN_PY101, False)}
    page = Page()
    await watch(open_streams(lambda names: dict(groups)), page)
    assert page.said == ["5 free"]

    groups["student1"] = (frozenset(), False)

    await eventually(lambda: page.events("availability")[-1]["profiles"] == {}, deadline_s=60)


async def test_who_is_deleted_is_let_go(open_streams: OpenStreams):
    stream = await watch(open_streams(lambda names: {}), Page())

    await eventually(stream.over.done, deadline_s=60)


async def test_when_nobody_watches_nothing_goes_on(streams: Streams, rooms: Rooms):
    stream = await watch(streams, Page())
    streams.drop(stream)

    await eventually(lambda: streams._task is not None and streams._task.done(), deadline_s=60)
    assert streams.count() == 0
