"""JupyterHub's Spawner contract in terms of the engine: it translates, and does no more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Mapping
from datetime import datetime, timezone
from typing import Any

from jupyterhub import spawner as hub
from jupyterhub.utils import url_path_join
from tornado import web
from traitlets import Any as Any_
from traitlets import default

from labspawner.availability import Viewer
from labspawner.courses import Choice, options_from_form, parse_choice
from labspawner.errors import BadChoice, LabError, Transient
from labspawner.evidence import every_s
from labspawner.gate import READY, turnstile_of
from labspawner.lifecycle import Order
from labspawner.model import Lease, LeaseId, Progress
from labspawner.ordering import order_for
from labspawner.pages.hub import request_language
from labspawner.pages.i18n import both
from labspawner.runtime import Runtime
from labspawner.sentences import Sentence
from labspawner.spawn_page import render

log = logging.getLogger(__name__)

STATE_VERSION = 1
LET_GO_S = 0.3
"""How long a cancelled start waits for its roll-back: less than the second that JupyterHub gives it."""
FOUND_AGAIN_S = 300
"""How long a server of before a restart may be silent. JupyterHub ends one that does not answer it, though the provider says
that it runs: and a busy hub has asked before the desktops' own service, where some of them answer, was there again."""

# JupyterHub 6 tells refusals (SpawnException) from crashes; before, an HTTPError with a message is the nearest thing.
_HubError: type[web.HTTPError] = getattr(hub, "SpawnException", web.HTTPError)


class StartRefused(_HubError):  # type: ignore[valid-type,misc]
    """A start that failed, as JupyterHub shows it. `log_tail`: the server's last lines, for its owner."""

    def __init__(self, error: LabError) -> None:
        if _HubError is web.HTTPError:  # it shows its log message to everybody, so that is the student's sentence
            super().__init__(error.status_code, error.message.replace("%", "%%"))
            self.message = error.message
        else:
            super().__init__(error.message, reason=error.reason, log_message=str(error), status_code=error.status_code)
        self.jupyterhub_message = error.message
        self.log_tail = error.log_tail
        if isinstance(error, Transient):
            self.headers = {"Retry-After": str(round(error.retry_after_s))}

    def __str__(self) -> str:
        """JupyterHub 5 puts it on the spawn page."""
        return str(self.jupyterhub_message) if _HubError is web.HTTPError else str(super().__str__())


def refused(spawner: LabSpawner, error: LabError) -> StartRefused:
    """What JupyterHub is told. JupyterHub 6 logs its details; 5 has no place for them, so we do."""
    if _HubError is web.HTTPError:
        log.warning("start refused user=%s server=%r: %s", spawner.user.name, spawner.name, error)
    return StartRefused(error)


