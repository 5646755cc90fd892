"""What `jupyterhub_config.py` wires into the hub: our templates, their helper, and our handlers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from jinja2.ext import Extension

from labspawner.pages import callhome
from labspawner.pages.admin import AdminHandler
from labspawner.pages.form import TEMPLATES_DIR
from labspawner.pages.handlers import (
    STATIC_DIR,
    LanguageHandler,
    ProgressHandler,
    StaticHandler,
    StopHandler,
    request_language,
)
from labspawner.pages.home.handlers import DiscardHandler, ExtendHandler, HomeHandler
from labspawner.pages.home.visits import VisitHandler
from labspawner.pages.lab import CONSOLE, DESKTOPS, DemoHint, Lab, utcnow

__all__ = [
    "CONSOLE",
    "DESKTOPS",
    "DemoHint",
    "Lab",
    "configure",
    "extra_handlers",
    "request_language",
    "template_paths",
    "template_vars",
]


class HtmlLanguage(Extension):
    """Makes JupyterHub's `page.html` state the language it is written in; the tag stands outside all its blocks."""

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        return source.replace('<html lang="en">', "<html lang=\"{{ lab.language() if lab else 'en' }}\">", 1)


def template_paths() -> list[str]:
    """For `c.JupyterHub.template_paths`: our templates, which extend JupyterHub's."""
    return [str(TEMPLATES_DIR)]


def template_vars(
    demo: DemoHint | None = None, clock: Callable[[], datetime] = utcnow
) -> dict[str, Callable[[Any], Lab]]:
    """For `c.JupyterHub.template_vars`: JupyterHub calls `lab` with the user of each request, None before log-in."""
    return {"lab": lambda user: Lab(user, demo=demo, clock=clock)}


def jinja_options() -> dict[str, Any]:
    """For `c.JupyterHub.jinja_environment_options`: lets every page state its language to screen readers."""
    return {"extensions": [HtmlLanguage]}


def extra_handlers() -> list[tuple[str, type, dict[str, Any]]]:
    """For `c.JupyterHub.extra_handlers`: our static files, the language switch, progress, Stop, Extend, Delete, the
    home page's fresh data, the administrator's page, and where machines call for their environment."""
    return [
        (r"/labspawner/static/(.*)", StaticHandler, {"path": str(STATIC_DIR)}),
        (r"/labspawner/language", LanguageHandler, {}),
        (r"/labspawner/progress/([^/]+)(?:/([^/]+))?", ProgressHandler, {}),
        (r"/labspawner/stop/([^/]+)(?:/([^/]+))?", StopHandler, {}),
        (r"/labspawner/extend/([^/]+)(?:/([^/]+))?", ExtendHandler, {}),
        (r"/labspawner/discard/([^/]+)(?:/([^/]+))?", DiscardHandler, {}),
        (r"/labspawner/visits/([^/]+)(?:/([^/]+))?", VisitHandler, {}),
        (r"/labspawner/home", HomeHandler, {}),
        (r"/labspawner/admin", AdminHandler, {}),
        *callhome.extra_handlers(),
    ]


def configure(c: Any, *, demo: DemoHint | None = None) -> None:
    """Wire all of the above into the configuration object `c` of `jupyterhub_config.py`."""
    c.JupyterHub.template_paths = template_paths()
    c.JupyterHub.template_vars = dict(template_vars(demo))
    c.JupyterHub.jinja_environment_options = jinja_options()
    c.JupyterHub.extra_handlers = extra_handlers()
