"""The files of all slices of this node: made before anybody asks, at paths that never change. Blocking, in one thread.

Each slice has its folder at `<state>/slices/<name>`, also when nobody has it, and after a reboot: the kubelet remembers what
an Allocate answered, and starts a container of the same pod again without asking. A folder that was given away is exchanged
for a new one when its pod is gone, or at the latest when it is given away again. What was exchanged lies in `<state>/old`
until no process is left in it. Nothing here waits for a disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path

from labspawner.gpu import region, selftest, verdict
from labspawner.gpu.agent.answers import SliceFiles
from labspawner.gpu.agent.settings import BadSettings
from labspawner.gpu.folder import NODE_MOST_BYTES, SliceFolder, cut_off, make_node
from labspawner.gpu.limits import SliceLimits
from labspawner.gpu.region import BadRegion, Reading

log = getLogger(__name__)

_GIVEN, _VERDICT = "given", "verdict"


@dataclass(frozen=True, slots=True)
class Given:
    """What a pod has. ids: the slices that it is made of; age_s: how long ago it was given; mark: another one each time."""

    ids: frozenset[str]
    age_s: float
    mark: tuple[int, int] = (0, 0)


class Folders:
    """The folders below `state`, and what all slices share. libvgpu_dir: where libvgpu.so and the self-test are put.

    tested: whether servers try their slices out.
    """

    def __init__(self, state: Path, libvgpu_dir: Path, *, libvgpu: Path, tested: bool = True) -> None:
        self._slices, self._old, self._new = state / "slices", state / "old", state / "new"
        self._node, self._libvgpu_dir, self._tested = state / "node", libvgpu_dir, tested
        self._libvgpu_source = libvgpu
        self.libvgpu = self.selftest = Path()

    def open(self) -> None:
        """Make what all slices share. Raises BadSettings where these folders cannot be used."""
        try:
            for folder in (self._slices, self._old):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.rmtree(self._new, ignore_errors=True)
            self._new.mkdir(mode=0o700)
            make_node(self._node)
            self._libvgpu_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
            self.libvgpu = _put(self._libvgpu_source, self._libvgpu_dir)
            self.selftest = _put(Path(selftest.__file__), self._libvgpu_dir)
        except OSError as exc:
            raise BadSettings(f"the folders for slices cannot be used: {exc}") from exc

    def put_driver(self, source: Path) -> Path:
        """A copy of the pretended driver where containers of this node can see it. Raises OSError."""
        names = sorted(path for path in source.iterdir() if path.is_file() and ".so" in path.name)
        said = hashlib.sha256(b"".join(path.read_bytes() for path in names)).hexdigest()[:12]
        target, made = self._libvgpu_dir / f"pretended-{said}", self._libvgpu_dir / f".pretended-{secrets.token_hex(4)}"
        if not target.exists():
            made.mkdir(mode=0o755)
            try:
                for path in names:
                    shutil.copyfile(path, made / path.name)
                made.rename(target)
            finally:
                shutil.rmtree(made, ignore_errors=True)
        return target

    def files(self, name: str) -> SliceFiles:
        """Where the files of a slice are, or would be."""
        folder = SliceFolder(self._slices / name)
        said = folder.root / _VERDICT if self._tested else None
        return SliceFiles(folder=folder, node=self._node, libvgpu=self.libvgpu, selftest=self.selftest, verdict=said)

    def prepare(self, limits: SliceLimits) -> None:
        """Have the folder of a slice ready. One that is given away stays as it is; one of other limits is made anew."""
        folder = self.files(limits.name).folder
        if folder.root.is_dir():
            if self.is_given(limits.name):
                return
            with contextlib.suppress(OSError, ValueError):
                if folder.read() == limits:
                    return
            self._put_aside(folder)
        self._make(limits)

    def give(self, limits: SliceLimits, ids: Iterable[str] = ()) -> SliceFiles:
        """A fresh folder for a container that is about to be made; takes a millisecond. ids: of the slices that it is
        made of. Raises OSError."""
        files = self.files(limits.name)
        if self.is_given(limits.name):
            self._put_aside(files.folder)
        self.prepare(limits)
        self.mark(limits.name, ids)
        return files

    def mark(self, name: str, ids: Iterable[str] = ()) -> None:
        """Remember that a pod has it, also for later agents."""
        with contextlib.suppress(FileNotFoundError):
            (self._slices / name / _GIVEN).write_text("\n".join(sorted(ids)), encoding="utf-8")

    def is_given(self, name: str) -> bool:
        return (self._slices / name / _GIVEN).exists()

    def given(self) -> dict[str, Given]:
        """The slices that were given away."""
        found, now = {}, time.time()
        for folder in self._all():
            mark = folder / _GIVEN
            with contextlib.suppress(OSError):
                ids = frozenset(mark.read_text(encoding="utf-8", errors="replace").split())
                seen = mark.stat()
                found[folder.name] = Given(ids, max(0.0, now - seen.st_mtime), (seen.st_ino, seen.st_mtime_ns))
        return found

    def take_back(self, name: str, limits: SliceLimits | None) -> bool:
        """Exchange the folder of a slice whose pod is gone; limits: None where nobody needs it again. Whether that was
        done: not while a process is in it."""
        folder = SliceFolder(self._slices / name)
        if _is_alive(folder):
            return False
        self._put_aside(folder)
        if limits is not None:
            self._make(limits)
        return True

    def keep_only(self, names: Iterable[str]) -> None:
        """Put aside folders that no slice needs, and that were not given away."""
        wanted = set(names)
        for folder in self._all():
            if folder.name not in wanted and not self.is_given(folder.name):
                self._put_aside(SliceFolder(folder))

    def tidy(self) -> None:
        """Remove what was put aside, unless some process is left in it; cut off what programs made grow."""
        for folder in _entries(self._old):
            if not _is_alive(SliceFolder(folder)):
                SliceFolder(folder).remove()
        for name in self.given():
            for path, most in ((SliceFolder(self._slices / name).region, region.SIZE),
                               (self._slices / name / _VERDICT, verdict.MAX_BYTES)):  # fmt: skip
                if cut_off(path, most):
                    log.warning("somebody made a file of a slice grow, cut off slice=%s file=%s", name, path.name)
        cut_off(self._node, NODE_MOST_BYTES)

    def reading(self, name: str) -> Reading | None:
        """What a slice is used for; None where its files do not say."""
        try:
            return region.read(self.files(name).folder.region)
        except (OSError, BadRegion, ValueError, OverflowError):
            return None

    def limits(self, name: str) -> SliceLimits | None:
        """The limits of a slice; None where its files do not say."""
        try:
            return self.files(name).folder.read()
        except (OSError, ValueError):
            return None

    def verdict(self, name: str) -> verdict.Verdict | None:
        """What the self-test came to; None while nobody knows."""
        found = verdict.read(self._slices / name / _VERDICT)
        return None if found is verdict.NOBODY_TESTS else found

    def _make(self, limits: SliceLimits) -> None:
        """Whole before anybody sees it."""
        made = SliceFolder(self._new / f"{limits.name}.{secrets.token_hex(4)}")
        try:
            made.make(limits)
            if self._tested:
                verdict.make(made.root / _VERDICT)
            made.root.rename(self._slices / limits.name)
        except BaseException:
            made.remove()
            raise

    def _put_aside(self, folder: SliceFolder) -> None:
        with contextlib.suppress(FileNotFoundError):
            folder.root.rename(self._old / f"{folder.root.name}.{secrets.token_hex(4)}")

    def _all(self) -> list[Path]:
        return _entries(self._slices)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _is_alive(folder: SliceFolder) -> bool:
    """Whether a process is in this slice: its lock in the region says so."""
    try:
        return bool(region.read(folder.region).processes)
    except (OSError, BadRegion, ValueError, OverflowError):
        return False


def _put(source: Path, folder: Path) -> Path:
    """A copy of `source` under a name that says what is in it: a container that runs keeps the one it has. Raises OSError."""
    content = source.read_bytes()
    target = folder / f"{source.stem}-{hashlib.sha256(content).hexdigest()[:12]}{source.suffix}"
    if not target.exists():
        made = folder / f".{target.name}.{secrets.token_hex(4)}"
        try:
            made.write_bytes(content)
            made.chmod(0o755)
            made.replace(target)
        finally:
            made.unlink(missing_ok=True)
    return target
