"""`runs="processes"`: a container is a local process with an address, a home and a log of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from labspawner.testing.addresses import Addresses
from labspawner.testing.kube import sitter
from labspawner.testing.kube.podenv import expanded
from labspawner.testing.kube.running import Start, StartFailed

_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
_NO_SUCH = (
    "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: "
    'unable to start container process: exec: "{name}": {why}: unknown'
)


class ProcessRunner:
    """Starts containers as processes. All that they start is ended with them, and with the double's creator."""

    def __init__(self, folder: Path) -> None:
        self.init = False  # each is as process 1 of a container: a signal that it does not handle does nothing
        self._folder, self._mark = folder, secrets.token_hex(8)
        self._addresses = Addresses()
        self._sitter: subprocess.Popen[bytes] | None = None
        self._live: set[ProcessContainer] = set()

    def address(self) -> str:
        return self._addresses.take()

    def give_back(self, address: str) -> None:
        self._addresses.give_back(address)

    def start(self, start: Start) -> ProcessContainer:
        self._sit()
        uid, name = start.pod["metadata"]["uid"], start.container["name"]
        place = Place(self._folder, start)
        words = place.command()
        mark = f"{self._mark}/{uid}/{name}/"  # no mark is the beginning of another
        environment = place.environment(mark)
        program = _program(words[0], environment["PATH"], place.workdir)
        log = place.folder / f"{name}-{start.attempt}.log"
        with log.open("wb") as out:
            try:
                process = subprocess.Popen(  # noqa: S603 - the pod's own command
                    [program, *words[1:]],
                    env=environment,
                    cwd=place.workdir,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                why = (error.strerror or str(error)).lower()
                raise StartFailed(_NO_SUCH.format(name=words[0], why=why)) from error
        container = ProcessContainer(process, log, mark, init=self.init)
        self._live.add(container)
        container.watch(self._live.discard)
        return container

    def forget(self, uid: str) -> None:
        shutil.rmtree(self._folder / "pods" / uid, ignore_errors=True)

    async def close(self) -> None:
        for container in list(self._live):
            container.kill()
        for container in list(self._live):
            await container.wait()
        if self._sitter is not None:
            sitting, self._sitter = self._sitter, None
            assert sitting.stdin is not None
            sitting.stdin.close()
            await asyncio.to_thread(sitting.wait)
        self._addresses.close()

    def _sit(self) -> None:
        if self._sitter is None:
            words = [sys.executable, "-I", "-S", sitter.__file__, self._mark, str(self._folder)]
            self._sitter = subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603


class Place:
    """Where one container's files lie and how its command line and environment name them."""

    def __init__(self, folder: Path, start: Start) -> None:
        self._start = start
        self._root, uid = folder, start.pod["metadata"]["uid"]
        self.folder: Path = folder / "pods" / uid
        self.home = self.folder / "home"
        self._mounts = self._mounted()
        self.home = self._mounts.get(start.image.home, self.home)
        self._mounts.setdefault(start.image.home, self.home)
        for path in (self.home, *self._mounts.values()):
            path.mkdir(parents=True, exist_ok=True)
        workdir = start.container.get("workingDir")
        self.workdir = Path(self._real(workdir)) if workdir else self.home

    def _mounted(self) -> dict[str, Path]:
        """Where the folder of each mount path lies: claims outlive their pods."""
        spec, namespace = self._start.pod["spec"], self._start.pod["metadata"]["namespace"]
        claims = {v["name"]: (v.get("persistentVolumeClaim") or {}).get("claimName") for v in spec.get("volumes") or []}
        found = {}
        for mount in self._start.container.get("volumeMounts") or []:
            claim = claims.get(mount["name"])
            base: Path = self._root / "claims" / namespace / claim if claim else self.folder / "volumes" / mount["name"]
            found[mount["mountPath"].rstrip("/")] = base / mount.get("subPath", "").strip("/")
        return found

    def _real(self, text: str) -> str:
        """`text` with a path of the container in it replaced by the folder that stands for it."""
        for path, folder in sorted(self._mounts.items(), key=lambda pair: -len(pair[0])):
            text = re.sub(rf"(^|=){re.escape(path)}(?=/|$)", rf"\g<1>{folder}", text)
        return text

    def command(self) -> list[str]:
        container, variables = self._start.container, self._start.environment
        words = [*(container.get("command") or []), *(container.get("args") or [])] or list(self._start.image.command)
        words = [self._real(expanded(word, variables)) for word in words]
        return [
            re.sub(r"^(--(?:ServerApp\.)?ip=)(0\.0\.0\.0)?$", rf"\g<1>{self._start.address}", word) for word in words
        ]

    def environment(self, mark: str) -> dict[str, str]:
        start, image = self._start, self._start.image
        found = {
            "PATH": f"{image.environment / 'bin'}:{_SYSTEM_PATH}",
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "HOSTNAME": start.pod["metadata"]["name"],
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "JUPYTER_CONFIG_PATH": str(self._config()),
            **image.variables,
        }
        found |= {name: self._real(value) for name, value in start.environment.items()}
        if "JUPYTERHUB_SERVICE_URL" in found:
            url = found["JUPYTERHUB_SERVICE_URL"]
            found["JUPYTERHUB_SERVICE_URL"] = re.sub(r"//(0\.0\.0\.0|\[::\]|)(?=:)", f"//{start.address}", url, count=1)
        return found | {sitter.MARK: mark}

    def _config(self) -> Path:
        """An image's user is nobody in particular; ours may be root, which Jupyter refuses unless it is told."""
        folder = self.folder / "jupyter"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "jupyter_server_config.json").write_text(json.dumps({"ServerApp": {"allow_root": True}}), "utf-8")
        return folder


def _program(name: str, path: str, workdir: Path) -> str:
    """The file that `name` means in the container. Raises StartFailed in runc's words."""
    if "/" in name:
        if not (workdir / name).exists():
            raise StartFailed(_NO_SUCH.format(name=name, why=f"stat {name}: no such file or directory"))
        return name
    found = shutil.which(name, path=path)
    if found is None:
        raise StartFailed(_NO_SUCH.format(name=name, why="executable file not found in $PATH"))
    return found


class ProcessContainer:
    """One process and all that it starts."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, mark: str, *, init: bool) -> None:
        self._process, self._mark, self._init = process, mark, init
        self.log: Path | None = log
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def watch(self, over: Callable[[ProcessContainer], None]) -> None:
        """Notice its end, and tell `over`."""
        loop = asyncio.get_running_loop()
        handle = os.pidfd_open(self._process.pid)

        def ended() -> None:
            loop.remove_reader(handle)
            os.close(handle)
            code = self._process.wait()
            self._end_children()
            if not self._ended.done():
                self._ended.set_result(code if code >= 0 else 128 - code)
            over(self)

        loop.add_reader(handle, ended)

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    def end(self) -> None:
        if not self._ended.done() and not (self._init and not _handles(self._process.pid, signal.SIGTERM)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGTERM)

    def kill(self) -> None:
        if not self._ended.done():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _end_children(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        sitter.end(self._mark, patience_s=5.0)

    def memory_bytes(self) -> int:
        return sum(_resident(pid) for pid in _family(self._process.pid))


def _handles(pid: int, number: int) -> bool:
    """Whether this process has a handler for the signal."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return True


def _family(pid: int) -> list[int]:
    found, todo = [], [pid]
    while todo:
        one = todo.pop()
        found.append(one)
        with contextlib.suppress(OSError):
            todo += map(int, Path(f"/proc/{one}/task/{one}/children").read_text().split())
    return found


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0