class LabSpawner(hub.Spawner):  # type: ignore[misc]
    """Starts whatever the student's profile says: `c.JupyterHub.spawner_class = "lab"`.

    Settings of labspawner itself stand in `c.Labspawner`; those of JupyterHub's Spawner keep their meaning, except
    that `ip`, `port`, `start_timeout` and resource limits follow from the profile.
    """

    user_options = Any_(
        help="What was asked for. JupyterHub 5 takes any JSON; a trait that refuses it would end as a bare error 500."
    )

    _choice: Choice | None = None
    _order: Order | None = None
    _lease_id: LeaseId | None = None
    asked: Mapping[str, Any] | None = None
    """What the link to the spawn page names."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._events: list[dict[str, object]] = []
        self._news = asyncio.Event()
        self._in_line = False

    @default("user_options")
    def _default_user_options(self) -> dict[str, Any]:
        return {}

    @default("options_form")
    def _default_options_form(self) -> Any:
        return _spawn_form

    @default("options_from_form")
    def _default_options_from_form(self) -> Any:
        return _options_from_form

    @default("apply_user_options")
    def _default_apply_user_options(self) -> Any:
        return _apply_user_options

    @default("consecutive_failure_limit")
    def _default_consecutive_failure_limit(self) -> int:
        """A course whose image is broken must not stop the hub for everyone."""
        return 0

    @property
    def runtime(self) -> Runtime:
        """What this hub process has one of."""
        return Runtime.of(self.user.settings, self.config)

    def group_names(self) -> frozenset[str]:
        """The groups of the user that the server is for, whoever asks."""
        return frozenset(group.name for group in self.user.groups)

    async def run_auth_state_hook(self, auth_state: Any) -> None:
        """Before it shows the form, JupyterHub would start whatever the address names, and so could any page that a
        student opens. Here a link chooses, and the student starts."""
        request = getattr(self.handler, "request", None)
        if request is not None and request.method == "GET" and self.options_form is _spawn_form:
            self.asked = take_choice(request)
        await super().run_auth_state_hook(auth_state)

    # -- start -----------------------------------------------------------------------------------------------------

    async def choose(self, user_options: Mapping[str, Any]) -> Choice:
        """Check `user_options` against the courses as they are now. Raises BadChoice or NotAllowed."""
        catalog = await self.runtime.courses()
        return parse_choice(
            user_options,
            catalog.snapshot,
            groups=self.group_names(),
            admin=bool(self.user.admin),
            now=datetime.now(timezone.utc),
        )

    def start(self) -> Awaitable[Any]:
        """JupyterHub reads `start_timeout` as soon as this returns, so it is set here and not in the coroutine."""
        if not self._in_line:
            self._events.clear()
        self._in_line = False
        self.runtime.visits.server_begins(self.user.name, self.name)
        try:
            self._order = self.make_order()
        except LabError as exc:
            raise refused(self, exc) from exc
        self.start_timeout = max(1, round(self._order.start_timeout_s))
        return self._start(self._order)

    def make_order(self) -> Order:
        """What the engine is asked for. Raises BadChoice where no profile was chosen."""
        if self._choice is None:
            raise BadChoice(Sentence("Pick a profile first."))
        return order_for(
            self._choice,
            user=self.user.name,
            server_name=self.name,
            base_url=self.base_url_of_server(),
            command=(*self.cmd, *self.get_args()),
            environment={**self.environment_for_server(), **self._environment_for_reports(self._choice)},
        )

    def base_url_of_server(self) -> str:
        """The path prefix that the proxy routes to the server."""
        return str(self.server.base_url) if self.server else "/"

    def environment_for_server(self) -> dict[str, str]:
        """JupyterHub's environment without the address, which only the provider knows."""
        env = self.get_env()
        env.pop("JUPYTERHUB_SERVICE_URL", None)
        return {key: str(value) for key, value in env.items() if value is not None}

    def _environment_for_reports(self, choice: Choice) -> dict[str, str]:
        """How often our extension in the server reports its use: several times within the idle limit."""
        after = choice.profile.idle.after
        seconds = every_s(self.runtime.settings.report_every_s, after.total_seconds() if after else None)
        return {"LABSPAWNER_REPORT_EVERY_S": f"{seconds:g}"}

    async def _start(self, order: Order) -> Any:
        try:
            lease = await self._launch(order)
        except LabError as exc:
            raise refused(self, exc) from exc
        finally:
            self._tell(None)
        self._lease_id = lease.id
        await turnstile_of(self.user.settings).turn(READY)
        return lease.url

    async def _launch(self, order: Order) -> Lease:
        """The ready lease. Raises LabError, or CancelledError without waiting for the roll-back.

        JupyterHub gives a cancelled start one second before it calls `stop`; a start that is still at work then is
        never stopped at all, and JupyterHub calls it ready. So the roll-back goes on by itself, and `stop` waits for it.
        """
        launching = asyncio.ensure_future(self.runtime.engine.launch(order, self._report))
        try:
            await asyncio.wait({launching})
        except asyncio.CancelledError:
            launching.add_done_callback(lambda done: done.cancelled() or done.exception())
            launching.cancel()
            await asyncio.wait({launching}, timeout=LET_GO_S)
            raise
        return launching.result()

    # -- running ---------------------------------------------------------------------------------------------------

    async def poll(self) -> int | None:
        """None while the server runs, or while nobody can tell; never raises, or JupyterHub would forget the server."""
        try:
            await self._follow_rename()
            running = await self.runtime.engine.is_running(self.user.name, self.name)
        except Exception:
            log.exception("cannot tell whether the server of user=%s runs; calling it running", self.user.name)
            return None
        return None if running else 0

    def start_polling(self) -> None:
        """Polls come in rounds for all servers; see `labspawner.rounds`."""
        if self.poll_interval > 0:
            self.runtime.rounds.add(self)

    def stop_polling(self) -> None:
        self.runtime.rounds.drop(self)

    async def stop(self, now: bool = False) -> None:
        """Returns when the server is gone, or when the reconciler took over; never raises, for the same reason."""
        try:
            await self.runtime.engine.stop(self.user.name, self.name)
        except Exception:
            log.exception("stopping the server of user=%s failed; the reconciler tries again", self.user.name)

    async def get_url(self) -> str:
        """Where the server listens, from its lease: JupyterHub asks after a restart in the middle of a start."""
        lease = self.runtime.engine.book.active(self.user.name, self.name)
        if lease is None or lease.url is None:
            return str(self.server.url)
        return str(url_path_join(lease.url, self.base_url_of_server()))

    async def delete_forever(self) -> None:
        """Destroy what a stopped server still keeps (a parked VM); homes stay."""
        await self.runtime.engine.forget(self.user.name, self.name)

    async def rename(self, old_name: str, new_name: str) -> None:
        """Keep what is parked under the new name (JupyterHub 6)."""
        book = self.runtime.engine.book
        await self.runtime.engine.start()
        for lease in book.of(self.user.name, old_name):
            await book.write(lease.id, server_name=new_name)

    async def _follow_rename(self) -> None:
        """An administrator may rename a user while a server runs: the lease follows by its id."""
        engine = self.runtime.engine
        await engine.start()
        lease = engine.book.get(self._lease_id) if self._lease_id else None
        if lease is not None and (lease.user, lease.server_name) != (self.user.name, self.name):
            await engine.book.write(lease.id, user=self.user.name, server_name=self.name)

    # -- state: only a pointer; the lease is the truth --------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        state: dict[str, Any] = super().get_state()
        if self._lease_id:
            state.update(v=STATE_VERSION, lease_id=self._lease_id)
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        lease_id = state.get("lease_id")
        self._lease_id = LeaseId(lease_id) if isinstance(lease_id, str) else None
        if self._lease_id is not None:
            self.set_trait("http_timeout", max(self.http_timeout, FOUND_AGAIN_S))

    def clear_state(self) -> None:
        super().clear_state()
        self._lease_id = None

    # -- progress --------------------------------------------------------------------------------------------------

    async def progress(self) -> AsyncIterator[dict[str, object]]:
        """All stages so far, then each new one; any number of pages may watch, and a reload loses nothing."""
        sent = 0
        while True:
            news = self._news
            while sent < len(self._events):
                event = self._events[sent]
                sent += 1
                if event.get("message") is None:
                    return
                yield event
            await news.wait()

    def tell_place(self, place: int) -> None:
        """Say how many are before this start, at the gate in front of it; nothing where nobody is."""
        if not self._in_line:
            if place == 1:
                return
            self._in_line = True
            self._events.clear()
        self._report(Progress(0, Sentence("You are number {place} of those who start now.", place=place)))

    async def check_options(self, user_options: Any) -> None:
        """Raise what a start with these options would be refused with; None: those of the last start.

        Where an administrator put another `apply_user_options` in place of ours, only that one can tell, at the start.
        """
        if self.apply_user_options is not _apply_user_options:
            return
        saved = getattr(self.orm_spawner, "user_options", None)
        try:
            await self.choose(user_options if user_options is not None else saved or {})
        except LabError as exc:
            raise refused(self, exc) from exc

    def _report(self, progress: Progress) -> None:
        self._tell(
            {
                "progress": max(0, min(99, progress.percent)),
                "message": str(progress.message),
                "html_message": both(progress.message),
            }
        )

    def _tell(self, event: dict[str, object] | None) -> None:
        self._events.append(event or {"message": None})
        self._news.set()
        self._news = asyncio.Event()


