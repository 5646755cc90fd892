"""What the commands that deal with cards share: the machine's cards or pretended ones, and how they are named."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import click

from labspawner.errors import LabError
from labspawner.gpu.cards import Inventory
from labspawner.gpu.nvml import NoDriver, Nvml
from labspawner.gpu.pretend import DEFAULT_CARDS, STATE_ENV, Pretended, find_driver, parse_cards
from labspawner.gpu.register import MARK, Register
from labspawner.units import UnitError

T = TypeVar("T")
LABEL = "PRETENDED GPU: these cards do not exist, and nothing is computed on them."
_STATE = "pretended-"


def reading(parse: Callable[[str], T]) -> Callable[[click.Context, click.Parameter, str | None], T | None]:
    """An option's value as `parse` reads it; what it refuses is said as the option's mistake."""

    def callback(ctx: click.Context, param: click.Parameter, value: str | None) -> T | None:
        try:
            return None if value is None else parse(value)
        except UnitError as exc:
            raise click.BadParameter(str(exc), ctx=ctx, param=param) from exc

    return callback


pretend_option = click.option(
    "--pretend-gpu",
    "pretended",
    is_flag=False,
    flag_value=DEFAULT_CARDS,
    default=None,
    callback=reading(parse_cards),
    metavar="[CARDS]",
    help="Pretend to have cards, for example 2x24GiB: for a look without a GPU. Nothing is computed on them.",
)


@dataclass(frozen=True, slots=True)
class Sight:
    """What there is to see. pretended: None for the machine's own cards."""

    nvml: Nvml
    pretended: Pretended | None

    @property
    def state(self) -> str | None:
        """The file that plays the memory of pretended cards."""
        return None if self.pretended is None else str(self.pretended.state)

    def inventory(self) -> Inventory:
        return self.nvml.inventory()


def pretended_cards(register: Register, cards: str, environment: Mapping[str, str] = os.environ) -> Pretended:
    """Cards that all commands of this user share, for as long as there is a slice on them. Raises SetupError."""
    state = environment.get(STATE_ENV) or str(register.root / f"{_STATE}{cards}")
    return Pretended(folder=find_driver(environment), state=Path(state), cards=cards)


def forget_pretended(register: Register) -> None:
    """Remove the cards that nobody has a slice on any more."""
    used = {one.about.pretended for one in register.slices()}
    for path in register.root.glob(f"{_STATE}*"):
        if str(path) not in used:
            path.unlink(missing_ok=True)


@contextmanager
def seen(register: Register, pretend: str | None) -> Iterator[Sight]:
    """NVML, opened on the cards that are meant. Raises NoDriver, and SetupError where nothing can be pretended."""
    pretended = None if pretend is None else pretended_cards(register, pretend)
    if pretended is not None:
        os.environ.update(pretended.settings)  # the pretended NVML reads it in this process
    with Nvml.open(None if pretended is None else pretended.nvml) as nvml:
        yield Sight(nvml, pretended)


def in_words(error: LabError) -> str:
    """What was wrong, with a way on for who has no driver."""
    hint = "\nTo look around without one: --pretend-gpu" if isinstance(error, NoDriver) else ""
    return f"{error.message}{hint}"


def mark_of(pid: int) -> str | None:
    """The name of the registered slice that a process was started in, as its environment says; None: none, or not ours
    to read."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    prefix = f"{MARK}=".encode()
    return next((word[len(prefix) :].decode("ascii", "replace") for word in variables if word.startswith(prefix)), None)
