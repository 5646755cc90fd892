#!/usr/bin/env python3
"""labspawner-guest: starts a student's Jupyter server in a VM, as the hub asks through the guest agent.

One file without dependencies, for Python 3.8 and later, so that a template's author puts it in place with one command; that
is also why it is longer than other files. What it reads and prints is described where labspawner keeps it, in
labspawner/guest/__init__.py. It runs as root. No secret is ever printed or put on a command line.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import glob
import hashlib
import http.client
import json
import os
import pwd
import re
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, NoReturn
from urllib.parse import urlsplit

PROTOCOL = 1
UNIT = "labspawner-server.service"
HELPER = "/usr/local/sbin/labspawner-guest"
MAX_INPUT_BYTES = 64 * 1024
MAX_LOG_LINES = 1000
SEARCH_PATH = ("/opt/labspawner/bin", "/opt/jupyterhub/bin", "/opt/conda/bin", "/usr/local/bin", "/usr/bin", "/bin")
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
STOP_S = 20.0
KILL_S = 10.0  # from SIGKILL until the kernel has buried everybody
ASK_S = 3.0
CALL_HOME_FOR_S = 600.0
USER_DATA = "/var/lib/cloud/instance/user-data.txt"
HINT = re.compile(
    r"""^password:[ ]*["']?\$6\$labspawner\$([A-Za-z0-9_-]{22,200})\$([A-Za-z0-9_-]{0,1000})["']?[ ]*$""", re.M
)
MIN_FREE_BYTES = 1 << 30
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|COOKIE|KEY")
UNIT_TEXT = """\
[Unit]
Description=The Jupyter server of this machine's student (labspawner)
After=network-online.target

[Service]
ExecStart={helper} run
ExecStopPost=-{helper} ended
KillMode=mixed
TimeoutStopSec=20
OOMPolicy=continue
"""
CALL_HOME_UNIT_TEXT = """\
[Unit]
Description=Asks the hub for the Jupyter server of this machine's student (labspawner)
Wants=network-online.target
After=network-online.target cloud-config.service

[Service]
Type=oneshot
ExecStart=-{helper} call-home

[Install]
WantedBy=cloud-init.target
"""


class Refused(Exception):
    """What was asked for cannot be done. reason: one of the protocol's codes."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


# -- what the hub asks for: pure ---------------------------------------------------------------------------------------


def read_request(raw: bytes) -> dict[str, Any]:
    """The request of `configure`, checked and complete. Raises Refused."""
    if len(raw) > MAX_INPUT_BYTES:
        raise Refused("bad_input", "The request is larger than 64 KiB.")
    try:
        data = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError):
        raise Refused("bad_input", "The request is no JSON.") from None  # its text holds secrets
    if not isinstance(data, dict):
        raise Refused("bad_input", "The request is no JSON object.")
    if data.get("protocol") != PROTOCOL or data["protocol"] is True:
        raise Refused(
            "protocol",
            f"This helper speaks protocol {PROTOCOL} and the hub does not: "
            "put the hub's own labspawner-guest into the template.",
        )
    command = data.get("command")
    if not isinstance(command, list) or not command or not all(_is_text(word) for word in command):
        raise Refused("bad_input", "The request's `command` must be a list of words.")
    request = {"user": data.get("user"), "home": data.get("home") or "", "lease": data.get("lease") or ""}
    if not all(_is_text(value) for value in request.values()) or not request["user"]:
        raise Refused("bad_input", "The request's `user`, `home` and `lease` must be text, and `user` not empty.")
    if request["user"] in ("root", "0"):
        raise Refused("no_user", "A student's server does not run as root: name another account.")
    tables = {key: data.get(key) or {} for key in ("environment", "files")}
    for key, table in tables.items():
        good = isinstance(table, dict) and all(NAME.match(name) and _is_text(table[name]) for name in table)
        if not good:
            raise Refused("bad_input", f"The request's `{key}` must map names of variables to text.")
    if data.get("when_ended", "stay") not in ("stay", "poweroff"):
        raise Refused("bad_input", "The request's `when_ended` must be stay or poweroff.")
    return dict(request, command=command, when_ended=data.get("when_ended", "stay"), **tables)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


def port_of(environment: Mapping[str, str]) -> int | None:
    """The port on which the server is to listen, None where that is not said."""
    try:
        return urlsplit(environment.get("JUPYTERHUB_SERVICE_URL", "")).port
    except ValueError:
        return None


def redacted(text: str, environment: Mapping[str, str]) -> str:
    """`text` without what must not be shown: values of secret variables, and tokens in addresses."""
    for name in environment:
        if SECRET.search(name) and len(environment[name]) >= 8:
            text = text.replace(environment[name], "***")
    return re.sub(r"([?&]token=)[^&\s\"']+", r"\1***", text)


def instant(seconds: float | None) -> str | None:
    """Seconds of the epoch as ISO 8601."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat() if seconds else None


