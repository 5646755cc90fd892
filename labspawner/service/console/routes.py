"""All addresses of the console, in one table: pages, the REST API, and files."""

from __future__ import annotations

import re
from typing import Any

from tornado.routing import Rule, URLSpec
from tornado.web import Application, RequestHandler, addslash

from labspawner.service.console.api import ROUTES as API
from labspawner.service.console.api.base import UnknownHandler
from labspawner.service.console.house import House
from labspawner.service.console.pages.admin import ROUTES as ADMIN
from labspawner.service.console.pages.base import CallbackHandler, NothingHandler, StaticHandler
from labspawner.service.console.pages.instructor import ROUTES as INSTRUCTOR
from labspawner.service.console.pages.render import STATIC_DIRS

API_ROOT = "api/v1/"


class FolderHandler(RequestHandler):
    """A page's address that somebody typed without its last slash: on to the page."""

    @addslash
    def get(self, *parts: str) -> None:
        """Never reached: no address of this handler has the slash."""


def make_application(house: House, *, cookie_secret: bytes, log_function: Any = None) -> Application:
    """All addresses below the prefix of `house`; a page of instructors or administrators is `(pattern, handler)`."""
    prefix = re.escape(house.prefix)
    given: dict[str, Any] = {"house": house}
    rules: list[Rule] = [
        URLSpec(rf"{prefix}oauth_callback", CallbackHandler, given),
        *(
            URLSpec(rf"{prefix}-/{name}/(.*)", StaticHandler, {"path": str(folder)})
            for name, folder in STATIC_DIRS.items()
        ),
        *(URLSpec(f"{prefix}{API_ROOT}{route.pattern}", route.handler, given) for route in API),
        URLSpec(rf"{prefix}api(?:/.*)?", UnknownHandler, given),
        *(URLSpec(f"{prefix}{pattern}", handler, given) for pattern, handler in (*INSTRUCTOR, *ADMIN)),
        *(URLSpec(f"{prefix}{pattern[:-1]}", FolderHandler) for pattern, _ in INSTRUCTOR if pattern.endswith("/")),
        URLSpec(r".*", NothingHandler, given),
    ]
    more = {} if log_function is None else {"log_function": log_function}
    return Application(rules, cookie_secret=cookie_secret, xsrf_cookie_kwargs={"samesite": "Lax"}, **more)
