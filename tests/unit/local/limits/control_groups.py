"""A folder that acts like control groups where the machine has none, and a process that joins real ones."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
from pathlib import Path

from labspawner.providers.local.limits.cgroupfs import CgroupFs

CONTROLLER_FILES = {
    "memory": {
        "memory.max": "max",
        "memory.swap.max": "max",
        "memory.current": "0",
        "memory.stat": "anon 0\ninactive_file 0",
        "memory.events": "oom 0\noom_kill 0",
    },
    "cpu": {"cpu.max": "max 100000", "cpu.weight": "100"},
    "pids": {"pids.max": "max", "pids.current": "0"},
    "dmem": {"dmem.max": "", "dmem.current": ""},
}
EVERYWHERE = {"cgroup.procs": "", "cgroup.subtree_control": "", "cgroup.kill": "", "cgroup.freeze": "0"}


class FolderThatActsLikeV2(CgroupFs):
    """Cgroup v2 as far as files go: a new group has its files, and controllers only as the one above passes them on.

    refuses: files that may not be written, and the error that says so.
    """

    def __init__(self, root: Path, controllers: str = "cpuset cpu io memory pids") -> None:
        self.root = root
        self.refuses: dict[str, int] = {}
        self.written: list[tuple[str, str]] = []
        self._fill(root, controllers)

    def read(self, path: Path) -> str:
        text = super().read(path)
        if path.name == "cgroup.procs":  # who is dead has left
            return "\n".join(pid for pid in text.split() if os.path.exists(f"/proc/{pid}"))
        return text

    def make(self, path: Path) -> None:
        if not path.exists():
            above = super().read(path.parent / "cgroup.subtree_control")
            super().make(path)
            self._fill(path, above)

    def write(self, path: Path, text: str) -> None:
        relative = str(path.relative_to(self.root))
        for name, number in self.refuses.items():
            if relative.endswith(name):
                raise OSError(number, "as told", str(path))
        self.written.append((relative, text))
        if path.name == "cgroup.subtree_control":
            if text[1:] not in self.read(path.parent / "cgroup.controllers").split():
                raise OSError(errno.ENOENT, "no such controller", str(path))
            text = f"{self.read(path)} {text[1:]}"
        if path.name == "cgroup.procs":
            self._leave(text)
        if path.name == "cgroup.kill":
            self._kill(path.parent)
            return
        path.write_text(text)

    def remove(self, path: Path) -> None:
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, "gone", str(path))
        if self.read(path / "cgroup.procs").strip() or self.groups_in(path):
            raise OSError(errno.EBUSY, "busy", str(path))
        for file in path.iterdir():
            file.unlink()
        path.rmdir()

    def _kill(self, folder: Path) -> None:
        for procs in filter(Path.is_file, folder.rglob("cgroup.procs")):
            for pid in procs.read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            procs.write_text("")

    def _leave(self, pid: str) -> None:
        for procs in filter(Path.is_file, self.root.rglob("cgroup.procs")):
            procs.write_text("\n".join(line for line in procs.read_text().split() if line != pid))

    def _fill(self, folder: Path, controllers: str) -> None:
        files = {**EVERYWHERE, "cgroup.controllers": controllers.strip(), "cpu.stat": "usage_usec 0"}
        for controller in controllers.split():
            files |= CONTROLLER_FILES.get(controller, {})
        for name, text in files.items():
            (folder / name).write_text(text)


class Member:
    """A child process that joins the given files first and then runs a program; ended with its test."""

    def __init__(self, files: tuple[str, ...], *program: str) -> None:
        script = 'while [ "$1" != -- ]; do echo 0 > "$1" || exit 99; shift; done; shift; echo joined; exec "$@"'
        self.child = subprocess.Popen(
            ["/bin/sh", "-c", script, "sh", *files, "--", *program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        if self.line() != "joined":
            self.end()
            raise AssertionError("it could not join")

    def line(self) -> str:
        """The next line that it prints."""
        assert self.child.stdout is not None
        return self.child.stdout.readline().decode().strip()

    def end(self) -> None:
        self.child.kill()
        self.child.wait(timeout=120)
        for pipe in (self.child.stdin, self.child.stdout):
            assert pipe is not None
            pipe.close()
