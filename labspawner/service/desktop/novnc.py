"""Where noVNC's files are on this machine. They are installed beside labspawner; no browser fetches them elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from labspawner.sentences import Sentence

DEBIAN = Path("/usr/share/novnc")
PACKAGE = Path("@novnc", "novnc")
MISSING = Sentence(
    "The viewer is not installed here, so the screen cannot be shown. An administrator installs it with "
    "“apt-get install novnc” or “npm install --global @novnc/novnc”."
)
_USUAL = (Path("/usr/lib/node_modules"), Path("/usr/local/lib/node_modules"), Path("/usr/share/nodejs"))
_NPM_S = 10.0


def usable(folder: Path) -> bool:
    """Whether `folder` holds noVNC as ES modules, which a browser can load."""
    return (folder / "core" / "rfb.js").is_file() and (folder / "vendor" / "pako").is_dir()


def find(configured: str = "", *, folders: Iterable[Path] | None = None) -> Path | None:
    """The folder of noVNC: the configured one or none; else npm's, which is newer, else Debian's. Blocks.

    folders: instead of those that npm and Debian use.
    """
    if configured:
        return Path(configured) if usable(Path(configured)) else None
    for folder in _candidates() if folders is None else folders:
        if usable(folder):
            return folder
    return None


def _candidates() -> Iterable[Path]:
    for modules in _USUAL:
        yield modules / PACKAGE
    yield DEBIAN
    root = _npm_root()
    if root is not None:
        yield root / PACKAGE


def _npm_root() -> Path | None:
    """Where npm puts what is installed with --global, where that is none of the usual places."""
    npm = shutil.which("npm")
    if npm is None:
        return None
    try:
        told = subprocess.run(  # noqa: S603 - a program of the administrator's PATH, without arguments from outside
            [npm, "root", "--global"],
            capture_output=True,
            text=True,
            timeout=_NPM_S,
            check=True,
            env={**os.environ, "NO_UPDATE_NOTIFIER": "1"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return Path(told.stdout.strip()) if told.stdout.strip() else None
