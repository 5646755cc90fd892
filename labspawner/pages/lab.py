"""What our templates call `lab`: the language, the links and the facts of one request."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from jinja2 import pass_context
from jinja2.runtime import Context
from markupsafe import Markup

from labspawner.courses.catalog import helps
from labspawner.model import Phase
from labspawner.pages import i18n
from labspawner.pages.handlers import (
    STATIC_DIR,
    progress_so_far,
    request_language,
)
from labspawner.pages.home.facts import MOVING
from labspawner.pages.home.gather import again_of, cards_of, desk_of, last_options
from labspawner.pages.home.visits import Visit, Visits
from labspawner.pages.home.words import ServerCard
from labspawner.pages.top import is_bare, pretends_gpus
from labspawner.pages.views import Offered
from labspawner.providers.screens import offers_screen
from labspawner.units import human_duration

DESKTOPS = "labspawner_desktops"
"""Set in the hub's tornado settings where the service that shows servers' screens is configured."""

CONSOLE = "labspawner_console"
"""Set in the hub's tornado settings where the console is configured: the groups whose members may make courses."""
_STAFF_GROUP = re.compile(r"course-.+-(instructors|assistants)")

_ERROR_TITLES = {
    400: "This request cannot be understood",
    401: "Please log in",
    403: "This is not yours to open",
    404: "There is nothing here",
    405: "This cannot be done here",
    409: "Something else is going on with this server",
    424: "Your server is not running",
    429: "Too many people are starting servers just now",
    500: "Something went wrong on our side",
    502: "The server does not answer",
    503: "Not available just now",
    504: "This took too long",
}
_ERROR_ADVICE = {
    400: "Go back, check what you entered, and try again.",
    401: "Log in again; you are brought back to where you were.",
    403: "If you think it should be, ask your instructor to add you to the course.",
    404: "The address may be mistyped, or the server behind it has been stopped.",
    409: "Wait a few seconds, then look at your server again.",
    424: "Start it again from your server's page. Your files are kept.",
    429: "Wait a minute, then try again. Nothing of yours was lost.",
    503: "Wait a minute, then try again. Nothing of yours was lost.",
    504: "Wait a minute, then try again. Nothing of yours was lost.",
}
_OTHER_ADVICE = "Try again. If it happens twice, tell your instructor what you did and when."


