"""What administrators see, decided from the hub's answers: the map of cards, leases in trouble, handles without secrets, and
an audit log that a spreadsheet can open."""

from __future__ import annotations

import csv
import io
import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.console.admin_samples import CARD_BYTES, GIB, NOW, a_server, capacity, servers

from labspawner.model import Slice
from labspawner.service.console.administration import auditing, leases
from labspawner.service.console.administration import map as capacity_map
from labspawner.service.console.administration.answers import CapacityAnswer, ServerAnswer
from labspawner.store import AuditEntry, AuditRecord

WIDTH = capacity_map.WIDTH


def known(*changed: dict[str, Any]) -> list[ServerAnswer]:
    return [ServerAnswer.model_validate(one) for one in changed or servers()]


def a_map(card: dict[str, Any], *held: dict[str, Any], asked: tuple[Slice, ...] = ()) -> capacity_map.CardView:
    """The one card of a laboratory. asked: what profiles want of it."""
    whole = {"uuid": "GPU-1", "memory_total_bytes": CARD_BYTES, "memory_free_bytes": CARD_BYTES, **card}
    answer = {"taken_at": NOW.isoformat(), "providers": [{"name": "gpu", "hosts": [{"name": "n", "cards": [whole]}]}]}
    (provider,) = capacity_map.view(CapacityAnswer.model_validate(answer), known(*held) if held else [], {"gpu": asked})
    return provider.nodes[0].cards[0]


class Records:
    """An audit log of so many entries; counts what is asked of it at once."""

    def __init__(self, count: int, **entry: Any) -> None:
        made = {"at": NOW, "actor": "teacher", "verb": "act.stop", **entry}
        self.records = [AuditRecord(number, AuditEntry(**made)) for number in range(count, 0, -1)]
        self.most = 0

    async def search(self, *, before: int | None = None, limit: int = 200, **_: object) -> list[AuditRecord]:
        self.most = max(self.most, limit)
        return [record for record in self.records if before is None or record.id < before][:limit]


async def text_of(pieces: Any) -> str:
    return "".join([piece async for piece in pieces])


# -- the map -----------------------------------------------------------------------------------------------------------


def test_each_slice_is_on_its_card_with_its_owner_and_share():
    view = capacity_map.view(CapacityAnswer.model_validate(capacity()), known())

    parts = view[0].nodes[0].cards[0].parts

    assert [part.server.user for part in parts if part.server] == sorted(one["user"] for one in servers()[:3])
    assert all(part.share is not None and part.share.memory_bytes == 6 * GIB for part in parts)


def test_slices_stand_beside_one_another_and_never_beyond_the_card():
    card = a_map(
        {"memory_free_bytes": 0, "leases": ["a", "b", "c"]},
        *(a_server(lease, slice={"memory_bytes": 20 * GIB, "compute_pct": 10}) for lease in "abc"),
    )

    ends = [part.x + part.width for part in card.parts]

    assert ends == sorted(ends)
    assert ends[-1] <= WIDTH


def test_memory_that_no_slice_holds_is_shown_as_used_by_something_else():
    card = a_map({"memory_free_bytes": CARD_BYTES // 2})

    (part,) = card.parts

    assert part.server is None
    assert part.width == WIDTH // 2


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ({"compute_free_pct": 0}, "all of its computing time is given away"),
        ({"slots_free": 0}, "no more slices may share this card"),
    ],
)
def test_memory_that_nobody_can_have_is_called_lost_and_why(card, words):
    view = a_map({"memory_free_bytes": 8 * GIB, "leases": ["a"], **card}, a_server("a"))

    assert view.lost_bytes == 8 * GIB
    assert words in str(view.lost)


def test_what_a_slice_can_still_have_is_not_called_lost():
    view = a_map(
        {"memory_free_bytes": 8 * GIB, "compute_free_pct": 25, "slots_free": 3, "leases": ["a"]}, a_server("a")
    )

    assert view.lost is None


@pytest.mark.parametrize(
    ("asked", "lost"),
    [
        ((), False),
        ((Slice(memory_bytes=8 * GIB, compute_pct=25),), False),
        ((Slice(memory_bytes=9 * GIB, compute_pct=10),), True),
        ((Slice(memory_bytes=2 * GIB, compute_pct=30),), True),
        ((Slice(memory_bytes=9 * GIB, compute_pct=10), Slice(memory_bytes=1 * GIB, compute_pct=1)), False),
    ],
)
def test_what_is_too_little_for_every_profile_is_lost(asked, lost):
    card = {"memory_free_bytes": 8 * GIB, "compute_free_pct": 25, "leases": ["a"]}

    assert (a_map(card, a_server("a"), asked=asked).lost is not None) is lost


def test_a_card_that_nobody_uses_has_lost_nothing():
    assert a_map({}, asked=(Slice(memory_bytes=99 * GIB),)).lost is None


def test_a_full_card_has_lost_nothing():
    view = a_map({"memory_free_bytes": 20 * 2**20, "compute_free_pct": 0, "leases": ["a"]}, a_server("a"))

    assert view.lost is None


def test_a_lease_that_has_just_ended_is_not_on_the_map():
    card = a_map({"memory_free_bytes": 0, "leases": ["ended"]}, a_server("another"))

    assert [part.server for part in card.parts] == [None]


