"""`labspawner pve-sim`: a simulated Proxmox VE cluster to try things out on, and how `labspawner up` gets one."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from labspawner import vmdemo

if TYPE_CHECKING:
    from labspawner.testing.pve import PveDouble

START_TIMEOUT_S = 90.0
END_TIMEOUT_S = 60.0
_NEEDED = ("proxmoxer", "requests")


@click.command("pve-sim")
@click.option("--port", type=click.IntRange(0, 65535), default=8006, show_default=True,
              help="Port of the first node on 127.0.0.1; 0 for any.")  # fmt: skip
@click.option("--pace", type=click.FloatRange(0.1, 10_000), default=1.0, show_default=True,
              help="How many times as fast as real its clones and boots are.")  # fmt: skip
@click.option("--nodes", type=click.IntRange(1, 8), default=3, show_default=True, help="How many nodes it has.")
@click.option(
    "--profile", type=click.Choice(["8.4", "9"]), default="8.4", show_default=True, help="Which release it is."
)
@click.option("--guests", type=click.Choice(["real", "scripted"]), default="real", show_default=True,
              help="real: JupyterLab in a VM is a process on this machine. scripted: an address that answers.")  # fmt: skip
@click.option("--write", "target", type=click.Path(dir_okay=False, path_type=Path), hidden=True)
@click.option("--lifeline", is_flag=True, hidden=True, help="End when standard input ends.")
def pve_sim(port: int, pace: float, nodes: int, profile: str, guests: str, target: Path | None, lifeline: bool) -> None:
    """Run a simulated Proxmox VE cluster on 127.0.0.1 until Ctrl-C; its VMs end with it.

    Nothing is virtualised: it answers the API as a real cluster does, locks, tasks and faults included.
    """
    from labspawner.testing.pve import PveDouble  # noqa: PLC0415 - what other commands do without
    from labspawner.testing.pve.guest import Guests  # noqa: PLC0415

    _refuse_taken(port)
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: over.set())
    if lifeline:
        threading.Thread(target=_until_eof, args=(over,), daemon=True).start()
    inside = Guests.real() if guests == "real" else Guests.scripted()
    names = [f"pve{number}" for number in range(1, nodes + 1)]
    with PveDouble(nodes=names, profile=profile, guests=inside, clock="real", pace=pace, port=port) as pve:
        settings = settings_of(pve, names)
        described = {"settings": settings, "template": pve.template, "course": str(course_file())}
        if target is not None:
            _write(target, described)
        _greet(pve, settings, profile)
        over.wait()
        click.echo("\nThe simulated cluster ends, with all its VMs.")


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as exc:
            raise click.ClickException(
                f"Port {port} on 127.0.0.1 is taken. Another one: labspawner pve-sim --port 0"
            ) from exc


def course_file() -> Path:
    """The course with a VM on the simulated cluster, as it is installed."""
    package = importlib.import_module("labspawner.testing.pve")
    return Path(package.__path__[0]) / "demo" / "vm-demo.yaml"


def settings_of(pve: PveDouble, nodes: list[str]) -> dict[str, Any]:
    """What makes a provider of kind `proxmox` work on this cluster, token included."""
    return {
        "endpoints": pve.urls,
        "token": pve.token,
        "fingerprint": pve.fingerprint,
        "pool": pve.pool,
        "addresses": f"{pve.address_pool}/24 gw {pve.gateway}",
        "hub_connect_url": "http://127.0.0.1:8081",
        "nodes": {name: {"memory": "64GiB", "cores": 16} for name in nodes},
        "pace": pve.pace,
    }


def _until_eof(over: threading.Event) -> None:
    while os.read(0, 4096):  # unbuffered: a buffer's lock would be held when Python ends
        pass
    over.set()


def _write(target: Path, described: Mapping[str, Any]) -> None:
    """Put the description in place whole; it holds the token."""
    part = target.with_name(target.name + ".part")
    with contextlib.suppress(FileNotFoundError):
        part.unlink()
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump(described, file)
    part.rename(target)


def _greet(pve: PveDouble, settings: Mapping[str, Any], profile: str) -> None:
    click.echo(f"\n  A SIMULATED Proxmox VE {profile} cluster answers. Nothing in it is a virtual machine.\n")
    click.echo(f"  nodes:     {', '.join(pve.urls)}")
    click.echo(f"  token:     {pve.token}   (least rights, in pool {pve.pool})")
    click.echo(f"  templates: {pve.template} (shared storage), {pve.local_template} (on one node)\n")
    click.echo("  In jupyterhub_config.py:\n")
    click.echo('    c.Labspawner.providers["proxmox"] = {')
    for key, value in settings.items():
        click.echo(f"        {key!r}: {value!r},")
    click.echo("    }\n")
    click.echo("  In a course file:\n")
    click.echo(f'    variants: [{{provider: proxmox, template: "{pve.template}", cpu: 2, memory: 2GiB}}]\n')
    click.echo("  Ctrl-C ends it.\n")


# -- for `labspawner up --pve-sim`


@contextlib.contextmanager
def beside(folder: Path, config: Path, pace: float) -> Iterator[Path]:
    """A simulated cluster that runs while this is open, and a configuration with it: `config` and its course.

    It ends with this process, however that goes. Raises ClickException when it does not start.
    """
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise click.ClickException(f"--pve-sim needs {' and '.join(missing)}: pip install 'labspawner[proxmox]'")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    described = folder / "cluster.json"
    described.unlink(missing_ok=True)
    words = ["pve-sim", "--port=0", f"--pace={pace}", f"--write={described}", "--lifeline"]
    command = [sys.executable, "-c", "from labspawner.cli import main; main()", *words]
    with (folder / "cluster.log").open("wb") as log:
        # Its own session: Ctrl-C reaches `up` alone, which ends the hub first.
        cluster = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)  # noqa: S603
        try:
            _wait_for(cluster, described, folder / "cluster.log")
            yield vmdemo.config_for(config, folder)
        finally:
            assert cluster.stdin is not None
            cluster.stdin.close()
            try:
                cluster.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                cluster.kill()
                cluster.wait()
            described.unlink(missing_ok=True)


def _wait_for(cluster: subprocess.Popen[bytes], described: Path, log: Path) -> None:
    until = time.monotonic() + START_TIMEOUT_S
    while not described.exists():
        if cluster.poll() is not None or time.monotonic() > until:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise click.ClickException(f"The simulated cluster did not start.\n{tail}")
        time.sleep(0.05)
