"""The console's pages as HTML: Jinja2, in the reader's language, and nothing that a browser would run from elsewhere."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jupyterhub._data import DATA_FILES_PATH
from markupsafe import Markup

from labspawner.pages import i18n
from labspawner.pages.handlers import STATIC_DIR as PAGES_STATIC_DIR
from labspawner.service.console.pages.folding import folding
from labspawner.service.console.sharing import Memo

HERE = Path(__file__).parents[1]
STATIC_DIRS = {"own": HERE / "static", "lab": PAGES_STATIC_DIR, "hub": Path(DATA_FILES_PATH) / "static"}
"""What is served below `-/`, by the first part of the address: ours, the hub pages' style, and JupyterHub's."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy: scripts and styles from this service alone, none inside the page."""

_UNSENDABLE = re.compile("[\ud800-\udfff]")
"""Half of a character, as JSON may bring it: UTF-8 has no bytes for it, and a page that holds one could not be sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What every page stands in.

    prefix: of this service; base_url: of the hub; both begin and end with a slash. uri: of the request, for the language
    switch. user: empty where nobody is logged in. xsrf: for forms. demo, bare, pretended: what is said at the top, as on the
    hub's own pages: a demo on this machine, servers without a sandbox, slices of GPUs that do not exist.
    """

    language: str
    prefix: str = "/services/labspawner/"
    base_url: str = "/"
    user: str = ""
    admin: bool = False
    uri: str = ""
    xsrf: str = ""
    demo: bool = False
    bare: bool = False
    pretended: bool = False

    def url(self, *parts: str) -> str:
        """An address of this service: `url("courses", slug, "")` is `/services/labspawner/courses/<slug>/`."""
        return _joined(self.prefix, parts)


def render(frame: Frame, template: str, **values: Any) -> str:
    """`template` of the folder `templates` with `values`, inside the page's frame. Everything is escaped."""
    whole = _environment(frame.language).get_template(template).render(**names(frame), **values)
    try:
        whole.encode()
    except UnicodeEncodeError:
        return _UNSENDABLE.sub("\ufffd", whole)
    return whole


def part_for_many(
    frame: Frame, template: str, memo: Memo, key: Hashable, values: Callable[[], Mapping[str, Any]]
) -> Markup:
    """A part of a page, made once for everybody who reads the same language and has the same `key`. It is made without the
    reader: no name, no token and no address of a request can stand in it.

    memo: kept as long as what is shown is the same. key: all that `values` depend on beside that and the language.
    """
    nobody = Frame(language=frame.language, prefix=frame.prefix, base_url=frame.base_url)
    today = datetime.now().astimezone().date()  # "16:00" is said of today alone
    whole = (template, frame.language, frame.prefix, frame.base_url, today, key)
    return memo.make(whole, lambda: Markup(render(nobody, template, **values()).strip()))  # noqa: S704 - a template's


def names(frame: Frame) -> dict[str, Any]:
    """What every template may use beside its own values."""
    language = frame.language
    other = i18n.ENGLISH if language == i18n.CHINESE else i18n.CHINESE

    def t(text: str, /, **params: object) -> str:
        return i18n.translate(text, language, **params)

    def say(text: str) -> Markup:
        return i18n.markup(text, language)

    def pick(texts: Mapping[str, str]) -> str:
        return i18n.pick(texts, language)

    return {
        "frame": frame,
        "t": t,
        "say": say,
        "pick": pick,
        "moment": moment,
        "url": frame.url,
        "hub_url": f"{frame.base_url}hub/",
        "language": language,
        "other_language": other,
        "other_language_name": i18n.LANGUAGES[other],
        "switch_url": switched(frame.uri, other),
        "asset": asset_of(frame.prefix),
    }


def moment(instant: datetime | None) -> Markup:
    """`instant` by the reader's clock, once a script has run; else by this machine's. Nothing for None."""
    return i18n.html_instant(instant) if instant is not None else Markup("")


@lru_cache(maxsize=4096)
def _joined(prefix: str, parts: tuple[str, ...]) -> str:
    return prefix + "/".join(quote(part, safe="@~") for part in parts)


@lru_cache(maxsize=8)
def asset_of(prefix: str) -> Callable[[str, str], str]:
    """`asset("own", "console.css")`: the address of a static file, which changes when the file does."""

    @cache
    def asset(where: str, name: str) -> str:
        return f"{prefix}-/{where}/{name}?v={_digest(STATIC_DIRS[where] / name)}"

    return asset


def switched(uri: str, language: str) -> str:
    """This page in another language; a path of this host, whatever was asked for."""
    parts = urlsplit(uri)
    query = [(key, value) for key, value in parse_qsl(parts.query) if key != "lang"]
    return f"/{parts.path.lstrip('/')}?{urlencode([*query, ('lang', language)])}"


@lru_cache(maxsize=len(i18n.LANGUAGES))
def _environment(language: str) -> Environment:
    """The templates as they are in one language."""
    return Environment(
        extensions=[folding(language)],
        loader=FileSystemLoader(str(HERE / "templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
