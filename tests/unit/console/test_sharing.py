"""What many look at is asked, read and made once for all of them, and nobody is shown what is another's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from unit.console.lab import API, a_lab, said, text_of

from labspawner.service.console.doing import rosters
from labspawner.service.console.doing import wall as walls
from labspawner.service.console.house import Freshness
from labspawner.service.console.rights import SELF, Caller
from labspawner.service.console.sharing import MOST_KEYS, MOST_MADE, Memo, Shared
from labspawner.testing.waiting import eventually

FOREVER_S = 1e6


class Source:
    """Something to look at. found: what it says. looks: how often it was asked. gate: it answers only while that is open."""

    def __init__(self) -> None:
        self.found: object = {"n": 1}
        self.looks: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.version = 0
        self.heard = True

    async def look(self, key: str) -> object:
        self.looks.append(key)
        await self.gate.wait()
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    def shared(self, at_most_s: float = FOREVER_S) -> Shared[object]:
        return Shared(self.look, at_most_s=at_most_s, rests_on=lambda: self.version, watched=lambda: self.heard)


@pytest.fixture
async def source() -> Source:
    return Source()


async def waiting(source: Source, shared: Shared[object], count: int) -> list[asyncio.Task]:
    """So many who ask, each of whom waits for the answer."""
    source.gate.clear()
    tasks = [asyncio.ensure_future(shared.get("a")) for _ in range(count)]
    await eventually(lambda: source.looks, 60)
    return tasks


# -- one look ----------------------------------------------------------------------------------------------------------


async def test_those_who_ask_at_the_same_time_share_one_look_and_later_ones_too(source):
    shared = source.shared()
    tasks = await waiting(source, shared, 5)
    source.gate.set()

    looks = [await task for task in tasks] + [await shared.get("a")]

    assert source.looks == ["a"]
    assert all(look is looks[0] for look in looks)
    await shared.get("b")
    assert source.looks == ["a", "b"]


async def test_what_is_too_old_is_looked_for_again(source):
    shared = source.shared(at_most_s=0.0)

    await shared.get("a")
    await shared.get("a")

    assert source.looks == ["a", "a"]


async def test_while_nobody_tells_of_changes_an_answer_is_only_for_those_who_wait_for_it(source):
    shared = source.shared()
    source.heard = False
    tasks = await waiting(source, shared, 3)
    source.gate.set()
    await asyncio.gather(*tasks)
    assert source.looks == ["a"]

    await shared.get("a")

    assert source.looks == ["a", "a"]


async def test_who_asks_after_a_change_never_hears_what_was_looked_for_before(source):
    shared = source.shared()
    (early,) = await waiting(source, shared, 1)
    source.version += 1

    late = asyncio.ensure_future(shared.get("a"))
    await eventually(lambda: len(source.looks) == 2, 60)
    source.gate.set()

    assert await early is not await late
    assert await shared.get("a") is await late


async def test_who_goes_away_ends_the_look_of_nobody_else(source):
    shared = source.shared()
    first, second = await waiting(source, shared, 2)

    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    source.gate.set()

    assert (await second).value == {"n": 1}
    assert source.looks == ["a"]


async def test_a_failure_is_told_to_all_who_wait_and_is_not_kept(source):
    shared = source.shared()
    source.found = OSError("gone")
    tasks = await waiting(source, shared, 3)
    source.gate.set()

    assert [str(one) for one in await asyncio.gather(*tasks, return_exceptions=True)] == ["gone"] * 3
    source.found = {"n": 2}
    assert (await shared.get("a")).value == {"n": 2}
    assert source.looks == ["a", "a"]


async def test_a_failure_for_which_nobody_waits_any_more_disturbs_nobody(source):
    shared = source.shared()
    (only,) = await waiting(source, shared, 1)
    source.found = OSError("gone")
    only.cancel()
    await asyncio.gather(only, return_exceptions=True)
    source.gate.set()

    source.found = {"n": 2}

    assert (await shared.get("b")).value == {"n": 2}
    await shared.close()


async def test_whoever_waits_when_all_is_closed_waits_no_more(source):
    shared = source.shared()
    (only,) = await waiting(source, shared, 1)

    await shared.close()

    with pytest.raises(asyncio.CancelledError):
        await only


async def test_ever_new_keys_do_not_fill_the_memory(source):
    shared = source.shared()

    for number in range(MOST_KEYS + 1):
        await shared.get(str(number))
    await shared.get(str(MOST_KEYS))

    assert len(source.looks) == MOST_KEYS + 1


# -- what is made of it ------------------------------------------------------------------------------------------------


async def test_what_was_made_counts_on_while_the_same_is_found_and_not_after(source):
    shared = source.shared(at_most_s=0.0)
    first = await shared.get("a")
    first.memo.make("x", lambda: "made")
    source.found = {"n": 1}
    again = await shared.get("a")
    source.found = {"n": 2}
    other = await shared.get("a")

    assert (again.mark, again.memo.make("x", lambda: "anew")) == (first.mark, "made")
    assert other.mark != first.mark
    assert other.memo.make("x", lambda: "anew") == "anew"


def test_something_is_made_once_for_each_key_and_a_failure_never_counts():
    memo = Memo()

    with pytest.raises(ZeroDivisionError):
        memo.make("x", lambda: 1 // 0)
    found = [memo.make(key, lambda key=key: [key]) for key in ("x", "y", "x")]

    assert found == [["x"], ["y"], ["x"]]
    assert found[0] is found[2]
    assert memo.times == 2


def test_ever_new_ways_to_look_at_something_do_not_fill_the_memory():
    memo = Memo()

    for number in range(MOST_MADE + 1):
        memo.make(number, lambda: "")
    memo.make(0, lambda: "")

    assert memo.times == MOST_MADE + 2


# -- in the console ----------------------------------------------------------------------------------------------------


@pytest.fixture
async def lab(tmp_path):
    """A console that hears its hub, and in which no time passes."""
    async with a_lab(tmp_path) as lab:
        lab.house.fresh = Freshness(facts_s=FOREVER_S, people_s=FOREVER_S)
        lab.house.events.listens = True
        lab.hub.servers["student1"] = "py101/base"
        yield lab


WALL = "courses/py101/"


async def page(lab, path: str, who: str, **headers: str):
    answer = await lab.fetch("GET", path, headers={"Cookie": lab.cookie_of(who), "Accept-Language": "en", **headers})
    assert answer.code == 200, (path, who, answer.body)
    return answer.body.decode()


def asked(lab, what: str) -> int:
    return sum(what in line for line in lab.hub.asked)


async def test_the_hub_is_asked_for_its_state_once_per_version_however_many_look(lab):
    for who in ("teacher", "helper", "boss", "teacher"):
        await page(lab, WALL, who)
        await page(lab, f"{WALL}live", who)
    assert asked(lab, "/state?course=py101") == 1

    lab.house.events.heard({"state": "2", "availability": "1", "courses": "1"})
    lab.hub.servers["student2"] = "py101/base"
    found = [await page(lab, WALL, who) for who in ("teacher", "helper")]

    assert asked(lab, "/state?course=py101") == 2
    assert all('id="row-student2" data-user="student2" data-state="running"' in text for text in found)


async def test_what_was_done_from_here_is_seen_at_once(lab):
    assert 'data-user="student1" data-state="running"' in await page(lab, WALL, "teacher")

    begun = await lab.ask("POST", "courses/py101/jobs", "teacher", {"verb": "stop", "users": ["student1"]})
    assert begun.code == 202, begun.body
    job = f"courses/py101/jobs/{said(begun)['id']}"

    async def over() -> bool:
        return said(await lab.ask("GET", job))["state"] != "running"

    await eventually(over, 60)

    assert 'data-user="student1" data-state="off"' in await page(lab, WALL, "teacher")


async def test_who_is_put_into_a_course_from_here_is_seen_at_once(lab):
    await lab.a_course("dl")
    assert "student9" not in await page(lab, "courses/dl/roster", "teacher")
    lab.hub.person("student8")

    for name in ("student8", "student9"):  # the hub knows one of them
        added = await lab.ask("POST", "courses/dl/roster/add", "teacher", {"names": [name], "role": "member"})
        assert added.code == 200, added.body
        assert f'id="member-{name}"' in await page(lab, "courses/dl/roster", "teacher")
        assert f'data-user="{name}"' in await page(lab, "courses/dl/", "teacher")


async def test_nothing_is_rendered_twice_for_two_who_read_the_same(lab):
    await page(lab, WALL, "teacher")
    await page(lab, "courses/py101/roster", "teacher")
    someone = Caller(name="t", groups=frozenset({"course-py101-instructors"}), scopes=frozenset({SELF}))
    wall = await walls.of(lab.house, someone, "py101")
    people = await rosters.shown(lab.house, someone, "py101")
    made = wall.memo.times, people.memo.times
    lab.hub.person("second", "course-py101-instructors")

    for who in ("teacher", "second"):
        await page(lab, WALL, who)
        await page(lab, f"{WALL}live", who)
        await page(lab, "courses/py101/roster", who)
    assert (wall.memo.times, people.memo.times) == made

    await page(lab, WALL, "second", **{"Accept-Language": "zh-CN"})
    assert wall.memo.times > made[0]


# -- attacks on what is kept -------------------------------------------------------------------------------------------


async def test_no_language_right_or_token_of_one_reader_reaches_another(lab):
    """Each reads first once, so that everything of theirs could be kept for those who come after."""
    orders = (("teacher", "helper", "boss"), ("helper", "boss", "teacher"), ("boss", "teacher", "helper"))
    for order in orders:
        lab.house.events.heard({"state": order[0], "availability": "1", "courses": "1"})
        for who in order:
            for language, word, foreign in (("zh-CN", "运行中", "Running"), ("en", "Running", "运行中")):
                for path in (WALL, "courses/py101/roster"):
                    cookies = f"{lab.cookie_of(who)}; _xsrf=of-{who}"
                    answer = await lab.fetch("GET", path, headers={"Cookie": cookies, "Accept-Language": language})
                    text = answer.body.decode()
                    rows = text[text.index("<tbody") : text.rindex("</tbody>")]
                    others = {"teacher", "helper", "boss"} - {who}
                    assert f'<bdi class="lab-user">{who}</bdi>' in text
                    assert not [one for one in others if f'<bdi class="lab-user">{one}</bdi>' in text]
                    assert "_xsrf" not in rows
                    assert path != WALL or (word in rows and foreign not in rows)
                    assert ('name="visit"' in rows) is (path == WALL and who != "helper")
                    assert ('form="remove-form"' in rows) is (path != WALL and who != "helper")
                    assert f'lang="{language}"' in text.partition("<head>")[0]


async def test_who_may_not_see_a_course_is_shown_nothing_of_what_is_kept_of_it(lab):
    await page(lab, WALL, "teacher")
    await page(lab, "courses/py101/roster", "teacher")

    for who in ("rival", "student1"):
        for path in (WALL, f"{WALL}live", "courses/py101/roster", f"{API}courses/py101/wall"):
            answer = await lab.fetch("GET", path, headers={"Cookie": lab.cookie_of(who)})
            assert answer.code in {403, 404}, (who, path)
            assert b"student2" not in answer.body


async def test_staff_who_are_removed_see_nothing_once_the_hub_is_asked_again(lab):
    await page(lab, WALL, "helper")
    lab.hub.groups["course-py101-assistants"].discard("helper")

    lab.forget_who()  # the seconds for which it is not asked again

    for path in (WALL, f"{WALL}live", "courses/py101/roster"):
        answer = await lab.fetch("GET", path, headers={"Cookie": lab.cookie_of("helper")})
        assert answer.code == 404
        assert b"student1" not in answer.body


async def test_two_courses_never_share_what_is_kept(lab):
    await lab.a_course("dl")
    lab.hub.servers["student2"] = "dl/base"

    py101, dl = await page(lab, WALL, "teacher"), await page(lab, "courses/dl/", "teacher")

    assert 'data-user="student1" data-state="running"' in py101
    assert "student1" not in dl
    assert [place["user"] for place in said(await lab.ask("GET", "courses/dl/wall"))["places"]] == [
        "student2",
        "teacher",
    ]


# -- what a page reads -------------------------------------------------------------------------------------------------


@contextmanager
def queries() -> Iterator[list[str]]:
    """The statements that read, as long as it is open."""
    found: list[str] = []

    def note(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.lstrip().upper().startswith("SELECT"):
            found.append(statement)

    sa.event.listen(Engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        sa.event.remove(Engine, "before_cursor_execute", note)


READS = {
    "courses/{slug}/": 1,  # class actions that go on; the roster is kept
    "courses/{slug}/roster": 0,
    "courses/{slug}/profiles/": 1,  # how many students there are
    "courses/{slug}/profiles/{profile}/edit": 1,
    "courses/{slug}/yaml": 1,
    "courses/{slug}/links": 0,
    "courses/{slug}/usage": 1,  # all weeks
}


@pytest.mark.parametrize("slug", ["py101", "dl"])
@pytest.mark.parametrize(("path", "most"), READS.items())
async def test_a_page_of_a_course_reads_each_thing_once(lab, path, most, slug):
    """And a course that is written here once more: itself."""
    await lab.a_course("dl", "boss")
    address = path.format(slug=slug, profile="gpu" if slug == "dl" else "base")
    await page(lab, address, "boss")

    with queries() as found:
        await page(lab, address, "boss")

    assert len(found) == len(set(found)), found
    assert len(found) <= most + 1, found
    assert slug == "dl" or len([one for one in found if "FROM courses" not in one]) <= most


@pytest.mark.parametrize(("path", "most"), {"": 4, "admin/": 1, "admin/leases": 0, "admin/audit": 1}.items())
async def test_other_pages_read_no_more_than_they_show(lab, path, most):
    """The list of courses reads each course's people."""
    lab.hub.servers.clear()
    await lab.a_course("dl", "boss")
    await page(lab, path, "boss")

    with queries() as found:
        await page(lab, path, "boss")

    assert len(found) <= most, found


async def test_a_form_that_is_sent_never_counts_on_what_a_page_has_read(lab):
    etag = await lab.a_course("dl")
    await page(lab, "courses/dl/yaml", "teacher")
    new = {"text": f"{text_of('dl')}# once more\n", "comment": ""}

    saved = await lab.ask("PUT", "courses/dl", "teacher", new, match=etag)

    assert saved.code == 200, saved.body
    assert "# once more" in await page(lab, "courses/dl/yaml", "teacher")
