"""`labspawner gpu ls` and `labspawner gpu top`: one look, and a look every few seconds."""

from __future__ import annotations

import asyncio
import json
import pwd
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone

import click
from rich.console import Console, RenderableType
from rich.live import Live

from labspawner.cli.gpu.rows import SORTS, CardRow, SliceRow, card_rows, sample, slice_rows
from labspawner.cli.gpu.table import screen
from labspawner.cli.keyboard import keys, next_key
from labspawner.cli.run.sight import LABEL, Sight, forget_pretended, in_words, mark_of, pretend_option, seen
from labspawner.errors import LabError
from labspawner.gpu import region
from labspawner.gpu.cards import Inventory
from labspawner.gpu.region import BadRegion, Reading
from labspawner.gpu.register import Register, Registered, hub_slices, on_cards

_BY_KEY = {name[0]: name for name in SORTS}
_BETWEEN_LOOKS_S = 1.0
_WIDTH = 160

json_option = click.option("--json", "as_json", is_flag=True, help="Print one object for other programs.")


@click.command()
@pretend_option
@json_option
def ls(pretended: str | None, as_json: bool) -> None:
    """List the cards, the slices on them, and what is free.

    Yours, and those of hubs that you may look at; root sees everybody's.
    """
    with _board(pretended) as board:
        _print(board.look(), as_json=as_json)


@click.command()
@pretend_option
@click.option(
    "--once", is_flag=True, help="Print one table and end. It takes a second, to see how busy the slices are."
)
@json_option
@click.option("--sort", type=click.Choice(sorted(SORTS)), default="memory", show_default=True, help="What comes first.")
@click.option(
    "--every",
    "every_s",
    type=click.FloatRange(0.2, 3600),
    default=2.0,
    show_default=True,
    help="Seconds between looks.",
)
def top(pretended: str | None, once: bool, as_json: bool, sort: str, every_s: float) -> None:
    """Show who holds what of the cards, live.

    q or Ctrl-C ends it; m, b, g, u and s sort by memory, how busy, GPU, user and start.
    """
    with _board(pretended, sort=sort) as board, suppress(KeyboardInterrupt):
        if once or as_json or not sys.stdout.isatty():
            board.look()
            time.sleep(_BETWEEN_LOOKS_S)
            _print(board.look(), as_json=as_json)
        else:
            asyncio.run(watch(board, Console(), every_s=every_s))


@dataclass(frozen=True, slots=True)
class View:
    """What one look saw."""

    inventory: Inventory
    cards: list[CardRow]
    slices: list[SliceRow]
    at: datetime
    label: str = ""

    def shown(self, width: int, *, height: int | None = None, problem: str = "", keys: bool = False) -> RenderableType:
        """As a table."""
        return screen(
            self.inventory,
            self.cards,
            self.slices,
            width=width,
            now=self.at,
            label=self.label,
            problem=problem,
            keys=keys,
            height=height,
        )


@dataclass
class Board:
    """Where the rows come from. sort: what comes first."""

    sight: Sight
    registers: tuple[Register, ...]
    sort: str = "memory"
    now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)
    _before: dict[tuple[str, str], tuple[datetime, float]] = field(default_factory=dict)

    def look(self) -> View:
        """All cards and slices now. Blocks. Raises NoDriver."""
        inventory, at = self.sight.inventory(), self.now()
        there = [one for register in self.registers for one in _of(register)] + hub_slices()
        slices = on_cards(there, self.sight.state)
        rows = slice_rows(
            inventory, slices, reading_of=_reading, user_of=_user, before=self._before, now=at, sort=self.sort
        )
        self._before = {**self._before, **sample(rows, at)}
        label = LABEL if self.sight.pretended else ""
        return View(inventory, card_rows(inventory, slices, mark_of), rows, at, label)


@contextmanager
def _board(pretend: str | None, *, sort: str = "memory") -> Iterator[Board]:
    """A board for as long as NVML is open; what goes wrong is said in a sentence."""
    try:
        registers = Register.all_there_are()
        with seen(registers[0], pretend) as sight:
            yield Board(sight, registers, sort)
    except LabError as exc:
        raise click.ClickException(in_words(exc)) from exc
    finally:
        with suppress(LabError, OSError):
            forget_pretended(Register.mine())


async def watch(board: Board, console: Console, *, every_s: float, keyboard: int | None = None) -> None:
    """Look and draw until q. A driver that does not answer is said on the screen, and asked again.

    keyboard: the descriptor that keys come from; default: standard input, if it is a terminal.
    """
    pressed: asyncio.Queue[str] = asyncio.Queue()
    view = View(Inventory(), [], [], board.now())
    with Live(console=console, screen=True, auto_refresh=False) as live, keys(pressed, keyboard) as reads_keys:
        while True:
            problem = ""
            try:
                view = await asyncio.to_thread(board.look)
            except LabError as exc:
                problem = str(exc.message)
            size = console.size
            live.update(view.shown(size.width, height=size.height, problem=problem, keys=reads_keys), refresh=True)
            key = await next_key(pressed, every_s)
            if key == "q":
                return
            board.sort = _BY_KEY.get(key, board.sort)


def _of(register: Register) -> list[Registered]:
    try:
        return register.slices()
    except OSError:  # another user's, gone meanwhile
        return []


def _reading(one: Registered) -> Reading | None:
    try:
        return region.read(one.folder.region)
    except (OSError, BadRegion):
        return None


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _print(view: View, *, as_json: bool) -> None:
    if as_json:
        found: dict[str, object] = {
            "pretended": bool(view.label),
            "driver": view.inventory.driver,
            "cuda": view.inventory.cuda,
            "cards": [row.to_json() for row in view.cards],
            "lost": [{"number": lost.index, "why": lost.why} for lost in view.inventory.lost],
            "slices": [row.to_json() for row in view.slices],
        }
        click.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    console = Console()
    width = console.width if console.is_terminal else max(console.width, _WIDTH)
    Console(width=width).print(view.shown(width))
