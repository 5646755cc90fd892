"""Real control groups where this machine lets us, and a folder that behaves like their files where it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from unit.local.limits.control_groups import FolderThatActsLikeV2, Member

from labspawner.naming import new_lease_id
from labspawner.providers.local.limits import Groups, probe
from labspawner.providers.local.limits.cgroupfs import Mounts


@pytest.fixture
def folder(tmp_path: Path) -> FolderThatActsLikeV2:
    """A cgroup v2 mount, nearly."""
    return FolderThatActsLikeV2(tmp_path)


@pytest.fixture
def folder_mounts(folder: FolderThatActsLikeV2) -> Mounts:
    return Mounts(v2=folder.root, own={"": "/"})


@pytest.fixture
def hub_id() -> str:
    """An id that no other test, nor hub, has."""
    return f"test-{new_lease_id()}"


@pytest.fixture
def groups(hub_id: str) -> Iterator[Groups]:
    """This machine's own control groups; whatever a test leaves in them is killed and removed."""
    found = probe(hub_id=hub_id, provider="local")
    if found.groups is None:
        pytest.skip(found.words)
    yield found.groups
    for group in found.groups.list_groups().values():
        group.kill()
        group.remove()


@pytest.fixture
def member() -> Iterator[Callable[..., Member]]:
    """Start a process that joins the given files and then runs a program; it is ended with its test."""
    with ExitStack() as started:

        def start(files: tuple[str, ...], *program: str) -> Member:
            found = Member(files, *program)
            started.callback(found.end)
            return found

        yield start
