"""What `labspawner gpu ls` and `top` show: who holds what, in a table that fits, or for other programs."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from rich.console import Console

from labspawner.cli.gpu.rows import SliceRow, card_rows, sample, slice_rows
from labspawner.cli.gpu.table import NOBODY, screen
from labspawner.gpu.cards import Card, CardProcess, Device, Inventory, LostCard
from labspawner.gpu.folder import SliceFolder
from labspawner.gpu.limits import CorePolicy, DeviceLimit, SliceLimits
from labspawner.gpu.region import DeviceUse, Reading
from labspawner.gpu.register import About, Registered, on_cards

NOW = datetime(2026, 11, 2, 10, 0, tzinfo=timezone.utc)
GIB, MIB = 2**30, 2**20


def a_card(index: int = 0, *processes: CardProcess) -> Card:
    return Card(
        uuid=f"GPU-{index}", index=index, name="A5000", memory_total_bytes=24_564 * MIB, memory_used_bytes=3 * GIB,
        utilisation_pct=40, processes=processes,
    )  # fmt: skip


def a_slice(
    name: str = "lab-1", uuid: str = "GPU-0", *, pretended: str | None = None, command: str = "x"
) -> Registered:
    about = About(
        command=(command,), pid=1, uid=1000, started=NOW - timedelta(hours=2), sandboxed=True, pretended=pretended
    )
    limit = DeviceLimit(uuid=uuid, memory_bytes=6 * GIB, cores_pct=25)
    return Registered(SliceFolder(Path("/x")), SliceLimits(name=name, region="/x", devices=(limit,)), about)


def a_reading(used: int = GIB, gpu_time_s: float = 10.0) -> Reading:
    device = DeviceUse(used_bytes=used, physical_bytes=None, gpu_time_s=gpu_time_s, last_launch=NOW, refusals=2)
    return Reading(
        slice_name="lab-1", generation=0, devices=(device,), processes=(), refusals=(), refusal_count=2, turned_away=0
    )


def rows(slices: list[Registered], reading: Reading | None, **changes: object) -> list[SliceRow]:
    values: dict[str, object] = {
        "reading_of": lambda _: reading,
        "user_of": lambda uid: f"user{uid}",
        "now": NOW,
    }
    return slice_rows(Inventory(cards=(a_card(), a_card(1))), slices, **{**values, **changes})  # type: ignore[arg-type]


def text(inventory: Inventory, slices: list[SliceRow], width: int = 200, **options: object) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        cards = card_rows(inventory, [], lambda _: None)
        console.print(screen(inventory, cards, slices, width=width, now=NOW, **options))  # type: ignore[arg-type]
        return console.export_text()


def test_a_card_says_what_is_promised_held_outside_and_free():
    inventory = Inventory(cards=(a_card(0, CardProcess(7, GIB), CardProcess(8, 2 * GIB)),))

    (row,) = card_rows(inventory, [a_slice()], {7: "lab-1", 8: "made-up"}.get)

    assert (row.promised_bytes, row.outside_bytes) == (6 * GIB, 2 * GIB)
    assert row.free_bytes == 24_564 * MIB - 8 * GIB
    assert (row.slices, row.compute_free_pct) == (1, 75)


def test_parts_of_a_card_are_numbered_below_it():
    part = Device(uuid="MIG-a", name="MIG 1g.10gb", memory_total_bytes=10 * GIB)
    inventory = Inventory(cards=(replace(a_card(1), mig=True, parts=(part,)),))

    assert [row.number for row in card_rows(inventory, [], lambda _: None)] == ["1:0"]


def test_how_busy_a_slice_is_needs_two_looks():
    first = rows([a_slice()], a_reading(gpu_time_s=10))
    before = sample(first, NOW - timedelta(seconds=2))

    second = rows([a_slice()], a_reading(gpu_time_s=10.5), before=before)

    assert first[0].busy_pct is None
    assert second[0].busy_pct == pytest.approx(25)


def test_a_slice_whose_region_cannot_be_read_is_still_listed():
    (row,) = rows([a_slice()], None)

    assert (row.used_bytes, row.limit_bytes, row.processes) == (None, 6 * GIB, 0)
    assert "? of 6 GiB" in text(Inventory(cards=(a_card(),)), [row])


def test_a_slice_on_cards_that_are_not_seen_is_left_out():
    assert rows([a_slice(uuid="GPU-9")], a_reading()) == []


def test_pretended_cards_are_told_apart_by_what_plays_them():
    real, one, other = a_slice("a"), a_slice("b", pretended="/x/1"), a_slice("c", pretended="/x/2")

    assert on_cards([real, one, other], None) == [real]
    assert on_cards([real, one, other], "/x/2") == [other]


def test_the_table_names_user_memory_and_command():
    shown = text(Inventory(cards=(a_card(),), driver="580.65", cuda="13.0"), rows([a_slice()], a_reading()))

    for words in ("1 GPU, 1 slice", "driver 580.65, CUDA 13.0", "user1000", "1 GiB / 6 GiB", "-/25", "2 h"):
        assert words in shown


@pytest.mark.parametrize("width", [20, 60, 100, 200])
def test_the_table_fits_and_keeps_gpu_and_memory(width: int):
    shown = text(Inventory(cards=(a_card(),)), rows([a_slice()], a_reading()), width=width)

    assert all(len(line) <= width for line in shown.splitlines())
    assert "GPU" in shown
    assert "1 GiB" in shown


def test_more_slices_than_lines_are_counted_in_words():
    many = rows([a_slice(f"lab-{number}") for number in range(30)], a_reading())

    assert "more: enlarge the window" in text(Inventory(cards=(a_card(),)), many, height=20)


def test_what_is_wrong_is_said_above_the_table():
    inventory = Inventory(cards=(a_card(),), lost=(LostCard(1, "GPU is lost"),))

    shown = text(inventory, [], label="PRETENDED", problem="no answer")

    for words in ("PRETENDED", "no answer", "GPU 1 does not answer: GPU is lost", NOBODY):
        assert words in shown


def test_a_command_cannot_move_the_cursor():
    shown = text(Inventory(cards=(a_card(),)), rows([a_slice(command="\x1b[2Jx")], a_reading()))

    assert "\x1b" not in shown


def test_json_has_plain_numbers_and_instants():
    data = rows([a_slice()], a_reading())[0].to_json()

    assert data["limit_bytes"] == 6 * GIB
    assert data["policy"] == CorePolicy.FAIR.value
    assert data["last_launch"] == "2026-11-02T10:00:00+00:00"
