"""What `labspawner top` shows of each server, and what it leaves out where the terminal is narrow."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest
from builders import NOW, a_lease
from rich.console import Console

from labspawner.cli.top.rows import SORTS, Row, rows_of
from labspawner.cli.top.table import NOBODY, screen, summary
from labspawner.lifecycle.usages import Use
from labspawner.model import Activity, Evidence, GpuUsage, Handle, Phase, Usage
from labspawner.sentences import Sentence
from labspawner.store.evidence import Standing

MIB, GIB = 2**20, 2**30


def a_server(user: str = "ann", *, memory: int | None = 512 * MIB, cores: float | None = 0.5, **changes):
    """A lease, how it stands and what it uses."""
    lease = a_lease(**{"user": user, "phase": Phase.READY, "ready_at": NOW - timedelta(minutes=90), **changes})
    standing = Standing(
        evidence=Evidence(report=Activity(last_activity=NOW - timedelta(minutes=5))),
        verdict="warn",
        reason=Sentence("idle for {idle}", idle="12 min"),
        ends_at=NOW + timedelta(minutes=8),
    )
    usage = Usage(
        taken_at=NOW,
        memory_bytes=memory,
        memory_limit_bytes=GIB,
        cpu_limit=2.0,
        processes=7,
        disk_bytes=3 * GIB,
        disk_limit_bytes=5 * GIB,
    )
    return lease, standing, Use(usage, cores)


def a_board(*servers, sort: str = "memory") -> list[Row]:
    return rows_of(
        [lease for lease, _, _ in servers],
        {lease.id: standing for lease, standing, _ in servers if standing},
        {lease.id: use for lease, _, use in servers if use},
        sort=sort,
    )


def printed(rows: list[Row], *, width: int = 200, **changes) -> str:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=False).print(screen(rows, width=width, now=NOW, **changes))
    return out.getvalue()


def test_a_row_says_who_what_since_when_how_much_and_what_comes():
    handle = Handle(lease_id="x", provider="local", data={"rung": "cgroup", "pid": 5})
    rows = a_board(a_server(server_name="gpu", provider="local", profile="dl101/gpu", handle=handle))

    text = printed(rows)

    line = text.splitlines()[2]
    for words in ("ann", "gpu", "dl101/gpu", "local", "cgroup", "1 h", "5 min", "512 MiB / 1 GiB", "50/200", "7"):
        assert words in line
    assert "3 GiB / 5 GiB" in line
    assert "warn, ends in 8 min: idle for 12 min" in line
    assert "████░░░░" in line


def test_what_cannot_be_told_is_a_dash_and_never_a_zero():
    rows = a_board((a_lease(phase=Phase.READY, ready_at=NOW - timedelta(hours=1)), None, None))

    line = printed(rows).splitlines()[2]

    assert line.split().count("-") >= 6
    assert " 0 " not in line


def test_without_a_limit_the_memory_has_no_bar():
    lease, standing, use = a_server()
    use = Use(replace(use.usage, memory_limit_bytes=None, cpu_limit=None, disk_limit_bytes=None), 0.25)

    line = printed(a_board((lease, standing, use))).splitlines()[2]

    assert "512 MiB" in line
    assert "█" not in line
    assert "25 " in line
    assert "25/" not in line


def test_a_server_on_its_way_shows_its_phase_in_place_of_a_verdict():
    rows = a_board(a_server(phase=Phase.LAUNCHING, ready_at=None, phase_at=NOW - timedelta(seconds=5)))

    assert "launching" in printed(rows)
    assert "warn" not in printed(rows)
    assert "5 s" in printed(rows)


def test_what_is_parked_is_no_row():
    assert a_board(a_server(phase=Phase.PARKED)) == []


def test_without_servers_it_says_so():
    assert NOBODY in printed([])


def test_a_problem_is_shown_with_what_was_seen_before():
    text = printed(a_board(a_server()), problem="The database does not answer.")

    assert "The database does not answer." in text
    assert "ann" in text
    assert NOBODY not in printed([], problem="The database does not answer.")


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal_and_user_and_memory_stay(width):
    text = printed(a_board(a_server(), a_server("a-student-with-a-very-long-name" * 3)), width=width, keys=True)

    assert max(map(len, text.splitlines())) <= width
    assert "user" in text
    assert "memory" in text


def test_a_wider_terminal_never_shows_less():
    rows = a_board(a_server())

    headers = [set(printed(rows, width=width).splitlines()[1].split()) for width in range(40, 200, 10)]

    assert all(narrow <= wide for narrow, wide in pairwise(headers))


def test_what_does_not_fit_the_height_is_counted():
    rows = a_board(*(a_server(f"student{number}") for number in range(20)))

    text = printed(rows, height=10)

    assert "and 14 more" in text
    assert len(text.splitlines()) <= 10


@pytest.mark.parametrize(
    ("sort", "first"),
    [
        ("memory", "b"),
        ("cpu", "a"),
        ("user", "a"),
        ("since", "c"),
        ("activity", "c"),
        ("ends", "c"),
        ("processes", "c"),
    ],
)
def test_servers_are_sorted_as_asked_and_unknown_ones_come_last(sort, first):
    ann = a_server("a", memory=1, cores=2.0)
    ben = a_server("b", memory=9, cores=1.0)
    lease, standing, use = a_server("c", memory=None, cores=None, ready_at=NOW - timedelta(days=1))
    early = replace(
        standing,
        ends_at=NOW,
        evidence=Evidence(report=Activity(last_activity=NOW - timedelta(hours=1))),
    )
    cat = (lease, early, Use(replace(use.usage, processes=99), None))
    unknown = (a_lease(user="d", phase=Phase.READY, ready_at=NOW), None, None)

    rows = a_board(unknown, cat, ben, ann, sort=sort)

    assert rows[0].user == first
    assert rows[-1].user == "d"


def test_every_sort_has_a_key_of_its_own():
    assert len({name[0] for name in SORTS} | {"q"}) == len(SORTS) + 1


def test_the_summary_counts_and_adds_up():
    rows = a_board(a_server("a"), a_server("b"), a_server("c", phase=Phase.STOPPING))

    words = summary(rows, now=NOW)

    assert words.startswith("2 running, 1 starting or stopping, 2 about to end; 1.5 GiB, 150 % CPU")


def test_a_name_cannot_move_the_cursor_or_be_read_as_markup():
    text = printed(a_board(a_server("evil\x1b[2J[bold]", profile="[red]x[/red]")))

    assert "\x1b" not in text
    assert "evil?[2J[bold]" in text
    assert "[red]x[/red]" in text


def test_json_has_plain_numbers_and_instants():
    (row,) = a_board(a_server(cores=0.33333))

    data = row.to_json()

    assert data["cores"] == 0.333
    assert data["memory_limit_bytes"] == GIB
    assert data["since"] == (NOW - timedelta(minutes=90)).isoformat()
    assert data["reason"] == "idle for 12 min"
    assert a_board((a_lease(), None, None))[0].to_json()["ends_at"] is None


def test_a_slice_is_shown_where_anybody_has_one_and_no_column_where_nobody_has():
    lease, standing, use = a_server("gina")
    gpu = GpuUsage(memory_bytes=2 * GIB, memory_limit_bytes=6 * GIB, time_s=90.0)
    sliced = (lease, standing, Use(replace(use.usage, gpu=gpu), 0.5))

    both, none = printed(a_board(a_server("carl"), sliced)), printed(a_board(a_server("carl")))

    assert "GPU memory" in both
    assert "2 GiB / 6 GiB" in both
    assert "GPU memory" not in none
    assert a_board(a_server("carl"), sliced, sort="gpu")[0].user == "gina"
    assert a_board(sliced)[0].to_json()["gpu_time_s"] == 90.0
