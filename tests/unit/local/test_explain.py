"""Every cause of a failed start has a sentence that says what to do."""

from __future__ import annotations

import errno

import pytest

from labspawner.errors import LabError, ProviderUnavailable, SetupError
from labspawner.providers.local import explain


@pytest.mark.parametrize(
    ("exit_code", "tail", "said"),
    [
        (-9, "", "memory is full"),
        (137, "", "memory is full"),
        (1, "OSError: [Errno 98] Address already in use", "port"),
        (1, "OSError: [Errno 28] No space left on device", "disk full"),
        (1, "Traceback\nModuleNotFoundError: No module named 'jupyterlab'\n", "No module named 'jupyterlab'"),
        (3, "boom", "exit code 3"),
    ],
)
def test_a_death_is_explained_by_its_exit_code_and_log(exit_code: int, tail: str, said: str) -> None:
    failure = explain.died(exit_code, tail)

    assert said in failure.message
    assert failure.log_tail == tail


@pytest.mark.parametrize(
    ("number", "kind", "said"),
    [
        (errno.EAGAIN, ProviderUnavailable, "too busy"),
        (errno.ENOMEM, ProviderUnavailable, "too busy"),
        (errno.EACCES, SetupError, "may not be run"),
        (errno.ENOENT, SetupError, "pip install jupyterlab"),
        (errno.ENOSPC, SetupError, "disk space"),
        (errno.E2BIG, SetupError, "could not be started"),
    ],
)
def test_a_refused_start_is_explained_by_its_errno(number: int, kind: type[LabError], said: str) -> None:
    failure = explain.refused(OSError(number, "x"), "/opt/bin/jupyterhub-singleuser")

    assert isinstance(failure, kind)
    assert said in failure.message


def test_a_nul_in_a_text_is_a_setup_error() -> None:
    assert isinstance(explain.refused(ValueError("embedded null byte"), "x"), SetupError)


def test_silence_says_how_long_it_waited() -> None:
    assert "within 120 seconds" in explain.silent(120.0, "").message
