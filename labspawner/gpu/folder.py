"""The files of one slice on the host, and where they stand for the programs in it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from labspawner.gpu import limits as limits_file
from labspawner.gpu import region
from labspawner.gpu.limits import SliceLimits

INSIDE = "/etc/labspawner"
LIMITS_INSIDE = f"{INSIDE}/slice/limits"
REGION_INSIDE = f"{INSIDE}/region"
NODE_INSIDE = f"{INSIDE}/node"
LIBRARY_INSIDE = f"{INSIDE}/libvgpu.so"
PRELOAD_INSIDE = "/etc/ld.so.preload"
PRELOAD_TEXT = f"{LIBRARY_INSIDE}\n"
LIMITS_ENV = "LABSPAWNER_GPU_LIMITS"
SELFTEST_INSIDE, VERDICT_INSIDE, STATE_INSIDE = f"{INSIDE}/selftest.py", f"{INSIDE}/verdict", f"{INSIDE}/pretended"
SELFTEST_ENV, VERDICT_ENV, REFUSALS_ENV = "LABSPAWNER_SELFTEST", "LABSPAWNER_VERDICT", "LABSPAWNER_GPU_REFUSALS"
"""Where a server's extension finds the self-test, where it writes the verdict, and where the slice counts refusals
(`<path>:<offset>`)."""
NODE_MOST_BYTES = 64 + 512 * 512
"""How large the file is that slices share, as native/src/node.h lays it out."""


@dataclass(frozen=True, slots=True)
class Place:
    """A file or folder of the host, and where a sandbox shows it."""

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True, slots=True)
class SliceFolder:
    """One folder of the host with all files of one slice. Memory of the host is best: the region is written often.

    What others may write is the region alone, so the folder itself belongs to who makes it, and is closed to others
    outside a sandbox.
    """

    root: Path

    @property
    def limits(self) -> Path:
        """Replaced as a whole by `resize`, never written to."""
        return self.root / "slice" / "limits"

    @property
    def region(self) -> Path:
        """What the processes of the slice share."""
        return self.root / "region"

    @property
    def preload(self) -> Path:
        """What stands as /etc/ld.so.preload inside."""
        return self.root / "ld.so.preload"

    def make(self, limits: SliceLimits, *, preload: str = PRELOAD_TEXT) -> None:
        """Make all files; `limits.region` says where its processes see the region. Raises OSError, and leaves what was
        made to `remove`."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.limits.parent.mkdir(mode=0o755)
        self.limits.parent.chmod(0o755)
        region.create(self.region, limits)
        self.preload.write_text(preload, encoding="ascii")
        self.preload.chmod(0o644)
        limits_file.write(limits, self.limits)

    def resize(self, limits: SliceLimits) -> None:
        """Give a running slice other limits: what it holds it keeps, and more it gets only below them."""
        limits_file.write(limits, self.limits)
        region.bump(self.region)

    def read(self) -> SliceLimits:
        """The limits as they are now. Raises BadLimits and OSError."""
        return limits_file.read(self.limits)

    def places(self, *, library: Path, node: Path | None) -> tuple[Place, ...]:
        """What a sandbox shows of it, at the paths where the library looks first.

        The folder of the limits is bound, not the file, so that a new one that takes its place is seen inside.
        """
        shown = [
            Place(self.limits.parent, f"{INSIDE}/slice"),
            Place(self.region, REGION_INSIDE, writable=True),
            Place(library, LIBRARY_INSIDE),
            Place(self.preload, PRELOAD_INSIDE),
        ]
        if node is not None:
            shown.append(Place(node, NODE_INSIDE, writable=True))
        return tuple(shown)

    def courtesy(self, *, library: Path, base: Mapping[str, str]) -> dict[str, str]:
        """What makes a process without a sandbox load the library. It may unset it: a courtesy, no limit."""
        loaded = " ".join([str(library), *filter(None, [base.get("LD_PRELOAD", "")])])
        return {"LD_PRELOAD": loaded, LIMITS_ENV: str(self.limits)}

    def remove(self) -> None:
        """Remove every file; safe to repeat. Processes that still run keep the region that they have mapped."""
        shutil.rmtree(self.root, ignore_errors=True)


def make_node(path: Path) -> None:
    """The file through which all slices of a machine lend compute time; one that is there stays. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        path.touch(exist_ok=False)
    path.chmod(0o666)


def cut_off(path: Path, most_bytes: int) -> bool:
    """Cut off what a program wrote behind the end of a file that it may write to, which would be memory of the host:
    whether there was anything."""
    with contextlib.suppress(OSError):
        if path.stat(follow_symlinks=False).st_size > most_bytes:
            os.truncate(path, most_bytes)
            return True
    return False
