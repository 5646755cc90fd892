"""The double of Proxmox VE in a process of its own, for who measures a hub beside it: `PveApart`.

It ends with its standard input, so with whoever started it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from labspawner.testing.pve import PveDouble
from labspawner.testing.pve.guest import Guests

_END_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """pace: how many times as fast as ours its time passes. boot_s: from and to, until a guest's agent answers."""

    pace: float = 20.0
    boot_s: tuple[float, float] = (8.0, 20.0)
    seed: int = 1
    nodes: tuple[str, ...] = ("pve1", "pve2", "pve3")


class PveApart:
    """A context manager: the double runs while it is open, with guests that are no processes."""

    def __init__(self, spec: Spec | None = None) -> None:
        self.spec = spec or Spec()
        self.settings: dict[str, Any] = {}
        """Settings of a provider on it."""
        self.template = 0
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> PveApart:
        spec = {"pace": self.spec.pace, "boot_s": self.spec.boot_s, "seed": self.spec.seed, "nodes": self.spec.nodes}
        words = [sys.executable, "-m", "labspawner.testing.pveapart", json.dumps(spec)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603
        try:
            said = self._said()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self.settings, self.template = said["settings"], said["template"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.communicate(timeout=_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()

    def broken_rules(self) -> list[str]:
        """What is wrong on the cluster; see `PveDouble.invariants`."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        process.stdin.write("rules\n")
        process.stdin.flush()
        found = self._said()
        assert isinstance(found, list)
        return found

    def _said(self) -> Any:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the double in its own process has ended")
        return json.loads(line)


def settings_of(pve: PveDouble, nodes: Sequence[str]) -> dict[str, Any]:
    """Settings of a provider on this double."""
    return {
        "endpoints": pve.url,
        "token": pve.token,
        "fingerprint": pve.fingerprint,
        "pool": pve.pool,
        "addresses": {"default": pve.address_pool},
        "nodes": {name: {"memory": "256GiB", "cores": 64} for name in nodes},
        "pace": pve.pace,
    }


def main(spec: dict[str, Any]) -> None:
    """Run the double that `PveApart` described, until nobody asks any more."""
    guests = Guests.scripted(boot_s=tuple(spec["boot_s"]))
    with PveDouble(
        nodes=tuple(spec["nodes"]), seed=spec["seed"], clock="real", pace=spec["pace"], guests=guests
    ) as pve:
        _say({"settings": settings_of(pve, spec["nodes"]), "template": pve.template})
        for line in sys.stdin:
            _say(pve.invariants() if line.strip() == "rules" else None)


def _say(what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
