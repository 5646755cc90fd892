"""`labspawner gpu check`: whether slices hold on this machine, found out by making one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click

from labspawner import __version__
from labspawner.cli.gpu.looks import json_option
from labspawner.cli.run.choosing import CannotPlace, Wish, exactly, held_by
from labspawner.cli.run.command import Request, in_slice, no_sandbox
from labspawner.cli.run.sight import LABEL, mark_of, pretend_option, seen
from labspawner.errors import LabError
from labspawner.gpu import selftest
from labspawner.gpu.cards import Inventory, capacities, without_strangers
from labspawner.gpu.libvgpu import Library, find_library
from labspawner.gpu.limits import CorePolicy
from labspawner.gpu.nvml import NoDriver
from labspawner.gpu.pretend import DEFAULT_CARDS
from labspawner.gpu.register import Register, Registered, hub_slices, on_cards
from labspawner.model import CardPolicy, Slice

_MOST_BYTES = 2 * 2**30
_LEAST_BYTES = 2**30
"""A context alone takes some hundred MiB of a real card."""

_SLICE = "slice"
_LOAD_S = 30.0
_MAPPED = "import sys; sys.exit('libvgpu' not in open('/proc/self/maps').read())"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was looked at. ok: None where it is worth knowing, and no failure."""

    what: str
    ok: bool | None
    detail: str


@click.command()
@pretend_option
@json_option
def check(pretended: str | None, as_json: bool) -> None:
    """Find out whether slices hold on this machine: library, sandbox, driver, and a slice that is tested.

    Without a GPU the test runs on a pretended one, and says so. Exit status 1, with the reason, where slices do not hold.
    """
    steps: list[Step] = []
    for step in _steps(pretended):
        steps.append(step)
        if not as_json:
            sign = {True: "ok", False: "FAILED", None: "note"}[step.ok]
            click.echo(f"{sign:>6}  {step.what}: {step.detail}")
    failed = [step for step in steps if step.ok is False]
    if as_json:
        click.echo(json.dumps({"ok": not failed, "steps": [asdict(step) for step in steps]}, indent=1))
    if failed:
        raise click.ClickException(f"GPU slices do not hold here: {failed[-1].detail}")
    if not as_json:
        tested = any(step.ok for step in steps if step.what.startswith(_SLICE))
        click.echo("GPU slices hold here." if tested else "No slice was tested.")


def _steps(pretend: str | None) -> Iterator[Step]:
    try:
        library = find_library()
    except LabError as exc:
        yield Step("library", False, str(exc.message))
        return
    yield _loads(library)
    missing = no_sandbox()
    yield Step(
        "sandbox", None if missing else True, missing or "bubblewrap works: /etc/ld.so.preload can be set inside"
    )
    try:
        inventory, slices = _look(pretend)
    except NoDriver as exc:
        yield Step("driver", None, f"{exc.message} What follows is tested on a pretended GPU.")
        pretend = DEFAULT_CARDS
        try:
            inventory, slices = _look(pretend)
        except LabError as error:
            yield Step("pretended GPU", False, str(error.message))
            return
    except LabError as exc:
        yield Step("driver", False, str(exc.message))
        return
    else:
        yield Step("driver", True, _driver(inventory))
    yield from _tested(inventory, slices, pretend)


def _loads(library: Library) -> Step:
    """The library in a process that has no use for it: it must load, and say nothing."""
    try:
        found = subprocess.run(  # noqa: S603 - our own interpreter
            [sys.executable, "-S", "-c", _MAPPED],
            env={**os.environ, "LD_PRELOAD": str(library.path)},
            capture_output=True,
            text=True,
            timeout=_LOAD_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return Step("library", False, f"{library.path} cannot be loaded: {exc}")
    if found.returncode != 0:
        why = (found.stderr.strip().splitlines() or [f"exit status {found.returncode}"])[-1]
        return Step("library", False, f"{library.path} is not loaded: {why}")
    if found.stdout or found.stderr:
        return Step("library", False, f"{library.path} prints into programs: {(found.stderr or found.stdout)[:200]!r}")
    if library.version and library.version != __version__:
        return Step("library", None, f"{library.path} loads; it is of {library.version}, and this is {__version__}")
    return Step("library", True, f"{library.path} loads" + (f", version {library.version}" if library.version else ""))


def _look(pretend: str | None) -> tuple[Inventory, list[Registered]]:
    """The cards, and the slices on them."""
    register = Register.mine()
    with seen(register, pretend) as sight:
        return sight.inventory(), on_cards([*register.slices(), *hub_slices()], sight.state)


def _driver(inventory: Inventory) -> str:
    cards = ", ".join(f"{device.name} ({exactly(device.memory_total_bytes)})" for device in inventory.devices())
    lost = "".join(f"; GPU {lost.index} does not answer: {lost.why}" for lost in inventory.lost)
    return f"{inventory.driver or 'unknown version'}, CUDA {inventory.cuda or '?'}: {cards or 'no cards'}{lost}"


def _tested(inventory: Inventory, slices: list[Registered], pretend: str | None) -> Iterator[Step]:
    """Each device with room, in a slice of its own."""
    what = _SLICE if pretend is None else f"{_SLICE} on a PRETENDED GPU"
    if not inventory.devices():
        yield Step(what, False, "there is no card to make a slice on")
        return
    names = {one.limits.name for one in slices}
    devices = {device.uuid: device for device in inventory.devices()}
    for card in capacities(inventory, held_by(slices)):
        device = devices[card.uuid]
        ours = frozenset(process.pid for process in device.processes or () if mark_of(process.pid) in names)
        free = without_strangers(card, device, ours)
        size = min(_MOST_BYTES, free.memory_free_bytes)
        if size < _LEAST_BYTES or free.compute_free_pct < 1 or free.slots_free == 0:
            yield Step(what, None, f"{device.name} ({device.uuid}) has no room for a test")
            continue
        wish = Wish(gpu=Slice(memory_bytes=size, compute_pct=1), named=(device.uuid,), place=CardPolicy.BINPACK)
        request = Request(wish=wish, policy=CorePolicy.FAIR, pretend=pretend, sandbox="auto", quiet=True)
        step = _test(request, what)
        yield replace(step, detail=f"{device.name} ({device.uuid}): {step.detail}")
    if pretend is not None:
        yield Step("note", None, LABEL)


def _test(request: Request, what: str) -> Step:
    command = [sys.executable, "-I", str(Path(selftest.__file__))]
    with tempfile.TemporaryFile() as output:
        try:
            in_slice(request, command, output=output.fileno())
        except (click.ClickException, CannotPlace, LabError, OSError) as exc:
            return Step(what, False, str(exc))
        output.seek(0)
        said = output.read()
    try:
        found = json.loads(said)
        verdict, reason = str(found["verdict"]), str(found["reason"])
    except (ValueError, KeyError, TypeError):
        return Step(what, False, f"the self-test said {said[:200]!r}")
    return Step(what, verdict == selftest.PASSED, f"{exactly(request.wish.gpu.memory_bytes)}: {verdict}, {reason}")
