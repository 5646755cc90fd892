"""The rows as tables that fit the terminal: what matters least is left out first. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.text import Text

from labspawner.cli.columns import UNKNOWN, Column, bar, fitting, plain_text, span
from labspawner.cli.gpu.rows import CardRow, SliceRow
from labspawner.cli.run.choosing import exactly
from labspawner.gpu.cards import Inventory
from labspawner.gpu.limits import CorePolicy

NOBODY = "No slices. Start one: labspawner run --gpu-memory 4GiB -- python train.py"
KEYS = "q quit   m memory   b busy   g GPU   u user   s since"


def screen(
    inventory: Inventory,
    cards: Sequence[CardRow],
    slices: Sequence[SliceRow],
    *,
    width: int,
    now: datetime,
    label: str = "",
    problem: str = "",
    keys: bool = False,
    height: int | None = None,
) -> RenderableType:
    """All that is shown. label: what must be said of these cards; height: lines there are for it."""
    versions = {"driver": inventory.driver, "CUDA": inventory.cuda}
    driver = ", ".join(f"{what} {version}" for what, version in versions.items() if version)
    head = f"{_count(len(cards), 'GPU')}, {_count(len(slices), 'slice')}   {driver}   {now.astimezone():%H:%M:%S}"
    parts: list[RenderableType] = [Text(head, style="bold", no_wrap=True, overflow="ellipsis")]
    parts += [Text(label, style="bold black on yellow")] if label else []
    parts += [Text(problem, style="bold red")] if problem else []
    parts += [Text(f"GPU {lost.index} does not answer: {lost.why}", style="bold red") for lost in inventory.lost]
    parts.append(fitting(_CARDS, cards, width=width, now=now))
    room = len(slices) if height is None else max(1, height - 6 - len(parts) - len(cards))
    if slices:
        parts += [Text(), fitting(_SLICES, slices[:room], width=width, now=now)]
        if len(slices) > room:
            parts.append(Text(f"and {len(slices) - room} more: enlarge the window, or --once"))
    else:
        parts.append(Text(NOBODY))
    if keys:
        parts.append(Text(KEYS, style="dim", no_wrap=True, overflow="ellipsis"))
    return Group(*parts)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _size(size: int | None) -> Text:
    return Text(UNKNOWN if size is None else exactly(size))


def _percent(value: float | None) -> Text:
    return Text(UNKNOWN if value is None else f"{value:.0f}")


def _held(row: SliceRow, _now: datetime) -> Text:
    if row.used_bytes is None:
        return Text(f"? of {exactly(row.limit_bytes)}")
    text = bar(row.used_bytes / row.limit_bytes)
    return text.append(f" {exactly(row.used_bytes)} / {exactly(row.limit_bytes)}", style="none")


def _cores(row: SliceRow, _now: datetime) -> Text:
    limit = "" if row.policy is CorePolicy.OFF else f"/{row.cores_pct}"
    return Text((UNKNOWN if row.busy_pct is None else f"{row.busy_pct:.0f}") + limit)


def _promised(row: CardRow, _now: datetime) -> Text:
    return bar(row.promised_bytes / row.total_bytes).append(f" {exactly(row.promised_bytes)}", style="none")


def _work(row: SliceRow, now: datetime) -> Text:
    return Text(UNKNOWN if row.last_launch is None else span(now - row.last_launch))


def _refused(row: SliceRow, _now: datetime) -> Text:
    return Text(str(row.refusals), style="yellow" if row.refusals else "")


_CARDS: tuple[Column[CardRow], ...] = (
    Column(title="GPU", width=3, rank=0, cell=lambda row, _: Text(row.number)),
    Column(title="name", width=14, rank=3, cell=lambda row, _: plain_text(row.name)),
    Column(title="memory", width=10, rank=4, right=True, cell=lambda row, _: _size(row.total_bytes)),
    Column(title="promised", width=19, rank=2, cell=_promised),
    Column(title="free", width=10, rank=1, right=True, cell=lambda row, _: _size(row.free_bytes)),
    Column(title="compute free %", width=14, rank=5, right=True, cell=lambda row, _: _percent(row.compute_free_pct)),
    Column(title="used", width=10, rank=6, right=True, cell=lambda row, _: _size(row.used_bytes)),
    Column(title="outside", width=10, rank=7, right=True, cell=lambda row, _: _size(row.outside_bytes)),
    Column(title="busy %", width=6, rank=8, right=True, cell=lambda row, _: _percent(row.utilisation_pct)),
    Column(title="uuid", width=40, rank=9, cell=lambda row, _: plain_text(row.uuid)),
)
_SLICES: tuple[Column[SliceRow], ...] = (
    Column(title="GPU", width=3, rank=1, cell=lambda row, _: Text(row.number)),
    Column(title="user", width=8, rank=3, cell=lambda row, _: plain_text(row.user)),
    Column(title="memory", width=28, rank=0, cell=_held),
    Column(title="busy %", width=7, rank=2, right=True, cell=_cores),
    Column(title="procs", width=5, rank=7, right=True, cell=lambda row, _: Text(str(row.processes))),
    Column(title="since", width=6, rank=5, right=True, cell=lambda row, now: Text(span(now - row.started))),
    Column(title="launch", width=6, rank=6, right=True, cell=_work),
    Column(title="refused", width=7, rank=8, right=True, cell=_refused),
    Column(title="held by", width=8, rank=9,
            cell=lambda row, _: Text("sandbox" if row.sandboxed else "courtesy", style="" if row.sandboxed else "yellow")),
    Column(title="slice", width=18, rank=10, cell=lambda row, _: plain_text(row.name)),
    Column(title="command", width=16, rank=4, cell=lambda row, _: plain_text(row.command)),
)  # fmt: skip
