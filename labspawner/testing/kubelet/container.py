"""A command, started as in a container: with the mounts, devices and variables that the plugin's answer names."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from labspawner.gpu import limits
from labspawner.gpu.agent import wire
from labspawner.gpu.folder import INSIDE, LIBRARY_INSIDE, LIMITS_ENV, NODE_INSIDE, PRELOAD_INSIDE, REGION_INSIDE

BWRAP = "bwrap"
_SANDBOX = ("--die-with-parent", "--unshare-pid", "--dev-bind", "/", "/", "--proc", "/proc", "--tmpfs", "/etc")
_LET_GO_S = 60.0
_MASKED = ("labspawner", "ld.so.preload")


@functools.cache
def can_mount() -> bool:
    """Whether bubblewrap works here, so that mounts are mounts."""
    if shutil.which(BWRAP) is None:
        return False
    words = [BWRAP, *_SANDBOX, "--", "true"]
    try:
        return subprocess.run(words, capture_output=True, timeout=_LET_GO_S, check=False).returncode == 0  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return False


@dataclass(slots=True, eq=False)
class Grant:
    """The devices of one container, and what the plugins answered. devices: ids by resource."""

    namespace: str
    pod: str
    container: str
    devices: Mapping[str, tuple[str, ...]]
    answers: tuple[wire.ContainerAnswer, ...]
    _running: list[subprocess.Popen[str]] = field(default_factory=list)
    _folders: list[Path] = field(default_factory=list)

    @property
    def mounts(self) -> tuple[wire.Mount, ...]:
        """All mounts, in the answer's order."""
        return tuple(mount for answer in self.answers for mount in answer.mounts)

    @property
    def nodes(self) -> tuple[wire.DeviceNode, ...]:
        """All device nodes."""
        return tuple(node for answer in self.answers for node in answer.devices)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that the container gets with its devices."""
        return {key: value for answer in self.answers for key, value in answer.envs.items()}

    def command(self, words: Sequence[str]) -> list[str]:
        """`words` in a sandbox that has the mounts; without bubblewrap `words` themselves: see `variables`."""
        if not can_mount():
            return list(words)
        out = [BWRAP, *_SANDBOX]
        for entry in sorted(Path("/etc").iterdir()):
            if entry.is_symlink():
                out += ["--symlink", str(entry.readlink()), str(entry)]
            elif entry.name not in _MASKED:
                out += ["--ro-bind-try", str(entry), str(entry)]
        for mount in self.mounts:
            out += ["--ro-bind" if mount.read_only else "--bind", mount.host_path, mount.container_path]
        for node in self.nodes:
            out += ["--dev-bind", node.host_path, node.container_path]
        return [*out, "--", *words]

    def outside(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """The variables of a process that is started without any of the mounts: it finds the same files where they are
        on the host, and is in its slice as long as it does not unset them."""
        base = os.environ if base is None else base
        return {**self.environment, **self._courtesy({**base, **self.environment})}

    def variables(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment of its processes. Without bubblewrap the mounts under /etc/labspawner become variables."""
        found = {**(os.environ if base is None else base), **self.environment}
        return found if can_mount() else {**found, **self._courtesy(found)}

    def start(self, words: Sequence[str], *, env: Mapping[str, str] | None = None, **options: Any) -> Any:
        """Start a process of the container; it ends with the pod. Text streams; `options` as of subprocess.Popen."""
        process = subprocess.Popen(  # noqa: S603 - what a test starts
            self.command(words), env=self.variables(env), text=True, start_new_session=True, **options
        )
        self._running.append(process)
        return process

    def run(self, words: Sequence[str], *, env: Mapping[str, str] | None = None, timeout_s: float = 300.0) -> Any:
        """Run a command in the container to its end: subprocess.CompletedProcess."""
        process = self.start(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = process.communicate(timeout=timeout_s)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def end(self) -> None:
        """Kill its processes; safe to repeat."""
        while self._running:
            process = self._running.pop()
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                process.kill()
            process.wait(_LET_GO_S)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        while self._folders:
            shutil.rmtree(self._folders.pop(), ignore_errors=True)

    def _courtesy(self, base: Mapping[str, str]) -> dict[str, str]:
        """What a process without mounts needs: the same files at their paths on the host."""
        at = {mount.container_path: mount.host_path for mount in self.mounts}
        if LIBRARY_INSIDE not in at or PRELOAD_INSIDE not in at:
            return {}
        held = limits.read(Path(at[f"{INSIDE}/slice"]) / "limits")
        node = at.get(NODE_INSIDE) if held.node else None
        folder = Path(tempfile.mkdtemp(prefix="container-"))
        self._folders.append(folder)
        limits.write(replace(held, region=at[REGION_INSIDE], node=node), folder / "limits")
        return {
            **{key: _outside(value, at) for key, value in self.environment.items()},
            "LD_PRELOAD": " ".join(filter(None, [at[LIBRARY_INSIDE], base.get("LD_PRELOAD", "")])),
            LIMITS_ENV: str(folder / "limits"),
        }


def _outside(value: str, at: Mapping[str, str]) -> str:
    """A variable that names a mounted file, with that file's path on the host."""
    path, colon, rest = value.partition(":")
    return at[path] + colon + rest if path in at else value
