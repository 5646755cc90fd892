"""Pages as the hub renders them, without a hub; and as much of a hub's user as they look at."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bs4 import BeautifulSoup
from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PrefixLoader
from jupyterhub._data import DATA_FILES_PATH

from labspawner.model import Ending, Lease
from labspawner.pages import hub
from labspawner.pages.handlers import COOKIE
from labspawner.pages.home.gather import NoDesk
from labspawner.sentences import Sentence

EVIL = "<script>alert(1)</script>"

NOW = datetime.now(timezone.utc).replace(microsecond=0)


class Handler:
    """As much of a request handler as our templates look at."""

    base_url = "/"

    def __init__(self, uri: str = "/hub/home", accept: str = "en", cookie: str | None = None) -> None:
        query = uri.partition("?")[2]
        arguments = dict(part.split("=", 1) for part in query.split("&") if "=" in part)
        self.request = SimpleNamespace(
            uri=uri,
            headers={"Accept-Language": accept},
            query_arguments={key: [value.encode()] for key, value in arguments.items()},
        )
        self.cookies = {COOKIE: cookie} if cookie else {}

    def get_cookie(self, name: str) -> str | None:
        return self.cookies.get(name)

    def set_cookie(self, name: str, value: str, **options: object) -> None:
        assert options["path"] == "/"
        self.cookies[name] = value

    def static_url(self, path: str, **options: object) -> str:
        return f"/hub/static/{path}"


class Board(NoDesk):
    """An engine that has one thing to say."""

    def notice(self, user_name: str, server_name: str) -> Any:
        return SimpleNamespace(
            profile_title={"en": f"Python {EVIL}", "zh-CN": "Python 笔记本"},
            ending=Ending(
                by="culler",
                reason=Sentence("idle for {idle}; this profile's limit is {limit}", idle="46 min", limit="45 min"),
            ),
            at=NOW - timedelta(minutes=7, seconds=20),
        )

    def profile_title(self, key: str) -> dict[str, str]:
        return {"en": "Python notebook"} if key == "py101/base" else {}


def a_user(name: str = "student1", engine: object = None) -> SimpleNamespace:
    user = SimpleNamespace(
        name=name,
        escaped_name=name,
        json_escaped_name=name,
        settings={"labspawner": engine} if engine else {},
        groups=[SimpleNamespace(name="course-py101")],
        admin=False,
        all_spawners=lambda include_default: [],
        server_url=lambda name: f"/user/student1/{name}",
    )
    user.spawner = a_spawner(user)
    user.spawners = {"": user.spawner}
    return user


def a_spawner(user: SimpleNamespace, **changes: Any) -> SimpleNamespace:
    values = {
        "user": user,
        "name": "",
        "options_form": "yes",
        "pending": None,
        "active": False,
        "ready": False,
        "user_options": {"profile": "py101/base"},
        "orm_spawner": SimpleNamespace(started=NOW.replace(tzinfo=None) - timedelta(hours=2)),
        "display_name": "",
        "last_activity": None,
    }
    return SimpleNamespace(**{**values, **changes})


def rendered(
    template: str, handler: Handler | None = None, demo: hub.DemoHint | None = None, **names: Any
) -> BeautifulSoup:
    """`template` as JupyterHub renders it: our folder before its own, and its names."""
    upstream = FileSystemLoader([str(Path(DATA_FILES_PATH) / "templates")])
    loader = ChoiceLoader([PrefixLoader({"templates": upstream}), FileSystemLoader(hub.template_paths()), upstream])
    environment = Environment(loader=loader, autoescape=True, enable_async=True, **hub.jinja_options())
    handler = handler or Handler()
    user = names.get("user")
    namespace = {
        "base_url": "/hub/",
        "prefix": "/",
        "user": None,
        "login_url": "/hub/login",
        "logout_url": "/hub/logout",
        "static_url": handler.static_url,
        "parsed_scopes": {},
        "services": [],
        "xsrf": "token",
        "lab": hub.template_vars(demo, lambda: NOW)["lab"](user),
        **names,
    }
    return BeautifulSoup(asyncio.run(environment.get_template(template).render_async(**namespace)), "html.parser")


def text_of(html: BeautifulSoup) -> str:
    return " ".join(html.select_one("main, .lab-login").text.split())


class FullDesk(Board):
    """A desk that knows what a test gives it, by lease."""

    def __init__(self, *leases: Lease, **answers: Any) -> None:
        self.found: Sequence[Lease] = leases
        self.answers: dict[str, Any] = {"uses": {}, "known": {}, "extension": None, "notice": None, **answers}
        self.extended: list[str] = []

    def leases(self, user: str, server_name: str) -> Sequence[Lease]:
        return [lease for lease in self.found if (lease.user, lease.server_name) == (user, server_name)]

    async def uses(self, leases: Sequence[Lease]) -> Any:
        return self.answers["uses"]

    async def known(self, leases: Sequence[Lease]) -> Any:
        return self.answers["known"]

    async def extension(self, lease: Lease, now: datetime) -> Any:
        return self.answers["extension"]

    def snapshot(self) -> Any:
        return self.answers.get("snapshot") or super().snapshot()

    def notice(self, user_name: str, server_name: str) -> Any:
        return super().notice(user_name, server_name) if self.answers["notice"] == server_name else None


def pinned(**cull: Any) -> dict[str, Any]:
    """What a lease remembers of the profile `py101/base`."""
    title = {"en": "Python notebook", "zh-CN": "Python 笔记本"}
    course = {"en": "Python Basics", "zh-CN": "Python 程序设计基础"}
    return {"title": title, "course_title": course, "options": {"interface": "lab"}, "cull": cull}


def a_running_user(desk: object, **changes: Any) -> SimpleNamespace:
    """A user whose default server runs for two hours."""
    user = a_user(engine=desk)
    user.spawner = a_spawner(user, **{"active": True, "ready": True, **changes})
    user.spawner.orm_spawner = SimpleNamespace(
        started=(NOW - timedelta(hours=2)).replace(tzinfo=None),
        last_activity=(NOW - timedelta(minutes=8)).replace(tzinfo=None),
        user_options={"profile": "py101/base"},
    )
    user.spawners = {"": user.spawner}
    return user


def home(user: Any, language: str = "en", **names: Any) -> BeautifulSoup:
    return rendered("home.html", Handler(accept=language), user=user, default_server=user.spawner, **names)
