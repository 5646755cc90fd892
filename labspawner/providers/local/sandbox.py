"""From a request to what is executed, and with which environment. Pure."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath

from labspawner.model import LaunchRequest, Resources
from labspawner.providers.local.layout import visible
from labspawner.providers.local.options import LocalVariant

_WRITTEN = {
    "JUPYTER_RUNTIME_DIR": "runtime",
    "JUPYTER_CONFIG_DIR": "config",
    "JUPYTERLAB_SETTINGS_DIR": "settings",
    "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
    "IPYTHONDIR": "ipython",
    "XDG_CACHE_HOME": "cache",
    "MPLCONFIGDIR": "matplotlib",
}
_REFUSES_ROOT = frozenset({"jupyterhub-singleuser", "jupyter-labhub", "jupyter-lab", "jupyter-notebook"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """What is executed, where, and with which environment (secrets included, so never logged)."""

    argv: tuple[str, ...]
    cwd: str
    environment: Mapping[str, str] = field(repr=False)


def is_jupyter(argv: Sequence[str]) -> bool:
    """Whether a command is a Jupyter server, which loads our extension."""
    return PurePath(argv[0]).name in _REFUSES_ROOT or "jupyterhub.singleuser" in argv[1:3]


def plain(argv: Sequence[str], *, home: str, environment: Mapping[str, str], as_root: bool) -> Invocation:
    """The lowest rung: the process as it stands, no isolation at all, for a demo on loopback.

    as_root: the hub runs as root; Jupyter's servers refuse that unless told.
    """
    words = tuple(argv)
    if as_root and PurePath(words[0]).name in _REFUSES_ROOT and "--allow-root" not in words:
        words = (*words, "--allow-root")
    return Invocation(argv=words, cwd=home, environment={**environment, "HOME": home})


def confined(
    argv: Sequence[str], *, home: str, name: str, environment: Mapping[str, str], folder: str, trees: Sequence[str]
) -> Invocation:
    """A process in a sandbox, where the home is `home` and the student is called `name`.

    folder: of the commands of the server's environment, first on PATH. Of PATH, what is not seen inside (see `trees`)
    is left out, so that no path of the host is shown.
    """
    parts = [folder, *environment.get("PATH", os.defpath).split(os.pathsep)]
    path = os.pathsep.join(dict.fromkeys(part for part in parts if part.startswith("/") and visible(part, trees)))
    inside = {"HOME": home, "USER": name, "LOGNAME": name, "SHELL": "/bin/bash", "PATH": path}
    return Invocation(argv=tuple(argv), cwd=home, environment={**environment, **inside})


def rescue(invocation: Invocation, *, folder: str) -> Invocation:
    """The same for a home to which nothing can be written: what Jupyter writes by itself goes to `folder`, and what a
    student deletes is gone, not in a bin in the same home."""
    argv = invocation.argv
    if PurePath(argv[0]).name in _REFUSES_ROOT:
        argv = (*argv, "--FileContentsManager.delete_to_trash=False")
    elsewhere = {name: f"{folder}/{place}" for name, place in _WRITTEN.items()}
    return replace(invocation, argv=argv, environment={**invocation.environment, **elsewhere})


def environment_for(
    request: LaunchRequest,
    variant: LocalVariant,
    *,
    url: str,
    kept: Mapping[str, str],
    marks: Mapping[str, str],
) -> dict[str, str]:
    """The whole environment of a server at `url`: what is kept from the hub, the profile's, the hub's own, our marks.

    Later ones win, so that a profile can never replace what the hub says; only where the browser lands is its own.
    """
    environment = {**kept, **variant.environment, **_limits(request.resources), **request.environment_at(url)}
    if variant.default_url is not None:
        environment["JUPYTERHUB_DEFAULT_URL"] = variant.default_url
    return {**environment, **marks}


def _limits(resources: Resources) -> dict[str, str]:
    """What jupyter-resource-usage shows. Nothing enforces it in a plain process."""
    limits = {}
    if resources.memory_bytes is not None:
        limits["MEM_LIMIT"] = limits["MEM_GUARANTEE"] = str(resources.memory_bytes)
    if resources.cpu is not None:
        limits["CPU_LIMIT"] = f"{resources.cpu:g}"
    return limits
