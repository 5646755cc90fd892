"""Guests that are virtual machines indeed: QEMU, a Debian kernel, busybox and the guest agent, where they are at hand.

What boots is a system of three programs in memory, made by `Kit.system`; it has no disk and no network. It is there to
show that the agent's answers of the other guests are those of a real agent.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import itertools
import json
import os
import re
import secrets
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labspawner.testing.kube import sitter
from labspawner.testing.pve.seams import Exited, GuestFault, Host, NoSuchProgram
from labspawner.testing.pve.world import Vm

Json = dict[str, Any]
PACKAGES = "qemu-system-x86 qemu-guest-agent busybox-static linux-image-cloud-amd64"
ROOT_ENV = "LABSPAWNER_QEMU_ROOT"
_ANSWER_S = 20.0
_PING_S = 2.0
_INIT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox --install -s /bin
/bin/busybox hostname guest
/bin/busybox ip link set lo up
export PATH=/bin:/sbin:/usr/sbin
/usr/sbin/qemu-ga -m isa-serial -p /dev/ttyS1 -t /run
/bin/busybox poweroff -f
"""
_SHUTDOWN = "#!/bin/busybox sh\nexec /bin/busybox poweroff -f\n"


@dataclass(frozen=True, slots=True)
class Kit:
    """What it takes. root: the folder in which Debian's packages are installed, or unpacked."""

    root: Path
    qemu: Path
    kernel: Path
    busybox: Path
    agent: Path

    @classmethod
    def find(cls, environment: Mapping[str, str]) -> Kit | str:
        """The kit, or why there is none. `LABSPAWNER_QEMU_ROOT`: a folder with the packages unpacked; else `/`."""
        root = Path(environment.get(ROOT_ENV, "/"))
        wanted = {"qemu": "usr/bin/qemu-system-x86_64", "agent": "usr/sbin/qemu-ga"}
        found = {name: root / path for name, path in wanted.items()}
        found["busybox"] = next((p for p in (root / "bin/busybox", root / "usr/bin/busybox") if p.exists()), root / "-")
        kernels = sorted(root.glob("boot/vmlinuz-*"))
        found["kernel"] = kernels[-1] if kernels else root / "-"
        if missing := [name for name, path in found.items() if not os.access(path, os.R_OK)]:
            return f"no {', '.join(sorted(missing))} below {root}: apt-get install {PACKAGES}"
        if b"ld-linux" in found["busybox"].read_bytes()[:4096]:  # names its interpreter there
            return "busybox is not the static one: apt-get install busybox-static"
        return cls(root, **found)

    @property
    def libraries(self) -> str:
        """Where QEMU's libraries are, beside the system's."""
        return ":".join(str(self.root / path) for path in ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"))

    def words(self) -> list[str]:
        """How QEMU begins. Emulated: a machine may have a /dev/kvm that starts nothing, and this one boots in seconds."""
        firmware = [str(self.root / f"usr/share/{name}") for name in ("seabios", "qemu")]
        return [str(self.qemu), "-L", firmware[0], "-L", firmware[1], "-accel", "tcg"]

    def system(self, target: Path) -> None:
        """Write the initial file system: busybox, the agent, its libraries, and /init."""
        files: dict[str, bytes] = {
            "init": _INIT.encode(),
            "sbin/shutdown": _SHUTDOWN.encode(),
            "bin/busybox": self.busybox.read_bytes(),
            "usr/sbin/qemu-ga": self.agent.read_bytes(),
            "etc/os-release": b'ID=labspawner\nNAME="labspawner test guest"\nVERSION_ID="1"\n',
        }
        said = subprocess.run(  # noqa: S603 - Debian's own program
            ["/usr/bin/ldd", str(self.agent)],
            stdout=subprocess.PIPE, check=True, env={**os.environ, "LD_LIBRARY_PATH": self.libraries},
        )  # fmt: skip
        for path in re.findall(r"(/\S+) \(0x", said.stdout.decode()):
            inside = path if path.startswith("/lib64/") else f"/lib/x86_64-linux-gnu/{Path(path).name}"
            files[inside[1:]] = Path(path).read_bytes()
        folders = {"dev", "proc", "sys", "run", "tmp", "root"}
        folders |= {str(parent) for name in files for parent in Path(name).parents if str(parent) != "."}
        target.write_bytes(gzip.compress(archive(sorted(folders), files), compresslevel=1))


def archive(folders: Sequence[str], files: Mapping[str, bytes]) -> bytes:
    """A cpio archive as the kernel reads it; all files are programs."""
    numbers = itertools.count(1)

    def entry(name: str, mode: int, content: bytes) -> bytes:
        fields = (next(numbers), mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        return head + b"\0" * (-len(head) % 4) + content + b"\0" * (-len(content) % 4)

    parts = [entry(name, stat.S_IFDIR | 0o755, b"") for name in folders]
    parts += [entry(name, stat.S_IFREG | 0o755, content) for name, content in files.items()]
    return b"".join([*parts, entry("TRAILER!!!", 0, b"")])


class Machine:
    """One QEMU. folder: of its own, short enough for sockets."""

    def __init__(self, kit: Kit, folder: Path, system: Path, name: str, mark: str) -> None:
        self.folder, self.paused = folder, False
        folder.mkdir(parents=True, exist_ok=True)
        self._agent: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._alone = asyncio.Lock()
        self._counter = itertools.count(1000)
        words = [
            *kit.words(), "-name", name, "-m", "256", "-smp", "1", "-nodefaults", "-nic", "none", "-display", "none",
            "-no-reboot", "-kernel", str(kit.kernel), "-initrd", str(system), "-append", "console=ttyS0 quiet panic=-1",
            "-serial", f"file:{folder / 'log'}",
            "-chardev", f"socket,id=ga,path={folder / 'ga'},server=on,wait=off", "-device", "isa-serial,chardev=ga",
            "-qmp", f"unix:{folder / 'qmp'},server=on,wait=off",
        ]  # fmt: skip
        environment = {**os.environ, "LD_LIBRARY_PATH": kit.libraries, sitter.MARK: mark}
        with (folder / "said").open("wb") as out:
            self.process = subprocess.Popen(  # noqa: S603 - as above
                words, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    async def ask(self, command: str, within_s: float = _ANSWER_S, **arguments: Any) -> Any:
        """What the agent answers. Raises GuestFault, and TimeoutError or OSError where there is no agent."""
        async with self._alone:
            try:
                return await asyncio.wait_for(self._ask(command, arguments), within_s)
            except (asyncio.TimeoutError, OSError):
                self._forget()
                raise

    async def _ask(self, command: str, arguments: Json) -> Any:
        if self._agent is None:
            self._agent = await asyncio.open_unix_connection(str(self.folder / "ga"), limit=1 << 25)
        reader, writer = self._agent
        number = next(self._counter)
        # What was half said before is no answer to this: the agent says this number first.
        writer.write(json.dumps({"execute": "guest-sync", "arguments": {"id": number}}).encode() + b"\n")
        while (await self._line(reader)).get("return") != number:
            continue
        writer.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        said = await self._line(reader)
        if "error" in said:
            raise GuestFault(str(said["error"].get("desc", "")))
        return said.get("return")

    @staticmethod
    async def _line(reader: asyncio.StreamReader) -> Json:
        while line := await reader.readline():
            with contextlib.suppress(ValueError):
                said = json.loads(line)
                if isinstance(said, dict) and ("return" in said or "error" in said):
                    return said
        raise ConnectionResetError("QEMU has gone")

    def _forget(self) -> None:
        agent, self._agent = self._agent, None
        if agent is not None:
            agent[1].close()

    async def tell(self, command: str) -> None:
        """One command of QEMU's own monitor."""
        reader, writer = await asyncio.open_unix_connection(str(self.folder / "qmp"))
        try:
            await reader.readline()
            for each in ("qmp_capabilities", command):
                writer.write(json.dumps({"execute": each}).encode() + b"\n")
                await self._line(reader)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def end(self) -> None:
        agent = self._agent
        self._forget()
        self.process.kill()
        await asyncio.to_thread(self.process.wait)
        if agent is not None:
            with contextlib.suppress(OSError):
                await agent[1].wait_closed()
        shutil.rmtree(self.folder, ignore_errors=True)


class QemuGuests:
    """`seams.GuestsLike` with real machines. Snapshots with memory and files through the agent are left to the others."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self._mark = secrets.token_hex(8)
        self._machines: dict[int, Machine] = {}
        self._watching: set[asyncio.Task[None]] = set()
        self._sitter: subprocess.Popen[bytes] | None = None
        self._host: Host | None = None

    def begin(self, host: Host) -> None:
        self._host = host
        folder = host.folder / "qemu"
        folder.mkdir()
        self._kit.system(folder / "system")
        words = [sys.executable, "-I", "-S", sitter.__file__, self._mark, str(folder)]
        self._sitter = subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603

    async def boot(self, vm: Vm) -> None:
        assert self._host is not None
        await self.power_off(vm)
        folder = self._host.folder / "qemu"
        mark = f"{self._mark}/{vm.vmid}/"
        machine = Machine(self._kit, folder / str(vm.vmid), folder / "system", vm.name, mark)
        self._machines[vm.vmid] = machine
        task = asyncio.get_running_loop().create_task(self._until_off(vm.vmid, machine))
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)

    async def _until_off(self, vmid: int, machine: Machine) -> None:
        assert self._host is not None
        while machine.process.poll() is None:  # noqa: ASYNC110 - a child says nothing by itself
            await asyncio.sleep(0.1)
        if self._machines.get(vmid) is machine:
            self._host.powered_off(vmid)

    async def shutdown(self, vm: Vm, *, timeout_s: float) -> bool:
        assert self._host is not None
        machine, until = self._machines.get(vm.vmid), self._host.clock.now() + timeout_s
        if machine is None:
            return True
        with contextlib.suppress(GuestFault, OSError, asyncio.TimeoutError):
            await machine.ask("guest-shutdown", _PING_S)  # which has no answer
        while machine.process.poll() is None and self._host.clock.now() < until:
            await self._host.clock.sleep(0.2)
        return machine.process.poll() is not None

    async def power_off(self, vm: Vm) -> None:
        if machine := self._machines.pop(vm.vmid, None):
            await machine.end()

    async def pause(self, vm: Vm) -> None:
        machine = self._machines[vm.vmid]
        machine.paused = True
        await machine.tell("stop")

    async def resume(self, vm: Vm) -> None:
        machine = self._machines[vm.vmid]
        await machine.tell("cont")
        machine.paused = False

    async def save(self, vm: Vm, name: str) -> None:
        """Nothing is kept: it has no disk that could hold it."""

    async def restore(self, vm: Vm, name: str) -> None:
        await self.boot(vm)

    async def destroyed(self, vm: Vm) -> None:
        await self.power_off(vm)

    async def cloned(self, source: Vm, vm: Vm) -> None:
        """All have the same system."""

    async def ping(self, vm: Vm) -> bool:
        machine = self._machines.get(vm.vmid)
        if machine is None or machine.paused:
            return False
        try:
            await machine.ask("guest-ping", _PING_S)
        except (GuestFault, OSError, asyncio.TimeoutError):
            return False
        return True

    async def _said(self, vm: Vm, command: str, **arguments: Any) -> Any:
        if vm.vmid not in self._machines:
            raise GuestFault("it is off")
        try:
            return await self._machines[vm.vmid].ask(command, **arguments)
        except (OSError, asyncio.TimeoutError) as error:
            raise GuestFault("it does not answer") from error

    async def exec(self, vm: Vm, command: Sequence[str], stdin: bytes) -> int:
        more = {"input-data": base64.b64encode(stdin).decode()} if stdin else {}
        arguments = {"path": command[0], "arg": list(command[1:]), "capture-output": True, **more}
        try:
            said = await self._said(vm, "guest-exec", **arguments)
        except GuestFault as fault:
            if "Failed to execute child process" in str(fault):
                raise NoSuchProgram(command[0]) from fault
            raise
        return int(said["pid"])

    async def exec_status(self, vm: Vm, pid: int) -> Exited | None:
        try:
            said = await self._said(vm, "guest-exec-status", pid=pid)
        except GuestFault:
            return None
        if not said["exited"]:
            return Exited(running=True)
        out, err = (
            base64.b64decode(said.get(f"{name}-data", "")).decode("utf-8", "replace") for name in ("out", "err")
        )
        return Exited(exitcode=said.get("exitcode"), signal=said.get("signal"), out=out, err=err)

    async def interfaces(self, vm: Vm) -> list[Json]:
        found: list[Json] = await self._said(vm, "guest-network-get-interfaces")
        return found

    async def ask(self, vm: Vm, command: str, params: Mapping[str, Any]) -> Any:
        if command.startswith("file-") or command == "set-user-password":
            raise GuestFault("this guest has no files of its own")
        return await self._said(vm, f"guest-{command}")

    async def close(self) -> None:
        machines, self._machines = list(self._machines.values()), {}
        for machine in machines:
            await machine.end()
        for task in [*self._watching]:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        if self._sitter is not None:
            sitting, self._sitter = self._sitter, None
            assert sitting.stdin is not None
            sitting.stdin.close()
            await asyncio.to_thread(sitting.wait)
