"""What every page of the console has: who reads it, the frame, and errors as pages."""

from __future__ import annotations

import contextlib
from typing import Any

from jupyterhub.services.auth import HubOAuthCallbackHandler
from tornado import web

from labspawner.pages.handlers import is_local_path
from labspawner.service.console.base import ConsoleHandler
from labspawner.service.console.house import House
from labspawner.service.console.pages.render import Frame, render
from labspawner.service.console.problems import Problem, title_of


class PageHandler(ConsoleHandler):
    """A page for people. `caller` is who reads it, `house` what it is made of.

    A route is `(pattern below the prefix, handler)`, for example `(r"courses/([a-z0-9-]+)/", WallHandler)`.
    """

    async def prepare(self) -> None:
        """Let in who is logged in, and know what the top of each page says."""
        if self.request.method in {"GET", "HEAD"}:
            self.house.reading()
        await super().prepare()
        if hasattr(self, "caller"):
            with contextlib.suppress(Problem):  # a hub that is away is said by what asks more of it
                await self.house.about()

    def frame(self) -> Frame:
        """What the page stands in, for this reader."""
        caller, about = getattr(self, "caller", None), self.house.last_about
        return Frame(
            language=self.language,
            prefix=self.house.prefix,
            base_url=self.house.base_url,
            user=caller.name if caller else "",
            admin=caller.admin if caller else False,
            uri=self.request.uri or "",
            xsrf=_text(self.xsrf_token),
            demo=about.demo,
            bare=about.bare,
            pretended=about.pretended,
        )

    async def show(self, template: str, **values: Any) -> None:
        """Answer with a template of `templates/`, in the reader's language."""
        self.finish(render(self.frame(), template, **values))

    def go(self, path: str) -> None:
        """Send the browser to a page of this service; never elsewhere. path: below the prefix."""
        target = self.house.prefix + path.lstrip("/")
        self.redirect(target if is_local_path(target, self.house.prefix) else self.house.prefix, status=303)

    def write_problem(self, problem: Problem) -> None:
        self.clear_header("Content-Length")
        self.set_header("Content-Type", "text/html; charset=UTF-8")
        page = render(
            self.frame(),
            "error.html",
            status=problem.status,
            title=title_of(problem.status),
            message=problem.message,
            again=problem.status in {412, 429, 503},
        ).encode()
        self.set_header("Content-Length", str(len(page)))
        self.write(page)


def _text(token: bytes | str) -> str:
    """Tornado's token is bytes, JupyterHub's is either."""
    return token.decode("ascii") if isinstance(token, bytes) else token


class NothingHandler(PageHandler):
    """Any other address: a page that says so, for somebody who is logged in."""

    async def get(self) -> None:
        self.send_error(404)


class StaticHandler(web.StaticFileHandler):
    """Files that everybody may read: ours, the hub pages', and JupyterHub's style."""

    def set_extra_headers(self, path: str) -> None:
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "public, max-age=86400" if "v" in self.request.query_arguments else "no-cache")


class CallbackHandler(HubOAuthCallbackHandler):  # type: ignore[misc]
    """Where the hub's log-in comes back to."""

    def initialize(self, house: House) -> None:
        self.hub_auth = house.hub.auth

    async def prepare(self) -> None:
        """Ask who is logged in already; JupyterHub's own way would hold up everybody else meanwhile."""
        self._hub_auth_user_cache = await self.hub_auth.get_user(self, sync=False)