@dataclass(frozen=True, slots=True)
class DemoHint:
    """Says on every page that this is the loopback demo. accounts: the user names to show beside the log-in form."""

    accounts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternatives:
    """What can be started instead of what failed. fields: what a form posts for the same choice; key: its profile."""

    fields: tuple[tuple[str, str], ...]
    key: str
    offers: tuple[Offered, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LastServer:
    """A `views.Notice` in the reader's language."""

    title: str
    reason: str
    ago: str


def utcnow() -> datetime:
    return datetime.now(timezone.utc)


class Lab:
    """What templates call `lab`, for one request: its language, its links, and why the last server ended.

    clock: now, with a timezone.
    """

    def __init__(self, user: Any, *, demo: DemoHint | None = None, clock: Callable[[], datetime] = utcnow) -> None:
        self.demo = demo
        self._user = user
        self._now = clock

    @property
    def bare(self) -> bool:
        """Whether some provider is known to start servers without a sandbox."""
        return is_bare(desk_of(self._user).providers.values())

    @property
    def pretended(self) -> bool:
        """Whether some provider gives out slices of GPUs that do not exist."""
        return pretends_gpus(desk_of(self._user).providers.values())

    @property
    def shows_desktops(self) -> bool:
        """Whether this hub has the service that shows servers' screens."""
        return bool((getattr(self._user, "settings", None) or {}).get(DESKTOPS))

    @property
    def teaches(self) -> bool:
        """Whether the reader has something to do in the console: administrators, staff of a course, who may make one. A link
        hangs on it, and no right."""
        creators = (getattr(self._user, "settings", None) or {}).get(CONSOLE)
        if creators is None:
            return False
        groups = {group.name for group in self._user.groups}
        return (
            bool(self._user.admin)
            or not groups.isdisjoint(creators)
            or any(_STAFF_GROUP.fullmatch(group) for group in groups)
            or any(helps(course, groups, False) for course in desk_of(self._user).snapshot().courses())
        )

    def wants_in(self, user: Any, server_name: str) -> str:
        """Who of the course's staff asks to open this server; empty where nobody does."""
        visits, lease = self._visits(user, server_name)
        asked = visits.asked(lease, self._now()) if visits is not None and lease is not None else None
        return asked.visitor if asked is not None else ""

    def visit(self, user: Any, server_name: str) -> Visit | None:
        """Who of the course's staff may open this server now, and until when."""
        visits, lease = self._visits(user, server_name)
        return visits.visit(lease, self._now()) if visits is not None and lease is not None else None

    @staticmethod
    def _visits(user: Any, server_name: str) -> tuple[Visits | None, Any]:
        desk = desk_of(user)
        running = [lease for lease in desk.leases(user.name, server_name) if lease.phase is Phase.READY]
        return getattr(desk, "visits", None), running[0] if running else None

    def has_desktop(self, spawner: Any) -> bool:
        """Whether the screen of the server of `spawner` can be opened."""
        desk = desk_of(spawner.user)
        return self.shows_desktops and any(
            offers_screen(desk.providers.get(lease.provider), lease)
            for lease in desk.leases(spawner.user.name, spawner.name)
            if lease.phase is not Phase.PARKED and lease.handle is not None
        )

    @pass_context
    def desktop_url(self, context: Context, user: Any, server_name: str) -> str:
        """The page of a server's screen."""
        url = f"{context.get('prefix', '/')}services/desktop/{user.escaped_name}/"
        return f"{url}{quote(server_name, safe='')}/" if server_name else url

    @pass_context
    def language(self, context: Context) -> str:
        """The language of this request; English where there is no request."""
        return request_language(_handler(context))

    @pass_context
    def t(self, context: Context, text: str, /, **params: object) -> str:
        """`text` in the language of this request; also a message that only looks like one of our sentences."""
        return i18n.translate(text if params else i18n.recognise(text), self._language(context), **params)

    @pass_context
    def other_language(self, context: Context) -> str:
        return i18n.ENGLISH if self._language(context) == i18n.CHINESE else i18n.CHINESE

    @pass_context
    def other_language_name(self, context: Context) -> str:
        return i18n.LANGUAGES[self.other_language(context)]

    @pass_context
    def switch_url(self, context: Context) -> str:
        """Sets the other language and comes back to this page."""
        query = {"to": self.other_language(context), "next": _return_path(_handler(context), _base_url(context))}
        return f"{_base_url(context)}labspawner/language?{urlencode(query)}"

    @pass_context
    def asset(self, context: Context, name: str) -> str:
        """The URL of one of our static files; changes when the file does."""
        return f"{_base_url(context)}labspawner/static/{name}?v={_digest(STATIC_DIR / name)}"

    @pass_context
    def stop_url(self, context: Context, spawner: Any) -> str:
        return self._server_url(context, "labspawner/stop", spawner)

    @pass_context
    def spawn_url(self, context: Context, spawner: Any) -> str:
        return self._server_url(context, "spawn", spawner)

    @pass_context
    def pending_url(self, context: Context, spawner: Any) -> str:
        return self._server_url(context, "spawn-pending", spawner)

    @pass_context
    def progress_url(self, context: Context, spawner: Any) -> str:
        return self._server_url(context, "labspawner/progress", spawner)

    @pass_context
    async def stages(self, context: Context, spawner: Any) -> list[dict[str, Any]]:
        """What the start of `spawner` has done so far, in words; for the page before, or without, JavaScript."""
        return await progress_so_far(spawner, self._language(context))

    def asks(self, spawner: Any) -> bool:
        """Whether the profile that `spawner` starts lets students pick another variant."""
        found = desk_of(spawner.user).snapshot().profile(str(last_options(spawner).get("profile")))
        return found is not None and found[1].fallback == "ask" and len(found[1].variants) > 1

    async def instead(self, spawner: Any) -> Sequence[Offered]:
        """What a start that stands in line could be at once; for the page before, or without, JavaScript."""
        return await desk_of(spawner.user).instead(spawner.user.name, spawner.name)

    async def elsewhere(self, spawner: Any) -> Alternatives | None:
        """What could be started instead of what `spawner` failed to start; None where there is nothing."""
        if spawner is None:
            return None
        user = spawner.user
        desk, options = desk_of(user), last_options(spawner)
        again = again_of(user, desk, options, self._now())
        if again is None or not again.fields:
            return None
        offers = await desk.elsewhere(user, spawner.name, options)
        return (
            Alternatives(fields=again.fields, key=str(options.get("profile")), offers=tuple(offers)) if offers else None
        )

    @pass_context
    def typical(self, context: Context, spawner: Any) -> str:
        """How long a start like that of `spawner` usually takes, in words; empty where nobody knows."""
        desk = desk_of(spawner.user)
        leases = desk.leases(spawner.user.name, spawner.name)
        lease = next((lease for lease in leases if lease.phase is not Phase.PARKED), None)
        seconds = desk.typical_start_s(lease.profile, lease.provider) if lease is not None else None
        if seconds is None:
            return ""
        span = timedelta(seconds=max(1, round(seconds)) if seconds < 60 else round(seconds / 10) * 10)
        return i18n.translate("{span}", self._language(context), span=human_duration(span))

    @pass_context
    def variant_url(self, context: Context, spawner: Any) -> str:
        return self._server_url(context, "labspawner/variant", spawner)

    @pass_context
    async def running(self, context: Context, user: Any) -> list[ServerCard]:
        """The servers of `user` that run, start or stop; what runs goes before what can be chosen."""
        cards = await self.servers(context, user)
        return [card for card in cards if card.facts.status in MOVING]

    @pass_context
    def error_title(self, context: Context, status_code: int) -> str:
        title = _ERROR_TITLES.get(status_code) or _ERROR_TITLES[500 if status_code >= 500 else 400]
        return i18n.translate(title, self._language(context))

    @pass_context
    def error_advice(self, context: Context, status_code: int) -> str:
        return i18n.translate(_ERROR_ADVICE.get(status_code, _OTHER_ADVICE), self._language(context))

    @pass_context
    def notice(self, context: Context, spawner: Any) -> LastServer | None:
        """Why the server of `spawner` last ended; None where there is nothing to say, or no engine to ask."""
        engine = self._engine(spawner)
        notice = engine.notice(spawner.user.name, spawner.name) if engine else None
        if notice is None:
            return None
        language = self._language(context)
        return LastServer(
            title=i18n.pick(notice.profile_title, language),
            reason=i18n.translate(notice.ending.reason, language),
            ago=self._ago(notice.at, language),
        )

    @pass_context
    def say(self, context: Context, text: str) -> Markup:
        """`text` in the language of this request as HTML; instants in it follow the reader's clock."""
        return i18n.markup(text, self._language(context))

    def moment(self, instant: datetime) -> Markup:
        """`instant` by the reader's clock. One without a timezone is UTC, as in JupyterHub's database."""
        return i18n.html_instant(_aware(instant))

    @pass_context
    def pick(self, context: Context, texts: Mapping[str, str]) -> str:
        """What an instructor wrote, in the language of this request."""
        return i18n.pick(texts, self._language(context))

    @pass_context
    async def servers(self, context: Context, user: Any) -> list[ServerCard]:
        """What the home page says of each server of `user`."""
        return await cards_of(user, desk_of(user), language=self._language(context), now=self._now())

    @pass_context
    def place(self, context: Context, place: str, user: Any, server_name: str) -> str:
        """The address of `place` (`spawn`, `labspawner/stop`) for a server of `user`."""
        url = f"{_base_url(context)}{place}/{user.escaped_name}"
        return f"{url}/{quote(server_name, safe='')}" if server_name else url

    @pass_context
    def holds(self, context: Context, owner: Any, server_name: str) -> Markup:
        """The attribute of a form that starts a server of `owner`: where its button keeps a place first. Nothing for a start
        for somebody else, since a place is kept for who clicks."""
        if getattr(self._user, "name", None) != owner.name:
            return Markup("")
        query = f"?{urlencode({'server': server_name})}" if server_name else ""
        return Markup(' data-lab-place="{}labspawner/place{}"').format(_base_url(context), query)

    @pass_context
    def profile_title(self, context: Context, spawner: Any) -> str:
        """What the server of `spawner` runs, as its course calls it; its key where the course is gone."""
        options = getattr(spawner, "user_options", None) or {}
        key = options.get("profile") if isinstance(options, Mapping) else None
        if not isinstance(key, str):
            return ""
        title_of = getattr(self._engine(spawner), "profile_title", None)
        titles: Mapping[str, str] = (title_of(key) if title_of else None) or {}
        return i18n.pick(titles, self._language(context)) or key

    @pass_context
    def running_for(self, context: Context, spawner: Any) -> str:
        """How long the server of `spawner` has been up, in words."""
        started = getattr(getattr(spawner, "orm_spawner", None), "started", None)
        return self._ago(_aware(started) if started else self._now(), self._language(context))

    def seconds_since_start(self, spawner: Any) -> int:
        """Seconds since the start of `spawner` was asked for; 0 where that is not known."""
        started = getattr(getattr(spawner, "orm_spawner", None), "started", None)
        return max(0, round((self._now() - _aware(started)).total_seconds())) if started else 0

    @pass_context
    def spawning(self, context: Context, spawner: Any) -> Any:
        """The server that the spawn page is for. JupyterHub gives that page the `spawner` of the user's default server,
        also when a named one is started; only the address tells: `spawn/<user>/<server>`."""
        place = list(getattr(_handler(context), "path_args", None) or ())
        return (spawner.user.spawners.get(place[1]) if len(place) > 1 else None) or spawner

    def form_action(self, url: str) -> str:
        """Where the spawn form posts: the page without what a link chose, which the form says by itself."""
        parts = urlsplit(url)
        kept = [(key, value) for key, value in parse_qsl(parts.query) if key in {"_xsrf", "next"}]
        return f"{parts.path}?{urlencode(kept)}" if kept else parts.path

    def spawner_of(self, user: Any, server_name: str) -> Any:
        return user.spawners.get(server_name or "")

    def log_tail(self, exception: object) -> str:
        """The last lines of the server that `exception` speaks of; empty where it has none."""
        while isinstance(exception, BaseException):
            tail = getattr(exception, "log_tail", "")
            if isinstance(tail, str) and tail.strip():
                return tail.strip("\n")
            exception = exception.__cause__
        return ""

    def _language(self, context: Context) -> str:
        return request_language(_handler(context))

    def _server_url(self, context: Context, place: str, spawner: Any) -> str:
        url = f"{_base_url(context)}{place}/{spawner.user.escaped_name}"
        return f"{url}/{quote(spawner.name, safe='')}" if spawner.name else url

    def _engine(self, spawner: Any) -> Any:
        settings = getattr(getattr(spawner, "user", None), "settings", None) or {}
        return settings.get("labspawner")

    def _ago(self, moment: datetime, language: str) -> str:
        span = timedelta(seconds=max(0.0, (self._now() - moment).total_seconds()))
        if span >= timedelta(minutes=1):
            span -= timedelta(seconds=span.total_seconds() % 60)
        return i18n.translate("{span}", language, span=human_duration(span))


def _handler(context: Context) -> Any:
    """The request handler of a page: the owner of `static_url`, the one bound method that JupyterHub passes."""
    return getattr(context.get("static_url"), "__self__", None)


def _base_url(context: Context) -> str:
    return str(context.get("base_url", "/hub/"))


def _return_path(handler: Any, hub_url: str) -> str:
    """Where the language switch comes back to: this page. The spawn page takes any query for options, so none goes."""
    request = getattr(handler, "request", None)
    if request is None:
        return f"{hub_url}home"
    parts = urlsplit(request.uri)
    spawn = parts.path.startswith(f"{hub_url}spawn")
    query = [
        (key, value)
        for key, value in parse_qsl(parts.query)
        if key not in {"_xsrf", "lang"} and (not spawn or key == "next")
    ]
    if parts.path.startswith(f"{hub_url}labspawner/"):
        return f"{hub_url}home"
    return f"{parts.path}?{urlencode(query)}" if query else parts.path


@cache
def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def _aware(moment: datetime) -> datetime:
    """JupyterHub's database holds UTC without saying so."""
    return moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment
