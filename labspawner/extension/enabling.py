"""How a server that we start finds this extension where no data files are installed. Imports nothing of Jupyter."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent
CONFIG_PATH = str(HERE / "etc" / "jupyter")
DATA_PATH = str(HERE / "share" / "jupyter")


def environment(given: Mapping[str, str], package_parent: str | None = None) -> dict[str, str]:
    """The variables to set over `given` so that a Jupyter server started with them loads this extension.

    Both the server extension and JupyterLab's part come first in the search paths; what `given` has there stays. Safe to
    apply twice, and where the wheel's data files are installed too.
    package_parent: a folder that holds the package, for an interpreter that has no labspawner (see `link_package`).
    The files must be readable for the server: `PACKAGE` is the folder that a sandbox has to show at the same path.
    """
    added = {"JUPYTER_CONFIG_PATH": CONFIG_PATH, "JUPYTER_PATH": DATA_PATH}
    if package_parent is not None:
        added["PYTHONPATH"] = package_parent
    return {name: _first(path, given.get(name, "")) for name, path in added.items()}


def link_package(folder: Path) -> str:
    """Make `folder` hold nothing but a link to this package, and return it as a `package_parent`.

    An interpreter that gets it as PYTHONPATH sees labspawner and no other package of the hub's environment. Safe to
    repeat, also by two at once; a link that leads elsewhere is replaced. Blocking; raises OSError.
    """
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    link = folder / "labspawner"
    if not link.is_symlink() or link.resolve() != PACKAGE:
        fresh = folder / f".labspawner-{os.getpid()}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(PACKAGE, target_is_directory=True)
        fresh.replace(link)
    return str(folder)


def _first(path: str, others: str) -> str:
    return os.pathsep.join([path, *(other for other in others.split(os.pathsep) if other and other != path)])
