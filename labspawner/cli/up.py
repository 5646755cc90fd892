"""`labspawner up`: a hub on this machine, from one command."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import click
import psutil

from labspawner.cli.pve_sim import beside
from labspawner.demo import ACCOUNTS, PASSWORD_ENV
from labspawner.errors import SetupError
from labspawner.gpu.libvgpu import find_library
from labspawner.gpu.pretend import DEFAULT_CARDS, find_driver, parse_cards
from labspawner.providers.local.slices.options import PRETEND_GPU_ENV
from labspawner.units import UnitError

START_TIMEOUT_S = 300.0  # of a hub that lives; a machine that is busy may need minutes
STOP_TIMEOUT_S = 60.0  # then it is killed, and its proxy stays until `up` is called again
LOG_LINES = 25
WRONG_SETTING = ("so the hub does not start: ", "labspawner.errors.BadConfig: ")
SHARE = Path(__file__).parent.parent / "share"


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=8000, envvar="LABSPAWNER_PORT", show_default=True,
              help="Port on 127.0.0.1.")  # fmt: skip
@click.option("--config", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="The hub's configuration. Default: ./jupyterhub_config.py, else the one labspawner brings.")  # fmt: skip
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), default=Path(".labspawner"),
              envvar="LABSPAWNER_DATA_DIR", show_default=True, help="Databases, homes and logs.")  # fmt: skip
@click.option("--pretend-gpu", metavar="[CARDS]", is_flag=False, flag_value=DEFAULT_CARDS, default=None,
              help=f"Pretend to have GPUs, to see how slices work: 2x24GiB for two. Default: {DEFAULT_CARDS}.")  # fmt: skip
@click.option("--pve-sim", "pve_sim", metavar="[PACE]", is_flag=False, flag_value=1.0, default=None,
              type=click.FloatRange(0.1, 10_000),
              help="Simulate a Proxmox VE cluster, to see how a VM of one's own works; 10: ten times as fast.")  # fmt: skip
@click.option("--verbose", is_flag=True, help="Show the hub's log here instead of writing it to the data folder.")
def up(
    port: int, config: Path | None, data_dir: Path, pretend_gpu: str | None, pve_sim: float | None, verbose: bool
) -> None:
    """Start a hub on 127.0.0.1 with demo accounts, and run until Ctrl-C.

    Students' servers outlive it: start it again and they are found, or end them with `labspawner down`.
    """
    config = config or find_config()
    pretending = {} if pretend_gpu is None else _pretend(pretend_gpu)
    data_dir = _usable(data_dir)
    _refuse_taken(port, data_dir)
    password = os.environ.get(PASSWORD_ENV) or secrets.token_hex(4)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        **pretending,
        PASSWORD_ENV: password,
        "LABSPAWNER_PORT": str(port),
        "LABSPAWNER_DATA_DIR": str(data_dir),
        # Running servers know the hub by this port, so a later hub on the same data needs the same one.
        "LABSPAWNER_HUB_PORT": os.environ.get("LABSPAWNER_HUB_PORT") or str(_kept_port(data_dir / "hub.port", 8081)),
        "LABSPAWNER_PROXY_API_PORT": os.environ.get("LABSPAWNER_PROXY_API_PORT") or str(_free_port(8001)),
    }
    log_file = data_dir / "hub.log"
    with contextlib.ExitStack() as stack:
        whole = config
        if pve_sim is not None:
            click.echo("Starting a simulated Proxmox VE cluster ...")
            whole = stack.enter_context(beside(data_dir / "pve-sim", config, pve_sim))
        click.echo(f"Starting the hub of {config} (log: {'here' if verbose else log_file}) ...")
        hub = stack.enter_context(_hub(whole, environment, data_dir, None if verbose else log_file))
        _wait_until_healthy(hub, f"http://127.0.0.1:{port}/hub/health", log_file)
        _greet(port, password, pretends=pretend_gpu is not None, simulates=pve_sim is not None)
        code = hub.wait()
        if code != 0:
            raise click.ClickException(f"The hub stopped with exit code {code}.\n{_tail(log_file)}")


def find_config(folders: tuple[Path, ...] = (Path(), SHARE)) -> Path:
    """The configuration in the current folder, else the one in the wheel."""
    for folder in folders:
        candidate = folder / "jupyterhub_config.py"
        if candidate.is_file():
            return candidate.absolute()
    raise click.ClickException("There is no jupyterhub_config.py here. Name one: labspawner up --config FILE")


def _pretend(cards: str) -> dict[str, str]:
    """What makes the hub give out slices of cards that do not exist."""
    try:
        parse_cards(cards)
        find_driver()
        find_library()
    except UnitError as exc:
        raise click.ClickException(f"--pretend-gpu: {exc}") from exc
    except SetupError as exc:
        raise click.ClickException(f"--pretend-gpu: {exc.message}") from exc
    return {PRETEND_GPU_ENV: cards}


def _usable(data_dir: Path) -> Path:
    data_dir = data_dir.absolute()
    probe = data_dir / ".writable"
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe.write_text("")
        probe.unlink()
    except OSError as exc:
        raise click.ClickException(
            f"The data folder cannot be used: {exc}. Name another one: labspawner up --data-dir FOLDER"
        ) from exc
    return data_dir


def _refuse_taken(port: int, data_dir: Path) -> None:
    if _is_free(port):
        return
    hub = _process_in(data_dir / "hub.pid", "jupyterhub")
    proxy = _process_in(data_dir / "proxy.pid", "configurable-http-proxy")
    if hub is None and proxy is not None:
        click.echo(f"Ending the proxy of a hub that was killed (pid {proxy.pid}) ...")
        _end(proxy)
        if _is_free(port):
            return
    hint = f" The hub of an earlier run is still there: kill {hub.pid}" if hub is not None else ""
    other = port + 1 if port < 65535 else 8000
    raise click.ClickException(
        f"Port {port} on 127.0.0.1 is taken. Stop what listens there, or take another: labspawner up --port {other}."
        + hint
    )


def _process_in(pid_file: Path, command: str) -> psutil.Process | None:
    """The process that `pid_file` names, where it lives and is what we take it for."""
    try:
        process = psutil.Process(int(pid_file.read_text()))
        return process if any(command in word for word in process.cmdline()) else None
    except (OSError, ValueError, psutil.Error):
        return None


def _end(process: psutil.Process) -> None:
    """End a process, by force where it does not go; it may be gone at any moment."""
    for ask in (process.terminate, process.kill):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
            ask()
            process.wait(5)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _kept_port(file: Path, preferred: int) -> int:
    """The port that `file` names, if it is free; else another one, which `file` names from now on."""
    try:
        kept = int(file.read_text())
    except (OSError, ValueError):
        kept = preferred
    port = _free_port(kept)
    file.write_text(f"{port}\n")
    return port


def _free_port(preferred: int) -> int:
    if _is_free(preferred):
        return preferred
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def _hub(
    config: Path, environment: dict[str, str], data_dir: Path, log_file: Path | None
) -> Iterator[subprocess.Popen[bytes]]:
    """The hub as a child, ended gently on the way out. SIGTERM to us counts as Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    command = [sys.executable, "-m", "jupyterhub", "-f", str(config)]
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(log_file.open("ab")) if log_file else None
        # Its own session: Ctrl-C reaches us alone, and we end it in order.
        hub = subprocess.Popen(  # noqa: S603 - our own interpreter and configuration
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        pid_file = data_dir / "hub.pid"
        pid_file.write_text(f"{hub.pid}\n")
        try:
            yield hub
        except KeyboardInterrupt:
            click.echo(
                "\nStopping the hub. Servers keep running: `labspawner up` finds them, `labspawner down` ends them."
            )
        finally:
            hub.terminate()
            try:
                hub.wait(timeout=STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                hub.kill()
                hub.wait()
            pid_file.unlink(missing_ok=True)


def _wait_until_healthy(hub: subprocess.Popen[bytes], url: str, log_file: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if hub.poll() is not None:
            raise click.ClickException(f"The hub did not start (exit code {hub.returncode}).\n{_why(log_file)}")
        try:
            with urllib.request.urlopen(url, timeout=10):  # noqa: S310 - our own loopback URL
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise click.ClickException(f"The hub does not answer after {START_TIMEOUT_S:.0f} s.\n{_tail(log_file)}")


def _greet(port: int, password: str, *, pretends: bool = False, simulates: bool = False) -> None:
    click.echo(f"\n  labspawner is ready: http://127.0.0.1:{port}/\n")
    click.echo(f"  accounts: {', '.join(ACCOUNTS)}")
    click.echo(f"  password: {password}\n")
    click.echo("  This is a demo, for this machine alone.")
    if pretends:
        click.echo("  Its GPU is pretended: slices behave like real ones, and nothing is computed on them.")
    if simulates:
        click.echo(
            "  Its Proxmox VE cluster is SIMULATED: JupyterLab in a VM runs on this computer, without isolation,"
        )
        click.echo("  and ends with this command. Course: Virtual machines (simulated).")
    if shutil.which("bwrap") is None:
        click.echo("  Servers are not isolated from one another: bubblewrap is missing (apt-get install bubblewrap).")
    click.echo("  Ctrl-C stops the hub.\n")


def _why(log_file: Path) -> str:
    """The sentence about a wrong setting, where that is what ended the hub; else the last lines of its log."""
    tail = _tail(log_file)
    for line in reversed(tail.splitlines()):
        for sign in WRONG_SETTING:
            if sign in line:
                return line.partition(sign)[2]
    return tail


def _tail(log_file: Path) -> str:
    try:
        lines = log_file.read_text(errors="replace").splitlines()[-LOG_LINES:]
    except OSError:
        return ""
    return f"The last lines of {log_file}:\n" + "\n".join(f"  {line}" for line in lines)
