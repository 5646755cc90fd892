"""Where JupyterHub's requests and starts meet the turnstile.

JupyterHub serves a request, and begins a start, with many database queries and without giving the event loop a chance:
5 to 15 ms each. Hundreds at once come in one turn of the loop, which then answers nobody for seconds. A queue inside
`Spawner.start` comes too late. So three of JupyterHub's coroutines get a turnstile in front of them:

- `BaseHandler.prepare`: every request but the cheap ones;
- `User.spawn`, whose first part makes tokens and OAuth clients. Who waits there is pending for JupyterHub, so a cancel
  or DELETE works as ever, and reads how many are before;
- `BaseHandler.spawn_single_user`: what was chosen is checked first, and while starts wait in line the request is then
  answered at once.

Where JupyterHub has none of these, or another shape, the log says so and the hub works without the gate.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any

from jupyterhub.handlers import base, pages
from jupyterhub.user import User

from labspawner.gate.bundle import OneCommit
from labspawner.gate.turnstile import Turnstile

log = logging.getLogger(__name__)

OTHERS, STARTING, WATCHING, BEGIN, READY = "others", "starting", "watching", "begin", "ready"
WEIGHTS = {OTHERS: 20.0, STARTING: 20.0, WATCHING: 20.0, READY: 2.0, BEGIN: 1.0}
"""A request is answered before a start goes on: who asked sees at once that it was heard."""

KEY = "labspawner_gate"
"""Where the turnstile stands in the settings that the hub gives its users; those of its handlers are a copy."""
_MARK = "_labspawner_gate"
_CHEAP = (pages.HealthCheckHandler, base.PrefixRedirectHandler)


def install() -> bool:
    """Put the turnstile in front of JupyterHub's coroutines; says whether that was possible. Safe to repeat."""
    seams: list[tuple[Any, str, Callable[[Any], Any]]] = [
        (base.BaseHandler, "prepare", _paced_request),
        (base.BaseHandler, "spawn_single_user", _answered_at_once),
        (User, "spawn", _paced_start),
    ]
    for owner, name, _ in seams:
        if not inspect.iscoroutinefunction(inspect.unwrap(getattr(owner, name, None) or install)):
            log.warning("no gate in front of starts: this JupyterHub has no coroutine %s.%s", owner.__name__, name)
            return False
    for owner, name, wrap in seams:
        original = getattr(owner, name)
        if not hasattr(original, _MARK):
            wrapped = functools.wraps(original)(wrap(original))
            setattr(wrapped, _MARK, original)
            setattr(owner, name, wrapped)
    return True


def uninstall() -> None:
    """Take away what `install` put there."""
    for owner, name in ((base.BaseHandler, "prepare"), (base.BaseHandler, "spawn_single_user"), (User, "spawn")):
        original = getattr(getattr(owner, name), _MARK, None)
        if original is not None:
            setattr(owner, name, original)


def turnstile_of(settings: Any) -> Turnstile:
    """The turnstile of the hub whose settings these are, as its users have them; made on the first call."""
    found = settings.get(KEY)
    if not isinstance(found, Turnstile):
        found = settings[KEY] = Turnstile(WEIGHTS)
    return found


def _paced_request(original: Any) -> Any:
    async def prepare(handler: Any) -> None:
        if not isinstance(handler, _CHEAP):
            await turnstile_of(handler.users.settings).turn(_kind(handler))
        await original(handler)

    return prepare


def _kind(handler: Any) -> str:
    """What a student who starts a server asks for, or who waits for one, or anything else."""
    path = str(handler.request.path)
    if "/progress" in path:
        return WATCHING
    return STARTING if "/spawn" in path or path.endswith("/server") or "/servers/" in path else OTHERS


def _paced_start(original: Any) -> Any:
    async def spawn(user: Any, server_name: str = "", *args: Any, **kwargs: Any) -> Any:
        spawner = user.spawners.get(server_name)
        await turnstile_of(user.settings).turn(BEGIN, getattr(spawner, "tell_place", None))
        return await OneCommit(original(user, server_name, *args, **kwargs), user.db)

    return spawn


def _answered_at_once(original: Any) -> Any:
    signature = inspect.signature(original)

    async def spawn_single_user(handler: Any, user: Any, server_name: str = "", *args: Any, **kwargs: Any) -> Any:
        options = signature.bind(handler, user, server_name, *args, **kwargs).arguments.get("options")
        await _check(user, server_name, options)
        if getattr(user.spawners.get(server_name), "active", False):
            return None  # another tab was quicker, and this one waits for the same start
        asked = original(handler, user, server_name, *args, **kwargs)
        if not turnstile_of(user.settings).waiting(BEGIN):
            return await asked
        going = asyncio.ensure_future(asked)
        _GOING.add(going)
        going.add_done_callback(_heard)
        await asyncio.sleep(0)  # it refuses at once, or waits for the start
        await asyncio.sleep(0)
        return going.result() if going.done() else None

    return spawn_single_user


_GOING: set[asyncio.Future[None]] = set()


def _heard(going: asyncio.Future[None]) -> None:
    """How the start ended is kept by JupyterHub, for the page that waits; here nobody waits any more."""
    _GOING.discard(going)
    if not going.cancelled():
        going.exception()


async def _check(user: Any, server_name: str, options: Any) -> None:
    """Refuse what cannot be started, before it waits in line; JupyterHub checks it again when it starts."""
    spawner = user.spawners.get(server_name)
    check = getattr(spawner, "check_options", None)
    if check is not None:
        await check(options)
