"""From a request to a command line. Pure: the rungs of the sandbox ladder are functions of this shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from labspawner.model import LaunchRequest, Resources
from labspawner.providers.local.options import LocalVariant

_REFUSES_ROOT = frozenset({"jupyterhub-singleuser", "jupyter-labhub", "jupyter-lab", "jupyter-notebook"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """What is executed, where, and with which environment (secrets included, so never logged)."""

    argv: tuple[str, ...]
    cwd: str
    environment: Mapping[str, str] = field(repr=False)


def plain(argv: Sequence[str], *, home: str, environment: Mapping[str, str], as_root: bool) -> Invocation:
    """The lowest rung: the process as it stands, no isolation at all, for a demo on loopback.

    as_root: the hub runs as root; Jupyter's servers refuse that unless told.
    """
    words = tuple(argv)
    if as_root and PurePath(words[0]).name in _REFUSES_ROOT and "--allow-root" not in words:
        words = (*words, "--allow-root")
    return Invocation(argv=words, cwd=home, environment={**environment, "HOME": home})


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
