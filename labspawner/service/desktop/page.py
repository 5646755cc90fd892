"""The pages as HTML: Jinja2, in the reader's language, and nothing that a browser would run from anywhere else."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from jinja2 import Environment, FileSystemLoader, select_autoescape
from jupyterhub._data import DATA_FILES_PATH

from labspawner.pages import i18n
from labspawner.pages.handlers import STATIC_DIR as PAGES_STATIC_DIR
from labspawner.sentences import Sentence
from labspawner.service.desktop import novnc
from labspawner.service.desktop.rights import CONSENT_FOR, Role
from labspawner.service.desktop.screens import WORDS, Screen

if TYPE_CHECKING:
    from labspawner.service.desktop.handlers import Handler

HERE = Path(__file__).parent
STATIC_DIRS = {"own": HERE / "static", "lab": PAGES_STATIC_DIR, "hub": Path(DATA_FILES_PATH) / "static"}
"""What is served below `-/`, by the first part of the address; noVNC's folder stands beside them as `novnc`."""
_HOST = re.compile(r"[A-Za-z0-9.-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")


def policy(host: str) -> str:
    """The Content-Security-Policy: scripts and styles from this service alone, none inside the page."""
    sockets = f" ws://{host} wss://{host}" if _HOST.fullmatch(host) else ""  # 'self' is not enough for older browsers
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self' data: blob:; "
        f"connect-src 'self'{sockets}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )


def address(prefix: str, owner: str, server_name: str) -> str:
    """Where the page of a server's screen is."""
    path = f"{prefix}{quote(owner, safe='@~')}/"
    return f"{path}{quote(server_name, safe='')}/" if server_name else path


def desktop(handler: Handler, screen: Screen, role: Role) -> str:
    """The page of one screen."""
    house, language = handler.house, handler.language
    hub = f"{house.base_url}hub/"
    place = f"{quote(screen.owner, safe='@~')}" + (
        f"/{quote(screen.server_name, safe='')}" if screen.server_name else ""
    )
    title = i18n.pick(screen.title, language)
    return _render(
        handler,
        "desktop.html",
        screen=screen,
        owner_looks=role is Role.OWNER,
        title=title,
        state=screen.state.value,
        state_words=i18n.translate(WORDS[screen.state], language),
        action=address(house.prefix, screen.owner, screen.server_name),
        novnc_url=f"{house.prefix}-/novnc/core/rfb.js" if house.novnc else "",
        viewer_missing=None if house.novnc else i18n.translate(novnc.MISSING, language),
        spawn_url=f"{hub}spawn/{place}",
        home_url=f"{hub}home",
        consent_min=round(CONSENT_FOR.total_seconds() / 60),
        xsrf=_text(handler.xsrf_token),
    )


def error(handler: Handler, *, message: Sentence, again: bool) -> str:
    """A page with one sentence. again: loading it again may help."""
    house = handler.house
    return _render(
        handler,
        "refused.html",
        message=i18n.translate(message, handler.language),
        again=again,
        home_url=f"{house.base_url}hub/home",
    )


def _render(handler: Handler, template: str, **values: Any) -> str:
    language = handler.language
    other = i18n.ENGLISH if language == i18n.CHINESE else i18n.CHINESE

    def t(text: str, **params: object) -> str:
        return i18n.translate(text, language, **params)

    return _environment().get_template(template).render(
        t=t,
        language=language,
        other_language=other,
        other_language_name=i18n.LANGUAGES[other],
        switch_url=_switched(handler.request.uri or "", other),
        asset=lambda where, name: f"{handler.house.prefix}-/{where}/{name}?v={_digest(STATIC_DIRS[where] / name)}",
        **values,
    )  # fmt: skip


def _switched(uri: str, language: str) -> str:
    """This page in another language."""
    parts = urlsplit(uri)
    query = [(key, value) for key, value in parse_qsl(parts.query) if key != "lang"]
    return f"{parts.path}?{urlencode([*query, ('lang', language)])}"


def _text(token: bytes | str) -> str:
    return token.decode("ascii") if isinstance(token, bytes) else token


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(str(HERE / "templates")), autoescape=select_autoescape(default=True), trim_blocks=True
    )


@cache
def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
