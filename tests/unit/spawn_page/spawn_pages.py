"""Course files in words, an engine that knows what is free, and the page that comes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

from bs4 import BeautifulSoup

from labspawner.availability import Availability, Viewer
from labspawner.courses import Catalog
from labspawner.lifecycle.admission import Room
from labspawner.lifecycle.bells import Bell
from labspawner.lifecycle.holds import Hold
from labspawner.model import Resources
from labspawner.spawn_page import render

MONDAY_10 = datetime(2026, 11, 2, 10, 0, tzinfo=timezone.utc)
MEMBER = ("course-py101",)
STAFF = ("course-py101-instructors",)


class Engine:
    """As much of an engine as the page asks. free: what a provider answers: a count, all that a room is, None where it is
    silent, or the exception that it raises. servers: the names of the viewer's servers by profile."""

    def __init__(self, free: Mapping[str, object] | None = None, providers: tuple[str, ...] = ("local", "sim")) -> None:
        self.providers: dict[str, Any] = dict.fromkeys(providers)
        self.free = free or {}
        self.asked: list[tuple[str, Resources]] = []
        self.book = SimpleNamespace(all=list)
        self.holds = SimpleNamespace(all=list, of=self.hold_of)
        self.held: Hold | None = None
        self.servers: dict[str, set[str]] = {}
        self.room_changed = Bell()

    def hold_of(self, user: str) -> Hold | None:
        return self.held if self.held is not None and self.held.user == user else None

    def servers_of(self, user: str, profile: str) -> set[str]:
        return self.servers.get(profile, set())

    def typical_start_s(self, profile: str, provider: str | None = None) -> float | None:
        return None

    async def rooms(self, provider: str, needs: Any, ends: Any = ()) -> dict[Resources, Room] | None:
        self.asked += [(provider, need) for need in needs]
        answer = self.free.get(provider, 5)
        if isinstance(answer, BaseException):
            raise answer
        if answer is None:
            return None
        return {need: answer if isinstance(answer, Room) else Room(free=answer, total=20) for need in needs}


def a_profile(slug: str = "base", *lines: str, provider: str = "local") -> str:
    """One entry of `profiles:`; lines: keys of it, without their indentation."""
    own = [f"title: Title of {slug}"] if not any(line.startswith("title:") for line in lines) else []
    own += [] if any(line.startswith("variants:") for line in lines) else [f"variants: [{{provider: {provider}}}]"]
    return f"  - slug: {slug}\n" + "".join(f"    {line}\n" for line in [*own, *lines])


def a_course(*profiles: str, slug: str = "py101", head: str = "title: Python Basics\n") -> str:
    return f"course: {slug}\n{head}profiles:\n" + "".join(profiles or [a_profile()])


def shown(catalog: Catalog, engine: Engine | None = None, **changes: Any) -> BeautifulSoup:
    """The page as a student of py101 sees it on a Monday at ten (UTC)."""
    values: dict[str, Any] = {
        "user_name": "student1",
        "groups": MEMBER,
        "admin": False,
        "last": None,
        "language": "en",
        "now": MONDAY_10,
        **changes,
    }
    return BeautifulSoup(asyncio.run(drawn(catalog, engine or Engine(), **values)), "html.parser")


async def drawn(
    catalog: Catalog, engine: Engine, *, now: datetime, language: str, asked: Any = None, **who: Any
) -> str:
    """The inside of the form, as the hub makes it."""
    viewer = Viewer(
        user=who["user_name"],
        groups=frozenset(who["groups"]),
        admin=who["admin"],
        last=who["last"],
        server=who.get("server", ""),
    )

    async def courses() -> Catalog:
        return catalog

    desk = Availability(engine, courses, lambda: now)  # type: ignore[arg-type]
    return await render(desk, engine.providers, viewer, language=language, now=now, asked=asked)


def card(html: BeautifulSoup, key: str) -> BeautifulSoup:
    """The card of one profile."""
    return html.select_one(f"input[value='{key}']").parent


def checked(html: BeautifulSoup) -> list[str]:
    return [radio["value"] for radio in html.select("input[type=radio][checked]")]