def test_a_server_with_a_card_is_not_told_twice():
    view = capacity_map.view(CapacityAnswer.model_validate(capacity()), known())

    assert {server.lease for server in view[0].nodes[0].servers} == {"l-cpu", "l-stuck"}


def test_a_silent_provider_says_why():
    view = capacity_map.view(CapacityAnswer.model_validate(capacity()), known())

    assert view[2].trouble == {"en": "The cluster does not answer.", "zh-CN": "集群没有响应。"}


@given(
    total=st.integers(0, 2**50),
    free=st.integers(-(2**50), 2**51),
    held=st.lists(st.tuples(st.integers(0, 2**51), st.integers(0, 400)), max_size=12),
)
@settings(max_examples=60, deadline=None)
def test_no_figures_of_a_host_draw_a_bar_beyond_its_end(total, free, held):
    made = [a_server(f"l{n}", slice={"memory_bytes": size, "compute_pct": pct}) for n, (size, pct) in enumerate(held)]

    card = a_map(
        {"memory_total_bytes": total, "memory_free_bytes": free, "leases": [one["lease"] for one in made]}, *made
    )

    assert all(0 <= part.x <= WIDTH and 0 <= part.width <= WIDTH - part.x for part in card.parts)


# -- leases ------------------------------------------------------------------------------------------------------------


def test_who_is_in_trouble_comes_first():
    found = leases.shown(known(), leases.Wish())

    assert [one.phase for one in found][:3] == ["stopping", "launching", "queued"]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"q": "LI.NA"}, {"l-gpu-1"}),
        ({"q": "os-lab"}, {"l-vm"}),
        ({"phase": "parked"}, {"l-parked"}),
        ({"provider": "vms"}, {"l-vm", "l-parked"}),
        ({"course": "cv-lab"}, {"l-cv"}),
        ({"q": "li.na", "provider": "vms"}, set()),
        ({"phase": "no-such-phase", "course": "py101"}, {"l-cpu"}),
    ],
)
def test_leases_are_found_by_what_is_asked_for(given, found):
    assert {one.lease for one in leases.shown(known(), leases.Wish.of(given))} == found


def test_a_stop_that_does_not_end_is_called_stuck_and_a_long_session_is_not():
    stuck = {one.lease for one in known() if leases.stuck(one, NOW)}

    assert stuck == {"l-stuck"}


def test_a_handle_is_shown_without_anything_that_could_be_a_secret():
    handle = {
        "pod": "jupyter-li",
        "token": "s3cret",
        "env": {"JUPYTERHUB_API_TOKEN": "s3cret", "Password": ["s3cret"], "node": "n1"},
        "list": [{"ticket": "s3cret"}, 7],
    }

    shown = leases.summary(handle)

    assert "s3cret" not in str(shown)
    assert ("pod", "jupyter-li") in shown
    assert ("env.node", "n1") in shown
    assert ("list.1", "7") in shown


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
        max_leaves=100,
    )
)
@settings(max_examples=60, deadline=None)
def test_any_handle_has_a_summary_of_bounded_length(data):
    found = leases.summary({"data": data})

    assert len(found) <= 60
    assert all(len(value) <= 201 for _, value in found)


# -- the audit log -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
async def test_a_spreadsheet_computes_nothing_of_what_people_wrote(text):
    told = await text_of(auditing.as_csv(Records(1, subject=text, actor=text, object=text), auditing.Query()))

    (row,) = list(csv.DictReader(io.StringIO(told.removeprefix("\ufeff"), newline="")))

    assert [row[name] for name in ("subject", "actor", "object")] == [f"'{text}"] * 3


async def test_an_export_has_every_entry_once_and_reads_a_few_hundred_at_a_time():
    log = Records(1234, detail={"n": 1})

    as_csv = await text_of(auditing.as_csv(log, auditing.Query()))
    as_json = json.loads(await text_of(auditing.as_json(log, auditing.Query())))

    assert [entry["id"] for entry in as_json] == list(range(1234, 0, -1))
    assert as_csv.count("\r\n") == 1235
    assert log.most <= 501


async def test_an_empty_export_is_still_one():
    assert json.loads(await text_of(auditing.as_json(Records(0), auditing.Query()))) == []


async def test_the_last_page_says_that_it_is():
    log = Records(auditing.PAGE)

    assert (await auditing.page(log, auditing.Query()))[1] is None
    assert (await auditing.page(log, auditing.Query(), limit=10))[1] == auditing.PAGE - 9


def test_both_days_are_counted_whole():
    query, wrong = auditing.query_of({"since": "2026-11-02", "until": "2026-11-02"})

    assert not wrong
    assert query.since is not None
    assert query.until is not None
    assert timedelta(hours=22) < query.until - query.since < timedelta(hours=26)


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "2026-02-30", "9999-12-31x", "٢٠٢٦"])
def test_what_is_no_day_is_said_and_searched_for_nothing(text):
    query, wrong = auditing.query_of({"since": text})

    assert "since" in wrong
    assert query.since is None


@given(st.dictionaries(st.sampled_from(["actor", "verb", "subject", "course", "since", "until", "before"]), st.text()))
@settings(max_examples=100, deadline=None)
def test_any_form_is_a_query(given):
    query, wrong = auditing.query_of(given)

    assert set(wrong) <= {"since", "until"}
    assert query.before is None or 0 < query.before <= 2**53


def test_the_ends_of_time_are_no_error():
    for day in ("0001-01-01", "9999-12-31"):
        auditing.query_of({"since": day, "until": day})
