"""The rows as a table that fits the terminal: what matters least is left out first. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from labspawner.cli.top.rows import Row
from labspawner.model import Phase
from labspawner.units import human_bytes, human_duration

_BAR = 8
_FULL, _EMPTY = "█", "░"
_GAP = 2
_UNKNOWN = "-"
NOBODY = "No server is running. Students start one on the hub's page."
KEYS = "q quit   m memory   g GPU   c CPU   p processes   u user   s since   a activity   e end"
_STYLES = {"warn": "yellow", "cull": "bold red"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """title; width: the least it needs; rank: the larger, the sooner it is left out."""

    title: str
    width: int
    rank: int
    cell: Callable[[Row, datetime], Text]
    right: bool = False


def summary(rows: Sequence[Row], *, now: datetime) -> str:
    """One line over all servers."""
    running = [row for row in rows if row.phase is Phase.READY]
    memory = sum(row.memory_bytes or 0 for row in rows)
    cores = sum(row.cores or 0.0 for row in rows)
    words = [f"{len(running)} running"]
    if len(rows) > len(running):
        words.append(f"{len(rows) - len(running)} starting or stopping")
    warned = sum(row.verdict in {"warn", "cull"} for row in running)
    if warned:
        words.append(f"{warned} about to end")
    return f"{', '.join(words)}; {human_bytes(memory)}, {100 * cores:.0f} % CPU   {now.astimezone():%H:%M:%S}"


def screen(
    rows: Sequence[Row], *, width: int, now: datetime, height: int | None = None, problem: str = "", keys: bool = False
) -> RenderableType:
    """All that is shown. height: lines there are for it; what does not fit is counted in words."""
    parts: list[RenderableType] = [Text(summary(rows, now=now), style="bold", no_wrap=True, overflow="ellipsis")]
    if problem:
        parts.append(Text(problem, style="bold red"))
    if rows:
        room = len(rows) if height is None else max(1, height - 4 - bool(problem))
        parts.append(table(rows[:room], width=width, now=now))
        if len(rows) > room:
            parts.append(Text(f"and {len(rows) - room} more: enlarge the window, or --once"))
    elif not problem:
        parts.append(Text(NOBODY))
    if keys:
        parts.append(Text(KEYS, style="dim", no_wrap=True, overflow="ellipsis"))
    return Group(*parts)


def table(rows: Sequence[Row], *, width: int, now: datetime) -> Table:
    """The columns that fit into `width`; the user and the memory always do. No GPU where nobody has one."""
    shown = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), expand=False)
    sliced = any(row.gpu_memory_limit_bytes for row in rows)
    chosen = _that_fit(width, [column for column in _COLUMNS if sliced or column.cell is not _gpu])
    for column in chosen:
        shown.add_column(
            column.title, justify="right" if column.right else "left", no_wrap=True, overflow="ellipsis",
            min_width=min(column.width, width), header_style="bold",
        )  # fmt: skip
    for row in rows:
        shown.add_row(*(column.cell(row, now) for column in chosen))
    return shown


def _that_fit(width: int, columns: Sequence[_Column]) -> list[_Column]:
    chosen = list(columns)
    while len(chosen) > 2 and sum(column.width + _GAP for column in chosen) > width:
        chosen.remove(max(chosen, key=lambda column: column.rank))
    return chosen


def plain_text(text: str) -> Text:
    """A name as it is, without what would move the cursor."""
    return Text("".join(letter if letter.isprintable() else "?" for letter in text) or _UNKNOWN)


def _memory(row: Row, _now: datetime) -> Text:
    if row.memory_bytes is None:
        return Text(_UNKNOWN)
    used = human_bytes(row.memory_bytes)
    if not row.memory_limit_bytes:
        return Text(used)
    shown = bar(row.memory_bytes / row.memory_limit_bytes)
    return shown.append(f" {used} / {human_bytes(row.memory_limit_bytes)}", style="none")


def bar(share: float) -> Text:
    """A share as a bar, 0 to 1 and above, in the colour of how near to full it is."""
    full = min(_BAR, max(0, round(_BAR * share)))
    style = "red" if share >= 0.9 else "yellow" if share >= 0.75 else "green"
    return Text(_FULL * full, style=style).append(_EMPTY * (_BAR - full), style="dim")


def _gpu(row: Row, _now: datetime) -> Text:
    if row.gpu_memory_bytes is None or not row.gpu_memory_limit_bytes:
        return Text(_UNKNOWN)
    return Text(f"{human_bytes(row.gpu_memory_bytes)} / {human_bytes(row.gpu_memory_limit_bytes)}")


def _cpu(row: Row, _now: datetime) -> Text:
    if row.cores is None:
        return Text(_UNKNOWN)
    limit = f"/{100 * row.cpu_limit:.0f}" if row.cpu_limit else ""
    return Text(f"{100 * row.cores:.0f}{limit}")


def _verdict(row: Row, now: datetime) -> Text:
    if row.phase is not Phase.READY:
        return Text(row.phase.value, style="cyan")
    if row.verdict is None:
        return Text(_UNKNOWN)
    words = row.verdict
    if row.ends_at is not None and row.verdict != "cull":
        words += f", ends in {span(row.ends_at - now)}"
    if row.reason:
        words += f": {row.reason}"
    return Text(words, style=_STYLES.get(row.verdict, ""))


def _ago(instant: datetime | None, now: datetime) -> Text:
    return Text(_UNKNOWN if instant is None else span(now - instant))


def span(span: timedelta) -> str:
    """The largest unit only; a table has no room for more."""
    seconds = max(0, int(span.total_seconds()))
    unit = next((unit for unit in (86400, 3600, 60) if seconds >= unit), 1)
    return human_duration(timedelta(seconds=seconds - seconds % unit))


def _disk(row: Row, _now: datetime) -> Text:
    if row.disk_bytes is None:
        return Text(_UNKNOWN)
    limit = f" / {human_bytes(row.disk_limit_bytes)}" if row.disk_limit_bytes else ""
    return Text(human_bytes(row.disk_bytes) + limit)


_COLUMNS = (
    _Column(title="user", width=10, rank=0, cell=lambda row, _: plain_text(row.user)),
    _Column(title="server", width=6, rank=6, cell=lambda row, _: plain_text(row.server_name)),
    _Column(title="profile", width=12, rank=4, cell=lambda row, _: plain_text(row.profile)),
    _Column(title="provider", width=8, rank=8, cell=lambda row, _: plain_text(row.provider)),
    _Column(title="where", width=7, rank=9, cell=lambda row, _: plain_text(row.where)),
    _Column(title="since", width=6, rank=5, right=True, cell=lambda row, now: _ago(row.since, now)),
    _Column(title="active", width=6, rank=3, right=True, cell=lambda row, now: _ago(row.last_activity, now)),
    _Column(title="memory", width=26, rank=1, cell=_memory),
    _Column(title="GPU memory", width=16, rank=2, cell=_gpu),
    _Column(title="CPU %", width=7, rank=2, right=True, cell=_cpu),
    _Column(title="procs", width=5, rank=7, right=True,
            cell=lambda row, _: Text(_UNKNOWN if row.processes is None else str(row.processes))),
    _Column(title="disk", width=16, rank=10, cell=_disk),
    _Column(title="verdict", width=22, rank=5, cell=_verdict),
)  # fmt: skip