def sessions_of_who(text: str, last_input: Callable[[str], float | None]) -> list[dict[str, Any]]:
    """The sessions in the output of `who`."""
    found = []
    for words in (line.split() for line in text.splitlines()):
        if len(words) >= 2:
            remote = words[-1].strip("()") if words[-1].startswith("(") else ""
            row = {"user": words[0], "where": words[1], "remote": remote, "last_input": instant(last_input(words[1]))}
            found.append(row)
    return found


def sessions_of_loginctl(text: str) -> list[dict[str, Any]]:
    """The sessions in the output of `loginctl show-session`, blocks of NAME=VALUE; without those of programs."""
    found = []
    for block in text.split("\n\n"):
        said = dict(line.partition("=")[::2] for line in block.splitlines() if "=" in line)
        where = said.get("TTY") or said.get("Display") or ""
        if said.get("Class", "user") != "user" or not (said.get("Name") and where):
            continue
        since = said.get("IdleSinceHint", "0")
        micro = int(since) if since.isdigit() else 0
        remote = said.get("RemoteHost", "")
        row = {"user": said["Name"], "where": where, "remote": remote, "last_input": instant(micro / 1e6)}
        found.append(row)
    return found


# -- this machine ------------------------------------------------------------------------------------------------------


class Machine:
    """The guest: its folders, and what is installed in it. root: "" or the folder that stands for `/` in tests."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.root = environment.get("LABSPAWNER_GUEST_ROOT", "").rstrip("/")
        self.run, self.etc = self.path("/run/labspawner"), self.path("/etc/labspawner")
        self.request_file = self.run + "/server.json"
        self.log_file = self.run + "/server.log"
        self.told_file = self.run + "/server.told"  # is there while the server ends because it was told to
        tested = environment if self.root else {}  # in tests many VMs are one machine
        self.source = tested.get("LABSPAWNER_GUEST_ADDRESS", "")
        self.variables: dict[str, str] = json.loads(tested.get("LABSPAWNER_GUEST_VARIABLES", "{}"))
        asked = environment.get("LABSPAWNER_GUEST_INIT", "")
        self.systemd = asked != "process" and os.path.isdir("/run/systemd/system")

    def path(self, path: str) -> str:
        return self.root + path

    def ready(self) -> None:
        """Make the run folder, readable by nobody else."""
        if not self.root and os.geteuid() != 0:
            raise Refused("not_root", "labspawner-guest must run as root.")
        os.makedirs(self.run, mode=0o711, exist_ok=True)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else configures or stops meanwhile."""
        self.ready()
        with open(self.run + "/lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def request(self) -> dict[str, Any] | None:
        """What was configured last."""
        found = self.json(self.request_file)
        return found if isinstance(found, dict) and "command" in found else None

    def json(self, path: str) -> Any:
        try:
            with open(path, encoding="utf-8") as source:
                return json.load(source)
        except (OSError, ValueError):
            return None

    def account(self, name: str) -> pwd.struct_passwd | None:
        """The student's account; None in a test's folder, where all is ours. Raises Refused."""
        if self.root:
            return None
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            message = f"There is no account {name} in this VM. cloud-init makes it at the first boot: is it done?"
            raise Refused("no_user", message) from None
        if found.pw_uid == 0:
            raise Refused("no_user", "A student's server does not run as root: name another account.")
        return found

    def places(self) -> list[str]:
        """Where programs are looked for."""
        settings = self.json(self.etc + "/guest.json")
        own = settings.get("path") if isinstance(settings, dict) else None
        own = [place for place in own if isinstance(place, str)] if isinstance(own, list) else []
        return [*own, *SEARCH_PATH]

    def program(self, name: str, path: str = "") -> str | None:
        """The file that `name` means. path: looked through first."""
        if "/" in name:
            return name if os.access(name, os.X_OK) else None
        return shutil.which(name, path=os.pathsep.join([*([path] if path else []), *self.places()]))

    def versions(self, program: str | None) -> dict[str, str | None]:
        """What is installed beside `program`, by its environment's folders and not by starting it."""
        found: dict[str, str | None] = {"python": None, "jupyterhub": None, "jupyterlab": None, "labspawner": None}
        if program is None:
            return found
        with contextlib.suppress(OSError), open(program, "rb") as source:
            first = source.readline(512).decode("utf-8", "replace")
            if first.startswith("#!") and "python" in first:
                python = first[2:].split()[0]
                program = python if os.path.exists(python) else program
        prefix = os.path.dirname(os.path.dirname(os.path.abspath(program)))
        with contextlib.suppress(OSError), open(prefix + "/pyvenv.cfg", encoding="utf-8") as source:
            said = re.search(r"^version(?:_info)?\s*=\s*([\d.]+)", source.read(), re.M)
            found["python"] = said.group(1).rstrip(".") if said else None
        for pattern in (
            "/lib/python3*/site-packages",
            "/lib/python3/dist-packages",
            "/local/lib/python3*/dist-packages",
        ):
            for info in glob.glob(prefix + pattern + "/*.dist-info") + glob.glob(prefix + pattern + "/*.egg-info"):
                name, _, version = os.path.basename(info).rpartition(".")[0].partition("-")
                if name.lower() in found:
                    found[name.lower()] = version.partition("-")[0] or None
                    lib = re.search(r"/python(3\.\d+)/", info)
                    found["python"] = found["python"] or (lib.group(1) if lib else None)
        return found

    def cloud_init(self) -> str:
        """How far cloud-init is, from the files that it writes."""
        base = self.path("/run/cloud-init")
        if os.path.exists(base + "/disabled"):
            return "disabled"
        result, status = self.json(base + "/result.json"), self.json(base + "/status.json")
        if isinstance(result, dict):
            said = result.get("v1") or {}
            return "error" if said.get("errors") else "degraded" if said.get("recoverable_errors") else "done"
        if isinstance(status, dict):
            return "running"
        installed = any(os.path.exists(self.path(place) + "/cloud-init") for place in ("/usr/bin", "/usr/local/bin"))
        return "not started" if installed else "absent"

    def sessions(self) -> list[dict[str, Any]]:
        """Who is logged in, and when they last touched a key."""
        if self.root:
            return []
        ids = [
            line.split()[0] for line in output("loginctl", "list-sessions", "--no-legend").splitlines() if line.split()
        ]
        if ids:
            wanted = [
                f"--property={name}" for name in ("Name", "TTY", "Display", "RemoteHost", "IdleSinceHint", "Class")
            ]
            return sessions_of_loginctl(output("loginctl", "show-session", *wanted, *ids))
        return sessions_of_who(output("who"), _typed)


def _typed(line: str) -> float | None:
    try:
        return os.stat("/dev/" + line).st_atime
    except OSError:
        return None


def output(*words: str) -> str:
    """What a program prints; "" where there is none, or it fails."""
    try:
        done = subprocess.run(  # noqa: S603 - words of ours
            words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
            timeout=20, check=False, env={"PATH": SYSTEM_PATH + ":/usr/sbin:/sbin", "LC_ALL": "C"},
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else ""


# -- the server: kept by systemd, or by ourselves ----------------------------------------------------------------------


class Systemd:
    """The server as a unit of systemd."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def _call(self, *words: str) -> None:
        done = subprocess.run(  # noqa: S603 - words of ours
            ["systemctl", *words],  # noqa: S607 - of root's own path
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
        if done.returncode != 0:
            said = done.stderr.decode("utf-8", "replace").strip()[-300:]
            raise Refused("start_failed", f"systemd refused `systemctl {words[0]}`: {said}")

    def start(self) -> None:
        write(self._machine.told_file, b"")
        if "not-found" in output("systemctl", "show", "--property=LoadState", UNIT):
            os.makedirs("/run/systemd/system", exist_ok=True)
            with open("/run/systemd/system/" + UNIT, "w") as unit:
                unit.write(unit_text())
            self._call("daemon-reload")
        output("systemctl", "reset-failed", UNIT)
        self._call("restart", UNIT)
        _forget(self._machine.told_file)

    def stop(self) -> None:
        write(self._machine.told_file, b"")
        self._call("stop", UNIT)

    def state(self) -> dict[str, Any]:
        wanted = "--property=ActiveState,MainPID,ExecMainStatus,ExecMainPID"
        said = dict(line.partition("=")[::2] for line in output("systemctl", "show", wanted, UNIT).splitlines())
        state = said.get("ActiveState") or "inactive"
        running = state in ("active", "activating", "deactivating")
        over = not running and said.get("ExecMainPID", "0") != "0"
        return {
            "state": state,
            "pid": int(said.get("MainPID") or 0) or None,
            "exit_code": int(said.get("ExecMainStatus") or 0) if over else None,
        }

    def log(self, lines: int) -> str:
        return output("journalctl", "--unit=" + UNIT, f"--lines={lines}", "--output=cat", "--no-pager")


class Own:
    """The server as a process of our own, watched by a small one that keeps its exit code."""

    def __init__(self, machine: Machine, stop_s: float = STOP_S) -> None:
        self._machine, self._stop_s = machine, stop_s
        self._pid_file, self._exit_file = machine.run + "/server.pid", machine.run + "/server.exit"

    def start(self) -> None:
        self.stop()
        _forget(self._exit_file)
        _forget(self._machine.told_file)
        handle = os.open(self._machine.log_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as log:
            watcher = subprocess.Popen(  # noqa: S603 - ourselves
                [sys.executable, "-I", os.path.abspath(__file__), "supervise"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        write(self._pid_file, json.dumps([watcher.pid, _began(watcher.pid)]).encode())
        watcher.returncode = 0  # it outlives us; nobody is to wait for it

    def supervise(self) -> int:
        """Be the watcher: start the server, pass the signals on, keep the exit code."""
        told = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        signal.pthread_sigmask(signal.SIG_BLOCK, told)  # until there is somebody to pass them on to
        child = os.fork()
        if child == 0:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, told)
            become(self._machine)
        for number in told:
            signal.signal(number, lambda number, _: _signal(child, number))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, told)
        code = os.waitpid(child, 0)[1]
        code = 128 + os.WTERMSIG(code) if os.WIFSIGNALED(code) else os.WEXITSTATUS(code)
        write(self._exit_file, str(code).encode())
        ended(self._machine)
        return code

    def stop(self) -> None:
        pid, until = self._pid(), time.monotonic() + self._stop_s
        if pid is None:
            return
        write(self._machine.told_file, b"")
        _signal(pid, signal.SIGTERM)
        while self._pid() is not None and time.monotonic() < until:
            time.sleep(0.02)
        if self._pid() is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            until = time.monotonic() + KILL_S
            while _any_lives_in(pid) and time.monotonic() < until:  # the server itself, too, which has the port
                time.sleep(0.02)
        write(self._exit_file, b"0")  # it ended because it was told to

    def _pid(self) -> int | None:
        """The watcher, where it lives and is no other process with its number."""
        found = self._machine.json(self._pid_file)
        if not isinstance(found, list) or len(found) != 2 or found[1] is None or _began(found[0]) != found[1]:
            return None
        return int(found[0])

    def state(self) -> dict[str, Any]:
        pid = self._pid()
        if pid is not None:
            return {"state": "active", "pid": pid, "exit_code": None}
        code = self._machine.json(self._exit_file)
        known = isinstance(code, int)
        if not known and self._machine.json(self._pid_file) is None:
            return {"state": "inactive", "pid": None, "exit_code": None}
        return {
            "state": "inactive" if known and code == 0 else "failed",
            "pid": None,
            "exit_code": code if known else None,
        }

    def log(self, lines: int) -> str:
        with contextlib.suppress(OSError), open(self._machine.log_file, "rb") as source:
            source.seek(max(0, source.seek(0, os.SEEK_END) - 512 * 1024))
            return "".join(source.read().decode("utf-8", "replace").splitlines(keepends=True)[-lines:])
        return ""


def keeper(machine: Machine) -> Systemd | Own:
    return Systemd(machine) if machine.systemd else Own(machine)


def _began(pid: int) -> int | None:
    """When a process began, in ticks since boot; None where there is none, or it is dead."""
    try:
        with open(f"/proc/{int(pid)}/stat", "rb") as source:
            words = source.read().rpartition(b")")[2].split()
    except (OSError, TypeError, ValueError):
        return None
    return None if words[0] in (b"Z", b"X") else int(words[19])


def _any_lives_in(group: int) -> bool:
    """Whether a process of this process group is there, and not dead."""
    for path in glob.glob("/proc/[0-9]*/stat"):
        with contextlib.suppress(OSError), open(path, "rb") as source:
            words = source.read().rpartition(b")")[2].split()
            if words[0] not in (b"Z", b"X") and int(words[2]) == group:
                return True
    return False


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _forget(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def ended(machine: Machine) -> None:
    """The server has ended: where the hub wanted it, and nobody told it to end, the VM goes down in a minute."""
    request = machine.request()
    wanted = request is not None and request.get("when_ended") == "poweroff"
    if wanted and not machine.root and not os.path.exists(machine.told_file):
        output("shutdown", "-P", "+1", "The Jupyter server has ended.")


def write(path: str, content: bytes, owner: pwd.struct_passwd | None = None) -> None:
    """Put a file in place whole, 0600 from its first byte on."""
    part = path + ".part"
    _forget(part)
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as target:
        if owner is not None:
            os.fchown(handle, owner.pw_uid, owner.pw_gid)
        target.write(content)
    os.rename(part, path)


def become(machine: Machine) -> NoReturn:
    """Become the configured server: its user, its environment, its program."""
    request = machine.request()
    if request is None:
        sys.exit("labspawner-guest: nothing is configured")
    try:
        user = machine.account(request["user"])
        words = request["command"]
        environment, home = server_environment(request, user, machine)
        program = machine.program(words[0], request["environment"].get("PATH", ""))
        if program is None:
            raise Refused("no_command", _no_command(words[0], machine))
        if user is not None:
            os.initgroups(user.pw_name, user.pw_gid)
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
        os.chdir(home)
        os.umask(0o022)
        sys.stdout.flush()
        os.execve(program, words, environment)  # noqa: S606 - no shell is meant
    except (OSError, Refused) as error:
        sys.stderr.write(f"labspawner-guest: the server cannot be started: {error}\n")
        sys.stderr.flush()
        os._exit(127)


def server_environment(
    request: Mapping[str, Any], user: pwd.struct_passwd | None, machine: Machine
) -> tuple[dict[str, str], str]:
    """The environment of the server, and its working folder."""
    home = machine.path(request["home"]) if request["home"] else user.pw_dir if user else machine.path("/")
    found = {
        "PATH": os.pathsep.join([*machine.places(), "/usr/sbin", "/sbin"]),
        "HOME": home,
        "USER": request["user"],
        "LOGNAME": request["user"],
        "SHELL": (user.pw_shell if user else "") or "/bin/sh",
        "LANG": "C.UTF-8",
    }
    found.update(request["environment"])
    found.update({name: os.path.join(machine.run, "files", name) for name in request["files"]})
    found.update(machine.variables)
    return found, home


def _no_command(name: str, machine: Machine) -> str:
    return "This template has no program {} (looked in {}).".format(name, ", ".join(machine.places()))


# -- the verbs ---------------------------------------------------------------------------------------------------------


def configure(machine: Machine, raw: bytes) -> dict[str, Any]:
    """Keep the environment and start the server, or replace it by one with this environment."""
    request = read_request(raw)
    with machine.alone():
        user = machine.account(request["user"])
        if machine.program(request["command"][0], request["environment"].get("PATH", "")) is None:
            raise Refused("no_command", _no_command(request["command"][0], machine))
        server = keeper(machine)
        kept = json.dumps(request, sort_keys=True).encode()
        same, runs = _same(machine, kept), server.state()["state"] in ("active", "activating")
        if not (same and runs):
            _take_back(machine, machine.request())
            write(machine.request_file, kept)
            _write_files(machine, request["files"], user)
            try:
                server.start()
            except OSError as error:
                raise Refused("start_failed", f"The server's process cannot be made: {error}") from error
        return {
            "lease": request["lease"],
            "state": server.state()["state"],
            "started": not (same and runs),
            "replaced": runs and not same,
            "port": port_of(request["environment"]),
        }


def _take_back(machine: Machine, request: Mapping[str, Any] | None) -> None:
    """No power-off that an ended server has asked for."""
    if request is not None and request.get("when_ended") == "poweroff" and not machine.root:
        output("shutdown", "-c")


def _same(machine: Machine, kept: bytes) -> bool:
    try:
        with open(machine.request_file, "rb") as source:
            return hashlib.sha256(source.read()).digest() == hashlib.sha256(kept).digest()
    except OSError:
        return False


def _write_files(machine: Machine, files: Mapping[str, str], user: pwd.struct_passwd | None) -> None:
    folder = os.path.join(machine.run, "files")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder, mode=0o711)
    for name, content in files.items():
        write(os.path.join(folder, name), content.encode(), user)


def status(machine: Machine) -> dict[str, Any]:
    """What is true of the server and of its machine now."""
    machine.ready()
    request = machine.request()
    environment = request["environment"] if request else {}
    server = dict(keeper(machine).state(), port=port_of(environment))
    server["listening"] = server["port"] is not None and _listens(environment, server["port"])
    program = machine.program(
        request["command"][0] if request else "jupyterhub-singleuser", environment.get("PATH", "")
    )
    sessions = machine.sessions()
    return {
        "at": instant(time.time()),
        "lease": request["lease"] if request else None,
        "user": request["user"] if request else None,
        "boot_id": _line("/proc/sys/kernel/random/boot_id"),
        "uptime_s": float((_line("/proc/uptime") or "0").split()[0]),
        "server": server,
        "versions": machine.versions(program),
        "cloud_init": machine.cloud_init(),
        "activity": _activity(environment) if server["listening"] else dict(_NOTHING),
        "sessions": sessions,
        "last_input": max((s["last_input"] for s in sessions if s["last_input"]), default=None),
        "cpu": {"load_1m": os.getloadavg()[0], "cores": os.cpu_count()},
    }


_NOTHING = {"last_activity": None, "kernels": None, "busy": None, "terminals": None, "connections": None}


def _line(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as source:
            return source.readline().strip()
    except OSError:
        return None


def _own_url(environment: Mapping[str, str]) -> str:
    """The server's address as it is reached from in here; with a slash at its end."""
    parts = urlsplit(environment.get("JUPYTERHUB_SERVICE_URL", ""))
    host = parts.hostname or ""
    host = "127.0.0.1" if host in ("", "0.0.0.0", "::") else host  # noqa: S104 - where it listens, not we
    return "{}://{}:{}{}/".format(parts.scheme, host, parts.port, parts.path.rstrip("/"))


def _listens(environment: Mapping[str, str], port: int) -> bool:
    try:
        socket.create_connection((urlsplit(_own_url(environment)).hostname or "127.0.0.1", port), ASK_S).close()
    except OSError:
        return False
    return True


def _activity(environment: Mapping[str, str]) -> dict[str, Any]:
    """What the server says of its use; asking is no use of it."""
    found: dict[str, Any] = dict(_NOTHING)
    said = _ask(environment, "api/status")
    if isinstance(said, dict):
        found.update({key: said.get(key) for key in ("last_activity", "kernels", "connections")})
    kernels, terminals = (_ask(environment, f"api/{what}?no_track_activity=1") for what in ("kernels", "terminals"))
    if isinstance(kernels, list):
        found["busy"] = sum(isinstance(k, dict) and k.get("execution_state") == "busy" for k in kernels)
    if isinstance(terminals, list):
        found["terminals"] = len(terminals)
    return found


def _ask(environment: Mapping[str, str], what: str) -> Any:
    url, token = _own_url(environment) + what, environment.get("JUPYTERHUB_API_TOKEN", "")
    request = urllib.request.Request(url, headers={"Authorization": "token " + token})  # noqa: S310 - our own address
    handlers: list[Any] = [urllib.request.ProxyHandler({})]
    try:
        if url.startswith("https:"):
            context = ssl.create_default_context(cafile=environment.get("JUPYTERHUB_SSL_CLIENT_CA") or None)
            context.check_hostname = False  # its certificate names the VM, and we ask by loopback
            if environment.get("JUPYTERHUB_SSL_CERTFILE"):
                context.load_cert_chain(
                    environment["JUPYTERHUB_SSL_CERTFILE"], environment.get("JUPYTERHUB_SSL_KEYFILE")
                )
            handlers.append(urllib.request.HTTPSHandler(context=context))
        with urllib.request.build_opener(*handlers).open(request, timeout=ASK_S) as response:
            return json.loads(response.read(1 << 20))
    except (OSError, ValueError):
        return None


def logs(machine: Machine, lines: int) -> str:
    """The last lines of the server's log, without secrets."""
    machine.ready()
    request = machine.request()
    return redacted(keeper(machine).log(lines), request["environment"] if request else {})


def stop(machine: Machine) -> dict[str, Any]:
    """End the server and forget its environment."""
    with machine.alone():
        server, request = keeper(machine), machine.request()
        ran = server.state()["state"] in ("active", "activating", "deactivating")
        server.stop()
        _take_back(machine, request)
        _forget(machine.request_file)
        shutil.rmtree(os.path.join(machine.run, "files"), ignore_errors=True)
    return {"stopped": ran}


def unit_text() -> str:
    return UNIT_TEXT.format(helper=HELPER)


def call_home_unit_text() -> str:
    return CALL_HOME_UNIT_TEXT.format(helper=HELPER)


# -- what a good template has ------------------------------------------------------------------------------------------


class Findings:
    """What `check` found, in the order of looking."""

    def __init__(self) -> None:
        self.rows: list[dict[str, str]] = []

    def say(
        self, code: str, good: bool, message: str, otherwise: str = "", hint: str = "", level: str = "error"
    ) -> None:
        """message: what is true when it is good; otherwise: when not, then with the hint."""
        row = {"level": "ok", "message": message, "hint": ""} if good else {}
        self.rows.append(dict({"level": level, "message": otherwise, "hint": hint}, code=code, **row))


def check(machine: Machine) -> dict[str, Any]:
    """Look whether a template made of this machine would do."""
    found = Findings()
    _check_helper(found, machine)
    _check_agent(found, machine)
    _check_clone(found, machine)
    _check_jupyter(found, machine)
    _check_quiet(found, machine)
    return {"ok": all(row["level"] != "error" for row in found.rows), "findings": found.rows}


def _check_helper(found: Findings, machine: Machine) -> None:
    found.say("root", os.geteuid() == 0, "Runs as root.", "Does not run as root.", "Run it with sudo.")
    path = machine.path(HELPER)
    try:
        said = os.stat(path)
        safe = (
            said.st_uid == 0 and not said.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and bool(said.st_mode & stat.S_IXUSR)
        )
        why = f"{HELPER} can be changed by others than root, or is not executable."
    except OSError:
        safe, why = False, f"{HELPER} is not there."
    found.say("helper", safe, f"The helper is at {HELPER}.", why, "chown root:root and chmod 755 that file.")
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info[:2] >= (3, 8)
    found.say("python", good, f"Python {version}.", f"Python {version} is too old.", "Install Python 3.8 or later.")
    found.say(
        "systemd", machine.systemd, "systemd runs the server.", "There is no systemd.",
        "The helper then keeps the server itself; a template had better have systemd.", "warning",
    )  # fmt: skip


def _check_agent(found: Findings, machine: Machine) -> None:
    agent = any(
        os.path.exists(machine.path(place) + "/qemu-ga") for place in ("/usr/sbin", "/usr/bin", "/usr/local/bin")
    )
    found.say(
        "guest-agent", agent, "The guest agent is installed.", "The guest agent is not installed.",
        "Install the package qemu-guest-agent, and set the VM's option `agent` to 1.",
    )  # fmt: skip
    blocked = ""
    for path in ("/etc/qemu/qemu-ga.conf", "/etc/qemu-ga/qemu-ga.conf", "/etc/sysconfig/qemu-ga"):
        text = _text(machine.path(path))
        for line in text.splitlines():
            if re.search(r"block|black", line, re.I) and "guest-exec" in line and not line.lstrip().startswith("#"):
                blocked = path
            allow = re.search(r"allow-rpcs=(\S*)", line)
            if allow and "guest-exec" not in allow.group(1) and not line.lstrip().startswith("#"):
                blocked = path
    found.say(
        "guest-exec", not blocked, "The guest agent may run the helper.", f"The guest agent may run no program ({blocked}).",
        "Allow guest-exec and guest-exec-status there: without them the hub cannot hand over an environment.",
    )  # fmt: skip


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as source:
            return source.read(1 << 20)
    except OSError:
        return ""


def _check_clone(found: Findings, machine: Machine) -> None:
    there = machine.cloud_init() not in ("absent", "disabled")
    found.say(
        "cloud-init", there, "cloud-init is installed.", "There is no cloud-init, or it is disabled.",
        "Install it: it sets the account, the address and the keys of each clone.",
    )  # fmt: skip
    found.say(
        "cloud-init-clean", not os.path.exists(machine.path("/var/lib/cloud/instance")),
        "cloud-init will run at a clone's first boot.", "cloud-init has already run here.",
        "As the last step before the template is made: cloud-init clean --logs", "warning",
    )  # fmt: skip
    found.say(
        "machine-id", not _text(machine.path("/etc/machine-id")).strip().replace("uninitialized", ""),
        "Each clone makes its own machine id.", "All clones would have one machine id, and one DHCP address.",
        "As the last step: truncate --size 0 /etc/machine-id", "warning",
    )  # fmt: skip
    keys = glob.glob(machine.path("/etc/ssh/ssh_host_*_key"))
    found.say(
        "ssh-host-keys", not keys, "Each clone makes its own SSH host keys.", "All clones would share their SSH host keys.",
        "As the last step: rm /etc/ssh/ssh_host_*_key*", "warning",
    )  # fmt: skip


def _check_jupyter(found: Findings, machine: Machine) -> None:
    program = machine.program("jupyterhub-singleuser")
    versions = machine.versions(program)
    found.say(
        "jupyterhub", program is not None and versions["jupyterhub"] is not None,
        "jupyterhub-singleuser is {}, version {}.".format(program, versions["jupyterhub"]),
        "There is no jupyterhub-singleuser." if program is None else f"The version of {program} cannot be found.",
        "Install the hub's version of jupyterhub, for example into a venv in /opt/labspawner, or name its folder in "
        '/etc/labspawner/guest.json: {"path": ["/opt/venv/bin"]}',
    )  # fmt: skip
    found.say(
        "jupyterlab", versions["jupyterlab"] is not None, "JupyterLab {}.".format(versions["jupyterlab"]),
        "There is no JupyterLab beside jupyterhub-singleuser.", "Install jupyterlab in the same environment.", "warning",
    )  # fmt: skip
    found.say(
        "extension", versions["labspawner"] is not None, "Servers report their use.", "Servers will not report their use.",
        "Install labspawner in the same environment, so that a running cell counts as work.", "warning",
    )  # fmt: skip


def _check_quiet(found: Findings, machine: Machine) -> None:
    timers = glob.glob(machine.path("/etc/systemd/system/timers.target.wants/apt-daily*.timer"))
    found.say(
        "apt-daily", not timers, "No package updates at boot.", "Package updates run at a clone's first boot.",
        "systemctl disable --now apt-daily.timer apt-daily-upgrade.timer", "warning",
    )  # fmt: skip
    usage = shutil.disk_usage(machine.path("/"))
    found.say(
        "disk-space", usage.free >= MIN_FREE_BYTES, "There is room on the disk.", "Less than 1 GiB is free on the disk.",
        "Grow the disk in the profile (`disk:`), or in the template.", "warning",
    )  # fmt: skip


# -- the fallback without a guest agent --------------------------------------------------------------------------------


def call_home(machine: Machine) -> dict[str, Any]:
    """Ask the hub for what `configure` reads, with a nonce that is good once."""
    settings = machine.json(machine.etc + "/call-home.json")
    settings = settings if isinstance(settings, dict) else {}
    nonce, url = _invitation(machine, settings)
    if not nonce or urlsplit(url).scheme not in ("http", "https"):
        raise Refused("no_nonce", "This VM has nothing to call home with: see /etc/labspawner/call-home.json.")
    _until_set_up(machine)
    versions = machine.versions(machine.program("jupyterhub-singleuser"))
    body = {
        "protocol": PROTOCOL,
        "nonce": nonce,
        "uuid": (_line(machine.path("/sys/class/dmi/id/product_uuid")) or "").lower(),
        "hostname": socket.gethostname(),
        "addresses": _addresses(url),
        "versions": {name: versions[name] for name in versions if versions[name]},
    }
    raw = _fetched(
        url.rstrip("/") + "/call-home",
        json.dumps(body).encode(),
        str(settings.get("ca_file") or ""),
        source=machine.source,
    )
    return configure(machine, raw)


def _invitation(machine: Machine, settings: Mapping[str, Any]) -> tuple[str, str]:
    """Nonce and URL: of the template's own file, of this boot's cloud-init, or of SMBIOS; empty where there is none."""
    said = HINT.search(_text(machine.path(USER_DATA)))
    serial = _line(machine.path("/sys/class/dmi/id/product_serial")) or ""
    serial = serial[len("labspawner:") :] if serial.startswith("labspawner:") else ""
    url = ""
    if said:
        with contextlib.suppress(binascii.Error, ValueError):
            url = base64.urlsafe_b64decode(said.group(2) + "=" * (-len(said.group(2)) % 4)).decode("utf-8")
    return str(settings.get("nonce") or (said.group(1) if said else serial)), str(settings.get("url") or url)


def _until_set_up(machine: Machine, patience_s: float = CALL_HOME_FOR_S) -> None:
    """Return when cloud-init is through, or does not get through: the student's account is its work."""
    until = time.monotonic() + patience_s
    while machine.cloud_init() in ("running", "not started") and time.monotonic() < until:
        time.sleep(0.5)


def _addresses(url: str) -> list[str]:
    """Our address on the way to the hub; nothing is sent to find it."""
    parts = urlsplit(url)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((parts.hostname or "", parts.port or 80))
            return [probe.getsockname()[0]]
    except OSError:
        return []


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any) -> None:
        """A nonce goes where it was meant to go, and nowhere else."""


class _From(urllib.request.HTTPHandler):
    """Speaks from an address of this machine; for tests, where many VMs are one machine."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self._source = source

    def http_open(self, req: urllib.request.Request) -> Any:
        def line(host: str, **more: Any) -> http.client.HTTPConnection:
            return http.client.HTTPConnection(host, source_address=(self._source, 0), **more)

        return self.do_open(line, req)


def _fetched(url: str, body: bytes, ca_file: str, patience_s: float = CALL_HOME_FOR_S, source: str = "") -> bytes:
    """The hub's answer. Raises Refused when it is final, or does not come."""
    handlers: list[Any] = [urllib.request.ProxyHandler({}), _NoRedirect(), *([_From(source)] if source else [])]
    if url.startswith("https:"):
        handlers.append(urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=ca_file or None)))
    opener, until, pause = urllib.request.build_opener(*handlers), time.monotonic() + patience_s, 1.0
    while True:
        headers = {"Content-Type": "application/json"}
        wait = ""
        try:
            request = urllib.request.Request(url, data=body, headers=headers)  # noqa: S310 - http or https, checked
            with opener.open(request, timeout=20) as response:
                if response.status == 200:
                    return bytes(response.read(MAX_INPUT_BYTES + 1))
                wait = response.headers.get("Retry-After") or ""
        except urllib.error.HTTPError as error:
            wait = error.headers.get("Retry-After") or ""
            code = error.code
            error.close()
            if code != 503:
                raise Refused(
                    "hub_refused",
                    f"The hub refused (HTTP {code}): the nonce was used before, or the server is no longer wanted.",
                ) from None
        except OSError:
            pass  # the network of a VM that boots comes late
        pause = min(max(float(wait), 0.1), 60.0) if re.match(r"\d+(\.\d+)?\Z", wait) else min(pause * 1.5, 15.0)
        if time.monotonic() + pause > until:
            raise Refused("hub_silent", f"The hub did not answer in {patience_s:.0f} s.")
        time.sleep(pause)


