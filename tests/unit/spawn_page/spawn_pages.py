"""Course files in words, an engine that knows what is free, and the page that comes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from bs4 import BeautifulSoup

from labspawner.courses import Catalog
from labspawner.model import Resources
from labspawner.spawn_page import render

MONDAY_10 = datetime(2026, 11, 2, 10, 0, tzinfo=timezone.utc)
MEMBER = ("course-py101",)
STAFF = ("course-py101-instructors",)


class Engine:
    """As much of an engine as the page asks. free: what a provider answers, or the exception that it raises."""

    def __init__(self, free: Mapping[str, object] | None = None, providers: tuple[str, ...] = ("local", "sim")) -> None:
        self.providers = dict.fromkeys(providers)
        self.free = free or {}
        self.asked: list[tuple[str, Resources]] = []

    async def free_places(self, provider: str, resources: Resources) -> int | None:
        self.asked.append((provider, resources))
        answer = self.free.get(provider, 5)
        if isinstance(answer, BaseException):
            raise answer
        return answer  # type: ignore[return-value]


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
    return BeautifulSoup(asyncio.run(render(catalog, engine or Engine(), **values)), "html.parser")


def card(html: BeautifulSoup, key: str) -> BeautifulSoup:
    """The card of one profile."""
    return html.select_one(f"input[value='{key}']").parent


def checked(html: BeautifulSoup) -> list[str]:
    return [radio["value"] for radio in html.select("input[type=radio][checked]")]