async def _spawn_form(spawner: LabSpawner) -> str:
    """The inside of the spawn form, for the user that the server is for."""
    runtime = spawner.runtime
    viewer = Viewer(
        user=spawner.user.name,
        groups=spawner.group_names(),
        admin=bool(spawner.user.admin),
        last=spawner.user_options or getattr(spawner.orm_spawner, "user_options", None),
        server=spawner.name,
    )
    return await render(
        runtime.availability,
        runtime.engine.providers,
        viewer,
        language=request_language(spawner.handler),
        asked=spawner.asked,
    )


class _NoOptions(dict[str, list[bytes]]):
    """The query of a page that starts nothing: JupyterHub, which goes through it for options, finds none; who looks for
    one by name, such as the language, finds it."""

    def items(self) -> Any:
        return {}.items()


def take_choice(request: Any) -> dict[str, Any] | None:
    """The choice in the query of a link, taken out of it: `profile=course/slug`, with the names of our form for options;
    each may begin with `opt-`, as JupyterHub 6 wants it. None where there is none."""
    query = request.query_arguments
    named = {name.removeprefix("opt-"): values for name, values in query.items() if name not in _NOT_OPTIONS}
    request.query_arguments = _NoOptions({name: query[name] for name in query.keys() & _NOT_OPTIONS})
    return options_from_form(named) or None


_NOT_OPTIONS = frozenset({"next", "display_name", "lang", "_xsrf"})


def _options_from_form(form: Mapping[str, list[str]]) -> dict[str, Any]:
    try:
        return options_from_form(form)
    except LabError as exc:
        raise StartRefused(exc) from exc


async def _apply_user_options(spawner: LabSpawner, user_options: Mapping[str, Any]) -> None:
    """The one validator, for the form and the REST API alike."""
    try:
        spawner._choice = await spawner.choose(user_options)
    except LabError as exc:
        raise refused(spawner, exc) from exc
