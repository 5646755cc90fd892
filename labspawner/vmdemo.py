"""What `labspawner up --pve-sim` adds to a hub: a provider `pve-sim` on a simulated cluster, and a course with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

PROVIDER = "pve-sim"
CONFIG = """\
# Written by `labspawner up --pve-sim`, and again at each of its starts: the hub's configuration, and a simulated cluster.
c = get_config()
load_subconfig({config!r})
from labspawner import vmdemo, wiring
vmdemo.add_to(c, {folder!r}, {config!r})
wiring.run_desktop(c)
wiring.run_console(c)
"""


def config_for(config: Path, folder: Path) -> Path:
    """A configuration in `folder` that is `config` and the cluster which `folder`/cluster.json describes."""
    path = folder / "jupyterhub_config.py"
    path.write_text(CONFIG.format(config=str(config.absolute()), folder=str(folder.absolute())), encoding="utf-8")
    return path


def add_to(c: Any, folder: str, config: str) -> None:
    """Add the provider and its course to `c`, whose other settings stay."""
    here = Path(folder)
    described = json.loads((here / "cluster.json").read_text(encoding="utf-8"))
    settings = {"kind": "proxmox", **described["settings"]}
    if "hub_port" in c.JupyterHub:
        settings["hub_connect_url"] = f"http://127.0.0.1:{c.JupyterHub.hub_port}"
    given = c.Labspawner.providers if "providers" in c.Labspawner else {"local": {}}
    c.Labspawner.providers = {**given, PROVIDER: settings}
    courses = Path(c.Labspawner.courses_dir if "courses_dir" in c.Labspawner else Path(config).parent / "courses")
    c.Labspawner.courses_dir = str(_with(courses, Path(described["course"]), here / "courses"))


def _with(courses: Path, course: Path, folder: Path) -> Path:
    """A folder with links to all course files of `courses`, and to one more."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file in [*sorted(courses.glob("*.yaml")), *sorted(courses.glob("*.yml")), course]:
        (folder / file.name).symlink_to(file.absolute())
    return folder
