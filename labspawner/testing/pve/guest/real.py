"""Guests whose servers are real: labspawner-guest itself runs as a process, in a folder that is the VM's disk."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labspawner.guest import labspawner_guest
from labspawner.guest.labspawner_guest import USER_DATA
from labspawner.testing.kube import sitter
from labspawner.testing.pve.guest.behaviour import Behaviour
from labspawner.testing.pve.guest.life import Guest, Helper, LivingGuests
from labspawner.testing.pve.guest.scripted import at_home, refusal
from labspawner.testing.pve.guest.still import POWER_OFF_AFTER_S
from labspawner.testing.pve.seams import Exited, Host
from labspawner.testing.pve.world import Vm

Json = dict[str, Any]
_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
_MEMORY = ("run", "tmp", "dev/shm")  # folders that a reboot empties
_HELPER_S, _CALL_S = 120.0, 900.0


class RealGuests(LivingGuests):
    """Servers are processes of this machine, listening at their VMs' addresses, with the VM's folder for a disk.

    environment: the Python environment in which jupyterhub-singleuser is found. All processes end with the double, and with
    its creator, however it goes. A hibernated VM's processes are stopped where they are (SIGSTOP): their memory is kept,
    and so are their listening sockets, which then accept and do not answer.
    """

    def __init__(self, behaviour: Behaviour | None = None, *, environment: Path = Path(sys.prefix)) -> None:
        super().__init__(behaviour)
        self.environment = environment
        self.mark = secrets.token_hex(8)
        self._sitter: subprocess.Popen[bytes] | None = None

    @property
    def folder(self) -> Path:
        return self.host.folder / "guests"

    def disk(self, vmid: int) -> Path:
        """The folder that is the disk of a VM; there from its first configure on."""
        return self.folder / str(vmid)

    def helper_of(self, guest: Guest) -> Helper:
        self._sit()
        return RealHelper(self, guest, self.host)

    async def destroyed(self, vm: Vm) -> None:
        await super().destroyed(vm)
        await asyncio.to_thread(shutil.rmtree, self.disk(vm.vmid), ignore_errors=True)

    async def cloned(self, source: Vm, vm: Vm) -> None:
        await super().cloned(source, vm)
        if self.disk(source.vmid).exists():
            await asyncio.to_thread(_copy_disk, self.disk(source.vmid), self.disk(vm.vmid))

    async def close(self) -> None:
        await super().close()
        if self._sitter is not None:
            sitting, self._sitter = self._sitter, None
            assert sitting.stdin is not None
            sitting.stdin.close()
            await asyncio.to_thread(sitting.wait)

    def _sit(self) -> None:
        if self._sitter is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            words = [sys.executable, "-I", "-S", sitter.__file__, self.mark, str(self.folder)]
            self._sitter = subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603


class RealHelper:
    """labspawner-guest as it is installed in a template, with a folder for its machine."""

    def __init__(self, guests: RealGuests, guest: Guest, host: Host) -> None:
        self._guests, self._guest, self._host = guests, guest, host
        self._root = guests.disk(guest.vmid)
        self._mark = f"{guests.mark}/{guest.vmid}/"  # no mark is the beginning of another
        self._alone = asyncio.Lock()
        self._watched = 0

    async def run(self, verb: Sequence[str], stdin: bytes) -> Exited:
        """What `labspawner-guest VERB` prints, run for the guest's folder."""
        if list(verb) == ["configure"]:
            behaviour = self._guest.behaviour
            if behaviour.protocol != 1:
                words = f"This helper speaks protocol {behaviour.protocol}, the hub another one."
                return refusal("protocol", words, behaviour.protocol)
            if behaviour.versions.get("jupyterhub") is None:
                return refusal("no_command", "This template has no program jupyterhub-singleuser (looked in /usr/bin).")
            if self._guests.cloud_init(self._guest) == "running":
                return refusal("no_user", "There is no such account in this VM yet: is cloud-init done?")
            stdin = self._at_home(stdin)
        async with self._alone:
            done = await asyncio.to_thread(self._call, verb, stdin)
        if list(verb) == ["configure"]:
            self._watch()
        return done

    async def call_home(self, user_data: str) -> Exited:
        """Not alone: it may ask for minutes, and the agent's verbs go on meanwhile."""
        kept, address = self._root / USER_DATA.lstrip("/"), self._guest.address
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(user_data, encoding="utf-8")
        variables = {
            "PATH": f"{self._guests.environment / 'bin'}:{_SYSTEM_PATH}",
            "JUPYTER_CONFIG_PATH": str(self._config()),
            sitter.MARK: self._mark,
        }
        settings = {"path": [str(self._guests.environment / "bin")]}
        (self._root / "etc/labspawner").mkdir(parents=True, exist_ok=True)
        (self._root / "etc/labspawner/guest.json").write_text(json.dumps(settings), encoding="utf-8")
        more = {"LABSPAWNER_GUEST_ADDRESS": address, "LABSPAWNER_GUEST_VARIABLES": json.dumps(variables)}
        done = await asyncio.to_thread(self._call, ["call-home"], b"", _CALL_S, **more)
        self._watch()
        return done

    def _call(self, verb: Sequence[str], stdin: bytes, within_s: float = _HELPER_S, **more: str) -> Exited:
        self._tell_cloud_init()
        done = subprocess.run(  # noqa: S603 - our own file
            [sys.executable, "-I", "-S", labspawner_guest.__file__, *verb],
            input=stdin,
            capture_output=True,
            timeout=within_s,
            check=False,
            env={
                "PATH": _SYSTEM_PATH,
                "LABSPAWNER_GUEST_ROOT": str(self._root),
                "LABSPAWNER_GUEST_INIT": "process",
                sitter.MARK: self._mark,
                **more,
            },
        )
        out, err = done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
        return Exited(exitcode=done.returncode, out=out, err=err)

    def _tell_cloud_init(self) -> None:
        said, folder = self._guests.cloud_init(self._guest), self._root / "run/cloud-init"
        folder.mkdir(parents=True, exist_ok=True)
        status: Json = {"errors": ["..."] if said == "error" else []}
        status["recoverable_errors"] = {"WARNING": ["..."]} if said == "degraded" else {}
        (folder / "status.json").write_text('{"v1": {"stage": null}}', encoding="utf-8")
        if said not in ("running", "absent"):
            (folder / "result.json").write_text(json.dumps({"v1": status}), encoding="utf-8")

    def _at_home(self, stdin: bytes) -> bytes:
        """The request with this machine's paths, address and Python environment in it."""
        try:
            request = json.loads(stdin)
            environment = dict(request["environment"])
            home = request.get("home") or f"/home/{request['user']}"
        except (ValueError, KeyError, TypeError):
            return stdin  # the helper says what is wrong with it
        (self._root / home.strip("/")).mkdir(parents=True, exist_ok=True)
        environment = {name: self._real(str(value), home) for name, value in environment.items()}
        address = self._guest.address
        environment = at_home(environment, address) | {
            "PATH": f"{self._guests.environment / 'bin'}:{_SYSTEM_PATH}",
            "JUPYTER_CONFIG_PATH": str(self._config()),
            sitter.MARK: self._mark,
        }
        command = [self._real(str(word), home) for word in request["command"]]
        command = [f"{word}{address}" if word in ("--ip=", "--ServerApp.ip=") else word for word in command]
        command = [word.replace("ip=0.0.0.0", f"ip={address}") for word in command]
        return json.dumps({**request, "home": home, "environment": environment, "command": command}).encode()

    def _real(self, text: str, home: str) -> str:
        return f"{self._root}{text}" if text == home or text.startswith(home + "/") else text

    def _config(self) -> Path:
        """A guest's user is nobody in particular; ours may be root, which Jupyter refuses unless it is told."""
        folder = self._root / "etc/jupyter"
        folder.mkdir(parents=True, exist_ok=True)
        settings = {"ServerApp": {"allow_root": True}}
        (folder / "jupyter_server_config.json").write_text(json.dumps(settings), encoding="utf-8")
        return folder

    # when the server ends by itself

    def _kept(self, name: str) -> Any:
        try:
            return json.loads((self._root / "run/labspawner" / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def _watch(self) -> None:
        """Notice the end of the server that runs now."""
        found = self._kept("server.pid")
        pid = int(found[0]) if isinstance(found, list) else 0
        if not pid or pid == self._watched:
            return
        self._watched = pid
        self._guests.in_guest(self._guest, self._until_over(pid))

    async def _until_over(self, pid: int) -> None:
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            over.set()
        else:
            loop.add_reader(handle, over.set)
            try:
                await over.wait()
            finally:
                loop.remove_reader(handle)
                os.close(handle)
        request = self._kept("server.json") or {}
        if request.get("when_ended") != "poweroff" or (self._root / "run/labspawner/server.told").exists():
            return
        await self._host.clock.sleep(POWER_OFF_AFTER_S)
        if self._watched == pid and self._guest.on:
            self._host.powered_off(self._guest.vmid)

    # with the VM

    async def pause(self) -> None:
        await asyncio.to_thread(_signal_all, self._mark, signal.SIGSTOP)

    async def resume(self) -> None:
        await asyncio.to_thread(_signal_all, self._mark, signal.SIGCONT)

    async def shutdown(self) -> None:
        await self.run(["stop"], b"")

    async def kill(self) -> None:
        self._watched = 0
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        sitter.end(self._mark)
        for name in _MEMORY:
            shutil.rmtree(self._root / name, ignore_errors=True)

    def saved(self) -> Any:
        """Of a real server only the disk and what it was started with; its memory cannot be kept twice."""
        target = self._root.with_name(f"{self._root.name}-{secrets.token_hex(4)}")
        _copy_disk(self._root, target)
        return target, self._kept("server.json")

    async def restored(self, memory: Any) -> None:
        saved, request = memory
        shutil.rmtree(self._root, ignore_errors=True)
        _copy_disk(saved, self._root)
        if request is not None:
            await self.run(["configure"], json.dumps({**request, "protocol": 1}).encode())


def _copy_disk(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True, ignore=_not_memory, dirs_exist_ok=True)


def _not_memory(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name in ("run", "tmp") and Path(folder).parent.name == "guests"]


def _signal_all(mark: str, number: signal.Signals) -> None:
    """Send a signal to all that carries the mark, until nothing new has come."""
    told: set[int] = set()
    while new := set(sitter.marked(mark)) - told:
        for pid in new:
            with contextlib.suppress(OSError):
                os.kill(pid, number)
        told |= new
