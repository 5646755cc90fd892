"""The GPU slice of this server, where it has one: tried out once, and watched for memory that it could not give.

Whoever started the server says in its environment where the test is, where its verdict goes, and where the slice counts.
"""

from __future__ import annotations

import importlib.util
import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

SELFTEST, VERDICT, REFUSALS = "LABSPAWNER_SELFTEST", "LABSPAWNER_VERDICT", "LABSPAWNER_GPU_REFUSALS"
OWN = "own"
"""As the place of the test: the one that this installation of labspawner brings along."""
LOG = "log"
"""As the place of the verdict: a line of the server's log that begins with `LOG_MARK`."""
LOG_MARK = "labspawner-slice-verdict "
_KERNEL_TEST_S = 30.0
_COUNT = struct.Struct("<Q")


def begin_test(environment: Mapping[str, str]) -> threading.Thread | None:
    """Try the slice out beside the start of this server, in its own process and in one as a kernel is; None: nobody asks.

    That it has begun is known when this returns; the verdict is written when there is one.
    """
    program, verdict = environment.get(SELFTEST), environment.get(VERDICT)
    if not (program and verdict):
        return None
    if program == OWN:
        program = os.path.join(os.path.dirname(os.path.dirname(__file__)), "gpu", "selftest.py")  # noqa: PTH118, PTH120
    _write(verdict, b'{"begun": true}\n')
    thread = threading.Thread(target=_test, args=(program, verdict), name="labspawner-selftest", daemon=True)
    thread.start()
    return thread


def _test(program: str, verdict: str) -> None:
    results = {"server": _here(program), "kernel": _as_a_kernel(program)}
    _write(verdict, json.dumps(results).encode() + b"\n")


def _here(program: str) -> dict[str, Any]:
    """In this process, which must not keep a context on the card: the quick test."""
    try:
        spec = importlib.util.spec_from_file_location("_labspawner_selftest", program)
        assert spec is not None
        assert spec.loader is not None
        module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found: dict[str, Any] = module.examine(quick=True).to_json()
    except Exception as exc:  # whatever goes wrong, somebody waits for the verdict
        return _unknown(exc)
    return found


def _as_a_kernel(program: str) -> dict[str, Any]:
    """In a process of its own that is executed in this sandbox, as kernels are: the whole test."""
    try:
        done = subprocess.run(  # noqa: S603 - the test that our own provider shows us
            [sys.executable, "-I", "-S", program],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=_KERNEL_TEST_S,
            check=False,
        )
        found: dict[str, Any] = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as exc:
        return _unknown(exc)
    return found


def _unknown(exc: Exception) -> dict[str, Any]:
    return {"verdict": "unknown", "reason": f"{type(exc).__name__}: {exc}"}


def _write(path: str, text: bytes) -> None:
    if path == LOG:
        sys.stderr.write(LOG_MARK + text.decode())
        sys.stderr.flush()
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, text, 0)
        finally:
            os.close(descriptor)
    except OSError:  # nobody hears of it, and says so
        return


class Refusals:
    """How often the slice had no memory for a program: one number, read at every look."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._path, _, at = environment.get(REFUSALS, "").rpartition(":")
        self._at = int(at) if at.isdigit() else 0

    def count(self) -> int:
        """The number now; 0 where there is no slice, or it cannot be read."""
        if not self._path:
            return 0
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return int(_COUNT.unpack(os.pread(descriptor, _COUNT.size, self._at))[0])
            finally:
                os.close(descriptor)
        except (OSError, struct.error):
            return 0
