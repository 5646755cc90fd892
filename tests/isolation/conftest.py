"""Two students at once on each rung that this machine allows, started cold and warm; others come and go."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from isolation.students import Enter, Lab, Student

from labspawner.providers.local.ladder import find_sandbox
from labspawner.providers.local.limits import probe, probe_scopes

_NUMBERS = itertools.count(1)


def why_not(rung: str) -> str:
    """Why this machine has no such rung; empty where it has."""
    if (missing := find_sandbox()) is not None:
        return str(missing)
    if rung == "cgroup":
        control = probe(hub_id="attack-probe", provider="local")
        return "" if control.groups is not None else control.words
    if rung == "systemd":
        scopes = probe_scopes(hub_id="attack-probe", provider="local")
        return "" if scopes.groups is not None else scopes.words
    return ""


@pytest.fixture(scope="session", params=["systemd", "cgroup", "rlimit"])
def rung(request: pytest.FixtureRequest) -> str:
    if why := why_not(request.param):
        pytest.skip(f"no rung {request.param} here: {why}")
    return str(request.param)


@pytest.fixture(scope="session", params=["cold", "warm"])
def lab(rung: str, request: pytest.FixtureRequest) -> Iterator[Lab]:
    made = Lab(rung, request.param)
    yield made
    made.close()


@pytest.fixture(scope="session")
def ann(lab: Lab) -> Student:
    """The one who attacks; nothing that ends her server."""
    return lab.enter("ann")


@pytest.fixture(scope="session")
def bob(lab: Lab) -> Student:
    """The other one."""
    return lab.enter("bob")


@pytest.fixture
def enter(lab: Lab) -> Iterator[Enter]:
    """Another student, for what a server does not survive."""
    made: list[Student] = []

    def one(**changes: object) -> Student:
        made.append(lab.enter(f"mallory{next(_NUMBERS)}", **changes))
        return made[-1]

    yield one
    for student in made:
        student.leave()
