"""`labspawner run`: the command line, and what happens in which order."""

from __future__ import annotations

import functools
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import click

from labspawner.cli.run.child import run_plain, run_sandboxed
from labspawner.cli.run.choosing import CannotPlace, Wish, choose, exactly
from labspawner.cli.run.sandbox import PROGRAM, around, look, preload_text
from labspawner.cli.run.sight import LABEL, forget_pretended, in_words, mark_of, pretend_option, reading, seen
from labspawner.errors import LabError
from labspawner.gpu.cards import Device, Inventory
from labspawner.gpu.folder import LIMITS_INSIDE, NODE_INSIDE, PRELOAD_TEXT, REGION_INSIDE
from labspawner.gpu.libvgpu import find_library
from labspawner.gpu.limits import CorePolicy, DeviceLimit, SliceLimits
from labspawner.gpu.pretend import Pretended
from labspawner.gpu.register import MARK, About, Register, Registered, node_file
from labspawner.model import CardPolicy, Slice
from labspawner.units import parse_bytes, parse_percent

OUR_FAILURE = 125
"""What we end with when it is we who failed, as env(1) and timeout(1) do; the command's own status is its own."""

_TRIAL_S = 60.0
SANDBOX = ("auto", "require", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was typed."""

    wish: Wish
    policy: CorePolicy
    pretend: str | None
    sandbox: str
    quiet: bool


@click.command(context_settings={"allow_interspersed_args": False})
@click.option(
    "--gpu-memory",
    callback=reading(parse_bytes),
    required=True,
    metavar="SIZE",
    help="Memory of the slice, for example 4GiB.",
)
@click.option("--gpu-cores", callback=reading(parse_percent), default="100", show_default=True, metavar="PERCENT",
              help="Percent of the card's compute time.")  # fmt: skip
@click.option("--gpu", "named", multiple=True, metavar="N|UUID",
              help="This card (see `labspawner gpu ls`); may be repeated for several.")  # fmt: skip
@click.option("--gpus", "count", type=click.IntRange(1, 16), default=1, show_default=True,
              help="A slice on each of so many cards.")  # fmt: skip
@click.option("--policy", type=click.Choice([policy.value for policy in CorePolicy]), default="fair", show_default=True,
              help="fair lends idle compute time to others, cap does not, off limits nothing.")  # fmt: skip
@click.option("--place", type=click.Choice([place.value for place in CardPolicy]), default="binpack", show_default=True,
              help="Which card, of those with room.")  # fmt: skip
@click.option("--sandbox", type=click.Choice(SANDBOX), default="auto", show_default=True,
              help="Whether the limit is bolted on with bubblewrap, or only asked for by LD_PRELOAD.")  # fmt: skip
@click.option("--quiet", is_flag=True, help="Say nothing before the command begins.")
@pretend_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    gpu_memory: int,
    gpu_cores: int,
    named: tuple[str, ...],
    count: int,
    policy: str,
    place: str,
    sandbox: str,
    quiet: bool,
    pretended: str | None,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND in a slice of a GPU: labspawner run --gpu-memory 4GiB --gpu-cores 30 -- python train.py

    It and all it starts together get so much memory and compute time. It is your command with your files; its exit status
    and signals are its own. When we fail before it begins, the exit status is 125.
    """
    wish = Wish(
        gpu=Slice(memory_bytes=gpu_memory, compute_pct=gpu_cores), named=named, count=count, place=CardPolicy(place)
    )
    request = Request(wish=wish, policy=CorePolicy(policy), pretend=pretended, sandbox=sandbox, quiet=quiet)
    try:
        status = in_slice(request, command)
    except LabError as exc:
        raise _Failure(in_words(exc)) from exc
    except click.ClickException as exc:
        raise _Failure(exc.message) from exc
    except CannotPlace as exc:
        raise _Failure(str(exc)) from exc
    except OSError as exc:
        raise _Failure(f"The slice cannot be made: {exc}") from exc
    _end_like(status)


def in_slice(request: Request, command: Sequence[str], *, output: int | None = None) -> int:
    """Make a slice, run `command` in it, and remove the slice; the status as `child` has it.

    output: a descriptor for its standard output, else ours. Raises LabError, ClickException, CannotPlace and OSError.
    """
    if Path(LIMITS_INSIDE).exists():
        raise click.ClickException("This is a slice already; one inside another there is not.")
    library = find_library().path
    register = Register.mine()
    missing = no_sandbox() if request.sandbox != "none" else "it was not wanted"
    if missing and request.sandbox == "require":
        raise click.ClickException(f"There is no sandbox here ({missing}), and it is required.")
    with seen(register, request.pretend) as sight:
        inventory, pretended = sight.inventory(), sight.pretended
    about = About(
        command=tuple(command),
        pid=os.getpid(),
        uid=os.getuid(),
        started=datetime.now(timezone.utc),
        sandboxed=not missing,
        pretended=sight.state,
    )
    node = node_file(register)
    choose_limits = functools.partial(_limits, request, inventory, node, about)
    try:
        with register.slice(choose_limits, about=about, preload=preload_text(PRELOAD_TEXT)) as made:
            environment = _environment(made, pretended)
            _say(request, made, inventory, missing)
            if missing:
                courtesy = made.folder.courtesy(library=library, base=environment)
                return run_plain(command, {**environment, **courtesy}, output=output)
            around_it = _sandbox(made, library, node, inventory)
            return run_sandboxed(command, environment, around=around_it, output=output)
    finally:
        forget_pretended(register)


def _limits(
    request: Request, inventory: Inventory, node: Path, about: About, slices: list[Registered], root: Path, name: str
) -> SliceLimits:
    """The limits of a new slice called `name` beside `slices`. Raises CannotPlace."""
    names = {one.limits.name for one in slices}
    pids = {process.pid for device in inventory.devices() for process in device.processes or ()}
    ours = {pid for pid in pids if mark_of(pid) in names}
    wish = request.wish if request.policy is not CorePolicy.OFF else replace(
        request.wish, gpu=replace(request.wish.gpu, compute_pct=1)
    )  # fmt: skip
    devices = choose(wish, inventory, slices, ours=ours)
    return SliceLimits(
        name=name,
        region=REGION_INSIDE if about.sandboxed else str(root / "region"),
        node=NODE_INSIDE if about.sandboxed else str(node),
        policy=request.policy,
        devices=tuple(
            DeviceLimit(
                uuid=device.uuid,
                memory_bytes=request.wish.gpu.memory_bytes,
                cores_pct=request.wish.gpu.compute_pct,
            )
            for device in devices
        ),
    )


def _environment(made: Registered, pretended: Pretended | None) -> dict[str, str]:
    """What the command finds: its slice's cards and no others, for programs that ask their environment first."""
    uuids = ",".join(device.uuid for device in made.limits.devices)
    given = {
        MARK: made.limits.name,
        "CUDA_VISIBLE_DEVICES": uuids,
        "NVIDIA_VISIBLE_DEVICES": uuids,
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    return {**os.environ, **given, **(pretended.environment(os.environ) if pretended else {})}


def _sandbox(
    made: Registered, library: Path, node: Path, inventory: Inventory
) -> Callable[[Sequence[str], int], tuple[Sequence[str], Sequence[str]]]:
    """What stands around the command: the slice's files, and none of the other cards."""
    used = {card.uuid for device in made.limits.devices if (card := inventory.card_of(device.uuid)) is not None}
    hidden = [
        f"/dev/nvidia{card.minor}" for card in inventory.cards if card.uuid not in used and card.minor is not None
    ]
    places = made.folder.places(library=library, node=node)
    surroundings = look(device for device in hidden if Path(device).exists())
    return lambda command, info_fd: around(command, places=places, surroundings=surroundings, info_fd=info_fd)


def no_sandbox() -> str:
    """Why bubblewrap cannot be used here; "" where it can. Found out by trying."""
    program = shutil.which(PROGRAM)
    if program is None:
        return "bubblewrap is missing: apt-get install bubblewrap"
    argv, arguments = around(["/bin/sh", "-c", ":"], places=(), surroundings=look())
    tried = [program, *arguments, *argv[argv.index("{fd}") + 1 :]]
    try:
        found = subprocess.run(tried, capture_output=True, text=True, timeout=_TRIAL_S, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as exc:
        return str(exc)
    return "" if found.returncode == 0 else (found.stderr.strip().splitlines() or ["bubblewrap failed"])[-1]


def _say(request: Request, made: Registered, inventory: Inventory, missing: str) -> None:
    """What begins, and what it is worth, on stderr: stdout is the command's."""
    if request.pretend is not None:
        click.echo(f"labspawner: {LABEL}", err=True)
    if not request.quiet:
        devices = {device.uuid: device for device in inventory.devices()}
        for limit in made.limits.devices:
            click.echo(f"labspawner: {_sentence(devices[limit.uuid], limit, request.policy)}", err=True)
    if missing:
        click.echo(f"labspawner: no sandbox ({missing}): the limit is a courtesy, which a program can undo.", err=True)


def _sentence(device: Device, limit: DeviceLimit, policy: CorePolicy) -> str:
    compute = (
        "all compute time" if policy is CorePolicy.OFF else f"{limit.cores_pct} % of compute time ({policy.value})"
    )
    return f"a slice of {exactly(limit.memory_bytes)} and {compute} on {device.name} ({device.uuid})"


def _end_like(status: int) -> None:
    """End as the command did: with its status, or by its signal."""
    if status < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # its memory is of interest, ours is not
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status if status >= 0 else 128 - status)


class _Failure(click.ClickException):
    exit_code = OUR_FAILURE
