"""How a guest behaves: how long it takes, and what is wrong with it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

Span = tuple[float, float]  # seconds of the double's time, from and to


def _installed() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": "3.11.2", "jupyterhub": None, "jupyterlab": None, "labspawner": None}
    for name in ("jupyterhub", "jupyterlab", "labspawner"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # pragma: no cover - a checkout without the demo's extras
            found[name] = None
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """What happens in a guest. Times are spans of the double's seconds, from which one is drawn.

    boot_s: power-on until its agent answers. agent: False: it never does. resume_s: CPUs on until the agent answers.
    network_s: agent until its network has an address. cloud_init_s: agent until cloud-init is over, with cloud_init as
    the result (`done`, `error`, `degraded`; `running`: for ever). shutdown_s: asked until off. deaf: it does not react
    to that. exec_s: how long a program takes at least. exec_blocked: the agent's own list forbids guest-exec.
    helper: labspawner-guest is installed, speaking `protocol`. versions: what `status` says is installed; jupyterhub None:
    the template has no jupyterhub-singleuser. server_s: `configure` until a server listens.
    calls_home: what is installed calls the hub at each boot, when cloud-init is over, as `call-home-unit` has it.
    network: "usual" (loopback and one address), "none" (no address at all), "link-local" (a link-local address first),
    "docker" (docker0 before the real one), "apipa" (169.254.x.y first, as Windows shows it).
    """

    boot_s: Span = (8.0, 20.0)
    agent: bool = True
    resume_s: Span = (0.3, 1.0)
    network_s: Span = (0.2, 1.0)
    cloud_init_s: Span = (0.5, 3.0)
    cloud_init: Literal["done", "error", "degraded", "running", "absent"] = "done"
    shutdown_s: Span = (3.0, 7.0)
    deaf: bool = False
    exec_s: Span = (0.02, 0.1)
    exec_blocked: bool = False
    helper: bool = True
    calls_home: bool = False
    protocol: int = 1
    versions: Mapping[str, str | None] = field(default_factory=_installed)
    server_s: Span = (1.0, 3.0)
    network: Literal["usual", "none", "link-local", "docker", "apipa"] = "usual"

    def draw(self, span: Span, rng: random.Random) -> float:
        return rng.uniform(*span)
