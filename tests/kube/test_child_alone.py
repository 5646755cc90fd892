"""Our child class is still KubeSpawner: by itself it starts, polls and stops with the same requests in the same order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labspawner.testing.kube import KubeDouble

HERE = Path(__file__).parent
OURS = """
import runpy, sys
import kubespawner, kubespawner.spawner
from labspawner.providers.kubernetes.child import ChildSpawner
kubespawner.KubeSpawner = kubespawner.spawner.KubeSpawner = ChildSpawner
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def life(double: KubeDouble, folder: Path, *, program: list[str]) -> tuple[dict[str, Any], list[tuple[str, str, int]]]:
    """What a spawner saw, and what the API server was asked."""
    words = [sys.executable, *program, str(HERE / "kubespawner_life.py"), double.namespace, double.image]
    environment = {**os.environ, "KUBECONFIG": str(double.kubeconfig(folder))}
    ran = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    asked = [(request.verb, request.resource, request.status) for request in double.requests]
    return json.loads(ran.stdout), [row for row in asked if row[0] not in ("list", "watch")]


def test_by_itself_it_lives_as_kubespawner_does(new_double: Callable[..., KubeDouble], tmp_path: Path) -> None:
    theirs, asked_by_theirs = life(new_double(), tmp_path, program=[])
    ours, asked_by_ours = life(new_double(), tmp_path, program=["-c", OURS])

    assert asked_by_ours == asked_by_theirs
    assert (ours["alive"], ours["dead"], ours["reasons"]) == (theirs["alive"], theirs["dead"], theirs["reasons"])
