"""The audit log: what was done is found again, by whoever asks what, and nothing but age takes it away."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from builders import NOW
from hypothesis import given
from hypothesis import strategies as st

from labspawner.store import AuditEntry, Store
from labspawner.store.audit import AuditLog, _record, _row

ODD = "Ünï\x00\ud800\\u0041🧠' OR 1=1 --"


def entry(minute: int = 0, **changes: Any) -> AuditEntry:
    return AuditEntry(**{"at": NOW + timedelta(minutes=minute), "actor": "ann", "verb": "act.stop", **changes})


async def test_an_entry_is_read_back_as_it_was_added(store: Store):
    full = entry(
        actor=ODD,
        actor_ip="2001:db8::1",
        course="py101",
        subject=ODD,
        object="server/é",
        detail={"why": ODD, "n": [1, None, True], "deep": {"x": 1.5}},
        result="not_allowed",
    )

    await store.audit.add(full)

    (record,) = await store.audit.search()
    assert record.entry == full


async def test_entries_are_found_by_everything_that_can_be_asked_for(store: Store):
    await store.audit.add(
        entry(0, verb="course.save", course="py101"),
        entry(1, actor="bob", subject="sam", course="py101"),
        entry(2, actor="bob", verb="act.start", subject="tim", course="dl101"),
        entry(3, verb="activate"),
    )
    log = store.audit

    async def minutes(**what: Any) -> list[int]:
        return [int((record.entry.at - NOW).total_seconds() / 60) for record in await log.search(**what)]

    assert await minutes() == [3, 2, 1, 0]
    assert await minutes(actor="bob") == [2, 1]
    assert await minutes(subject="sam") == [1]
    assert await minutes(course="py101") == [1, 0]
    assert await minutes(verb="act.stop") == [1]
    assert await minutes(verb="act.") == [2, 1]
    assert await minutes(verb="%.") == []
    assert await minutes(since=NOW + timedelta(minutes=1), until=NOW + timedelta(minutes=3)) == [2, 1]
    assert await minutes(actor="bob", course="py101") == [1]
    assert await minutes(actor="' OR 1=1 --") == []


async def test_the_log_is_read_page_by_page_without_a_gap(store: Store):
    await store.audit.add(*(entry(number) for number in range(7)))
    seen: list[datetime] = []
    before: int | None = None

    while page := await store.audit.search(limit=3, before=before):
        seen.extend(record.entry.at for record in page)
        before = page[-1].id

    assert seen == [NOW + timedelta(minutes=number) for number in reversed(range(7))]


async def test_several_entries_are_added_all_or_none(store: Store):
    with pytest.raises(ValueError, match="one word"):
        await store.audit.add(entry(), entry(verb="x" * 41))
    with pytest.raises(ValueError, match="timezone"):
        await store.audit.add(entry(), entry(at=datetime(2026, 1, 1)))  # noqa: DTZ001

    assert await store.audit.search() == []
    await store.audit.add()


@pytest.mark.parametrize("word", ["", "two\nlines", "é", "x" * 41])
async def test_a_verb_or_result_is_one_short_word(store: Store, word: str):
    for name in ("verb", "result"):
        with pytest.raises(ValueError, match="one word"):
            await store.audit.add(entry(**{name: word}))


async def test_a_detail_that_is_too_long_is_cut_and_says_so(store: Store):
    await store.audit.add(entry(detail={"comment": '\\"é' * 5000}), entry(detail={"comment": "x" * 4000}))

    short, cut = [record.entry.detail for record in await store.audit.search()]
    assert short == {"comment": "x" * 4000}
    assert list(cut) == ["cut"]
    assert str(cut["cut"]).startswith('{"comment":')


async def test_only_age_takes_entries_away(store: Store):
    await store.audit.add(*(entry(number) for number in range(4)))

    assert await store.audit.prune(NOW + timedelta(minutes=2)) == 2
    assert await store.audit.prune(NOW + timedelta(minutes=2)) == 0

    assert [record.entry.at.minute for record in await store.audit.search()] == [3, 2]


async def test_an_id_is_never_given_again_after_a_prune(store: Store):
    await store.audit.add(entry(0))
    (first,) = await store.audit.search()
    await store.audit.prune(NOW + timedelta(days=1))
    await store.audit.add(entry(1))

    (second,) = await store.audit.search()

    assert second.id > first.id


def test_no_method_changes_or_removes_a_row_but_prune():
    public = {name for name, _ in inspect.getmembers(AuditLog, inspect.isfunction) if not name.startswith("_")}

    assert public == {"add", "search", "prune"}


async def test_hubs_in_one_database_read_and_prune_their_own_log_only(make_store: Callable[..., Store]):
    ours, theirs = make_store(), None
    await ours.migrate()
    theirs = Store(ours._engine, clock=ours._clock, hub_id="other")
    await ours.audit.add(entry())
    await theirs.audit.add(entry(actor="eve"))

    await theirs.audit.prune(NOW + timedelta(days=1))

    assert [record.entry.actor for record in await ours.audit.search()] == ["ann"]
    assert await theirs.audit.search() == []
    theirs._threads.shutdown()


_text = st.text(max_size=40)
_json = st.recursive(st.none() | st.booleans() | st.integers() | _text, lambda inner: st.lists(inner, max_size=2))


@given(st.text(), st.dictionaries(_text, _json, max_size=3))
def test_any_name_and_any_detail_survive(name: str, detail: dict[str, Any]):
    made = entry(actor=name, subject=name, object=name, detail=detail)

    assert _record({"id": 1, **_row("hub", made)}).entry == made  # type: ignore[arg-type]
