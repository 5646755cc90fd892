"""A desk over real course files and an engine that says what a test gives it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from builders import NOW

from labspawner.availability import Availability, Viewer
from labspawner.courses import Catalog
from labspawner.lifecycle.admission import Room
from labspawner.lifecycle.bells import Bell
from labspawner.model import Lease, Resources

COURSE = """
course: py101
title: {en: Python Basics, zh-CN: 程序设计}
profiles:
  - slug: base
    title: Base
    variants: [{provider: lab, memory: 1GiB}]
    options:
      size:
        title: Size
        choices: {small: {title: Small}, large: {title: Large, set: {memory: 8GiB}}}
  - slug: limited
    title: Limited
    variants: [{provider: lab}]
    limits: {per_user: 1}
"""
SECRET = "course: secret\ntitle: Secret\nprofiles:\n  - {slug: only, title: Only, variants: [{provider: lab}]}\n"
STUDENT = Viewer(user="student1", groups=frozenset({"course-py101"}))


class Rooms:
    """An engine, as far as a desk asks it. free: what each provider has; asked: how often each was asked."""

    def __init__(self) -> None:
        self.providers: dict[str, Any] = {"lab": None}
        self.free: dict[str, Room | None | Exception] = {"lab": Room(free=5, total=9)}
        self.asked: list[str] = []
        self.needs: set[Resources] = set()
        self.leases: list[Lease] = []
        self.held: dict[str, Any] = {}
        self.room_changed = Bell()
        self.book = SimpleNamespace(
            all=lambda: list(self.leases),
            of_user=lambda user: [lease for lease in self.leases if lease.user == user],
            changed=Bell(),
        )
        self.holds = SimpleNamespace(all=lambda: list(self.held.values()), of=self.held.get)
        self.instead: tuple[Any, ...] = ()

    def set(self, provider: str, room: Room | None | Exception) -> None:
        """Another moment."""
        self.free[provider] = room
        self.room_changed.ring()

    async def rooms(self, provider: str, needs: Any, ends: Any = ()) -> Any:
        self.asked.append(provider)
        self.needs |= set(needs)
        room = self.free[provider]
        if isinstance(room, Exception):
            raise room
        return None if room is None else dict.fromkeys(needs, room)

    def typical_start_s(self, profile: str, provider: str | None = None) -> float | None:
        return None

    def servers_of(self, user: str, profile: str) -> set[str]:
        return {lease.server_name for lease in self.leases if (lease.user, lease.profile) == (user, profile)}

    def others(self, user: str, server_name: str) -> tuple[Any, ...]:
        return self.instead


@pytest.fixture
def rooms() -> Rooms:
    return Rooms()


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    (tmp_path / "py101.yaml").write_text(COURSE, encoding="utf-8")
    (tmp_path / "secret.yaml").write_text(SECRET, encoding="utf-8")
    found = Catalog(tmp_path)
    found.refresh()
    return found


@pytest.fixture
async def open_desk(rooms: Rooms, catalog: Catalog) -> AsyncIterator[Callable[..., Availability]]:
    """Makes desks; each is closed in the end."""
    made: list[Availability] = []

    async def courses() -> Catalog:
        return catalog

    def open_one(**changes: Any) -> Availability:
        values = {"fresh_s": 3600.0, "tick_s": 0.02, "gap_s": 0.01, **changes}
        made.append(Availability(rooms, courses, lambda: NOW, **values))
        return made[-1]

    yield open_one
    for desk in made:
        await desk.close()


@pytest.fixture
def desk(open_desk: Callable[..., Availability]) -> Availability:
    return open_desk()
