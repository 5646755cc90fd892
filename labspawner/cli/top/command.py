"""`labspawner top`: the command, and the loop that looks and draws."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

import click
from rich.console import Console
from rich.live import Live

from labspawner.cli.keyboard import keys, next_key
from labspawner.cli.servers import config_option, data_option, settings_from
from labspawner.cli.top.rows import SORTS, Row, rows_of
from labspawner.cli.top.table import screen
from labspawner.cli.up import find_config
from labspawner.config import Settings, open_providers
from labspawner.errors import LabError
from labspawner.lifecycle.book import LeaseBook
from labspawner.lifecycle.usages import MIN_SPAN_S, Usages
from labspawner.store import Store

T = TypeVar("T")
_BY_KEY = {name[0]: name for name in SORTS}
_BETWEEN_LOOKS_S = MIN_SPAN_S + 0.1  # two readings nearer to each other say little about the CPU
_PATIENCE_S = 10.0


@click.command()
@config_option
@data_option
@click.option("--once", is_flag=True, help="Print one table and end. It takes a second, to see how busy the CPUs are.")
@click.option("--json", "as_json", is_flag=True, help="Print one list for other programs and end.")
@click.option("--sort", type=click.Choice(sorted(SORTS)), default="memory", show_default=True, help="What comes first.")
@click.option(
    "--every", "every_s", type=click.FloatRange(1, 3600), default=3.0, show_default=True, help="Seconds between looks."
)
def top(config: Path | None, data_dir: Path | None, once: bool, as_json: bool, sort: str, every_s: float) -> None:
    """Show who runs what, and what it uses of its limits.

    On the hub's machine, as the hub's user or root. It looks at leases and hosts and changes nothing. q or Ctrl-C ends
    it; m, c, p, u, s, a and e sort by memory, CPU, processes, user, start, activity and end.
    """
    try:
        settings = settings_from(config or find_config(), data_dir)
        if once or as_json or not sys.stdout.isatty():
            rows = asyncio.run(_opened(settings, lambda board: board.settled(sort)))
            _print(rows, as_json=as_json)
        else:
            asyncio.run(_opened(settings, lambda board: watch(board, Console(), sort=sort, every_s=every_s)))
    except LabError as exc:
        raise click.ClickException(f"{exc.message} ({exc})" if str(exc) != str(exc.message) else str(exc)) from exc
    except KeyboardInterrupt:
        pass


@dataclass(frozen=True, slots=True)
class Board:
    """Where the rows come from."""

    store: Store
    book: LeaseBook
    usages: Usages

    async def rows(self, sort: str) -> list[Row]:
        """All servers now. Raises StoreUnavailable; a host that does not answer costs only its figures."""
        leases = await self.book.reload()
        standings = await self.store.standings([lease.id for lease in leases])
        return rows_of(leases, standings, await self.usages.of(leases), sort=sort)

    async def settled(self, sort: str) -> list[Row]:
        """All servers, looked at twice, so that it is known how busy they are."""
        if await self.rows(sort):
            await asyncio.sleep(_BETWEEN_LOOKS_S)
        return await self.rows(sort)


async def _opened(settings: Settings, work: Callable[[Board], Awaitable[T]]) -> T:
    """Run `work` with the leases and the providers of this hub, and give all back."""
    store = Store.open(settings.database_url)
    providers = open_providers(settings)
    try:
        await store.migrate()
        book = LeaseBook(store, settings.hub_id, _now)
        usages = Usages(providers, book, fresh_s=MIN_SPAN_S, patience_s=_PATIENCE_S)
        try:
            return await work(Board(store, book, usages))
        finally:
            await usages.close()
    finally:
        for provider in providers.values():
            await provider.close()
        await store.close()


async def watch(board: Board, console: Console, *, sort: str, every_s: float, keyboard: int | None = None) -> None:
    """Look and draw until q. A database that does not answer is said on the screen, and asked again.

    keyboard: the descriptor that keys come from; default: standard input, if it is a terminal.
    """
    pressed: asyncio.Queue[str] = asyncio.Queue()
    rows: list[Row] = []
    with Live(console=console, screen=True, auto_refresh=False) as live, keys(pressed, keyboard) as reads_keys:
        while True:
            problem = ""
            try:
                rows = await board.rows(sort)
            except LabError as exc:
                problem = str(exc.message)
            size = console.size
            shown = screen(rows, width=size.width, height=size.height, now=_now(), problem=problem, keys=reads_keys)
            live.update(shown, refresh=True)
            key = await next_key(pressed, every_s)
            if key == "q":
                return
            sort = _BY_KEY.get(key, sort)


def _print(rows: list[Row], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([row.to_json() for row in rows], indent=1, ensure_ascii=False))
    else:
        console = Console()
        width = console.width if console.is_terminal else max(console.width, 160)
        Console(width=width).print(screen(rows, width=width, now=_now()))


def _now() -> datetime:
    return datetime.now(timezone.utc)
