"""Tables for a terminal of any width: what matters least is left out first. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from rich.table import Table
from rich.text import Text

from labspawner.units import human_duration

R = TypeVar("R")
UNKNOWN = "-"
_BAR = 8
_FULL, _EMPTY = "█", "░"
_GAP = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Column(Generic[R]):
    """title; width: the least it needs; rank: the larger, the sooner it is left out; cell: from a row, and the time now."""

    title: str
    width: int
    rank: int
    cell: Callable[[R, datetime], Text]
    right: bool = False


def fitting(columns: Sequence[Column[R]], rows: Sequence[R], *, width: int, now: datetime) -> Table:
    """The columns that fit into `width`, in their order; the two of the lowest rank always do."""
    shown = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), expand=False)
    chosen = list(columns)
    while len(chosen) > 2 and sum(column.width + _GAP for column in chosen) > width:
        chosen.remove(max(chosen, key=lambda column: column.rank))
    for column in chosen:
        shown.add_column(
            column.title, justify="right" if column.right else "left", no_wrap=True, overflow="ellipsis",
            min_width=min(column.width, width), header_style="bold",
        )  # fmt: skip
    for row in rows:
        shown.add_row(*(column.cell(row, now) for column in chosen))
    return shown


def plain_text(text: str) -> Text:
    """A name as it is, without what would move the cursor."""
    return Text("".join(letter if letter.isprintable() else "?" for letter in text) or UNKNOWN)


def bar(share: float) -> Text:
    """A share as a bar, 0 to 1 and above, in the colour of how near to full it is."""
    full = min(_BAR, max(0, round(_BAR * share)))
    style = "red" if share >= 0.9 else "yellow" if share >= 0.75 else "green"
    return Text(_FULL * full, style=style).append(_EMPTY * (_BAR - full), style="dim")


def span(span: timedelta) -> str:
    """The largest unit only; a table has no room for more."""
    seconds = max(0, int(span.total_seconds()))
    unit = next((unit for unit in (86400, 3600, 60) if seconds >= unit), 1)
    return human_duration(timedelta(seconds=seconds - seconds % unit))
