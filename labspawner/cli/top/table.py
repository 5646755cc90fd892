"""The rows as a table that fits the terminal: what matters least is left out first. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from labspawner.cli.columns import UNKNOWN, Column, bar, fitting, plain_text, span
from labspawner.cli.top.rows import Row
from labspawner.model import Phase
from labspawner.units import human_bytes

NOBODY = "No server is running. Students start one on the hub's page."
KEYS = "q quit   m memory   g GPU   c CPU   p processes   u user   s since   a activity   e end"
_STYLES = {"warn": "yellow", "cull": "bold red"}


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
    sliced = any(row.gpu_memory_limit_bytes for row in rows)
    columns = [column for column in _COLUMNS if sliced or column.cell is not _gpu]
    return fitting(columns, rows, width=width, now=now)


def _memory(row: Row, _now: datetime) -> Text:
    if row.memory_bytes is None:
        return Text(UNKNOWN)
    used = human_bytes(row.memory_bytes)
    if not row.memory_limit_bytes:
        return Text(used)
    shown = bar(row.memory_bytes / row.memory_limit_bytes)
    return shown.append(f" {used} / {human_bytes(row.memory_limit_bytes)}", style="none")


def _gpu(row: Row, _now: datetime) -> Text:
    if row.gpu_memory_bytes is None or not row.gpu_memory_limit_bytes:
        return Text(UNKNOWN)
    return Text(f"{human_bytes(row.gpu_memory_bytes)} / {human_bytes(row.gpu_memory_limit_bytes)}")


def _cpu(row: Row, _now: datetime) -> Text:
    if row.cores is None:
        return Text(UNKNOWN)
    limit = f"/{100 * row.cpu_limit:.0f}" if row.cpu_limit else ""
    return Text(f"{100 * row.cores:.0f}{limit}")


def _verdict(row: Row, now: datetime) -> Text:
    if row.phase is not Phase.READY:
        return Text(row.phase.value, style="cyan")
    if row.verdict is None:
        return Text(UNKNOWN)
    words = row.verdict
    if row.ends_at is not None and row.verdict != "cull":
        words += f", ends in {span(row.ends_at - now)}"
    if row.reason:
        words += f": {row.reason}"
    return Text(words, style=_STYLES.get(row.verdict, ""))


def _ago(instant: datetime | None, now: datetime) -> Text:
    return Text(UNKNOWN if instant is None else span(now - instant))


def _disk(row: Row, _now: datetime) -> Text:
    if row.disk_bytes is None:
        return Text(UNKNOWN)
    limit = f" / {human_bytes(row.disk_limit_bytes)}" if row.disk_limit_bytes else ""
    return Text(human_bytes(row.disk_bytes) + limit)


_COLUMNS: tuple[Column[Row], ...] = (
    Column(title="user", width=10, rank=0, cell=lambda row, _: plain_text(row.user)),
    Column(title="server", width=6, rank=6, cell=lambda row, _: plain_text(row.server_name)),
    Column(title="profile", width=12, rank=4, cell=lambda row, _: plain_text(row.profile)),
    Column(title="provider", width=8, rank=8, cell=lambda row, _: plain_text(row.provider)),
    Column(title="where", width=7, rank=9, cell=lambda row, _: plain_text(row.where)),
    Column(title="since", width=6, rank=5, right=True, cell=lambda row, now: _ago(row.since, now)),
    Column(title="active", width=6, rank=3, right=True, cell=lambda row, now: _ago(row.last_activity, now)),
    Column(title="memory", width=26, rank=1, cell=_memory),
    Column(title="GPU memory", width=16, rank=2, cell=_gpu),
    Column(title="CPU %", width=7, rank=2, right=True, cell=_cpu),
    Column(title="procs", width=5, rank=7, right=True,
            cell=lambda row, _: Text(UNKNOWN if row.processes is None else str(row.processes))),
    Column(title="disk", width=16, rank=10, cell=_disk),
    Column(title="verdict", width=22, rank=5, cell=_verdict),
)  # fmt: skip