# -- the command -------------------------------------------------------------------------------------------------------


def main(words: Sequence[str]) -> int:
    """Do what the verb says; the exit code."""
    machine, verb = Machine(os.environ), words[0] if words else ""
    answers: Mapping[str, Callable[[], dict[str, Any]]] = {
        "configure": lambda: configure(machine, sys.stdin.buffer.read(MAX_INPUT_BYTES + 1)),
        "status": lambda: status(machine),
        "stop": lambda: stop(machine),
        "check": lambda: check(machine),
        "call-home": lambda: call_home(machine),
    }
    try:
        if verb in answers and len(words) == 1:
            return _print({"protocol": PROTOCOL, "ok": True, **answers[verb]()})
        if verb == "logs" and len(words) == 2 and re.match(r"\d{1,4}\Z", words[1]):
            sys.stdout.write(logs(machine, min(max(int(words[1]), 1), MAX_LOG_LINES)))
            return 0
        if verb in ("unit", "call-home-unit") and len(words) == 1:
            sys.stdout.write(unit_text() if verb == "unit" else call_home_unit_text())
            return 0
        if verb == "ended" and len(words) == 1:
            ended(machine)
            return 0
        if verb == "run" and len(words) == 1:
            become(machine)
        if verb == "supervise" and len(words) == 1:
            return Own(machine).supervise()
        raise Refused("usage", "Verbs: configure, status, logs N, stop, check, unit, run, call-home, call-home-unit.")
    except Refused as refused:
        _print({"protocol": PROTOCOL, "ok": False, "reason": refused.reason, "message": refused.message})
        return 2 if refused.reason == "usage" else 1


def _print(answer: Mapping[str, Any]) -> int:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    return 0 if answer["ok"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
