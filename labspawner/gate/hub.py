"""Where JupyterHub's requests and starts meet the turnstile.

JupyterHub serves a request, and begins a start, with many database queries and without giving the event loop a chance:
5 to 15 ms each. Hundreds at once come in one turn of the loop, which then answers nobody for seconds. A queue inside
`Spawner.start` comes too late. So three of JupyterHub's coroutines get a turnstile in front of them, and one look
at everything is shared:

- `BaseHandler.prepare`: every request but the cheap ones;
- `User.spawn`, whose first part makes tokens and OAuth clients. Who waits there is pending for JupyterHub, so a cancel
  or DELETE works as ever, and reads how many are before;
- `BaseHandler.spawn_single_user`: what was chosen is checked first, and while starts wait in line the request is then
  answered at once;
- `UserDict.count_active_users`, which looks at every server for every request to start one: while starts wait in line,
  and no limit depends on it, one count serves those of a tenth of a second.

Where JupyterHub has none of these, or another shape, the log says so and the hub works without the gate.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import time
import weakref
from collections.abc import Callable
from typing import Any

from jupyterhub.handlers import base, pages
from jupyterhub.user import User, UserDict

from labspawner.gate.bundle import OneCommit, SharedCommit
from labspawner.gate.turnstile import Pace, Turnstile

log = logging.getLogger(__name__)

OTHERS, STARTING, WATCHING, BEGIN, READY = "others", "starting", "watching", "begin", "ready"
PACES = {
    OTHERS: Pace(20),
    STARTING: Pace(20, together=2),
    WATCHING: Pace(20, together=4),
    READY: Pace(2),
    BEGIN: Pace(0.5, together=4, pause=4),
}
"""A request is answered before a start goes on: who asked sees at once that it was heard. Four starts share a commit,
which is half of what one alone costs; who asks for little shares a turn, so that the loop does not turn for each."""

COUNTED_S, _MANY = 0.1, 10

KEY = "labspawner_gate"
"""Where the turnstile stands in the settings that the hub gives its users; those of its handlers are a copy."""
_COMMIT = "labspawner_gate_commit"
_MARK = "_labspawner_gate"
_CHEAP = (pages.HealthCheckHandler, base.PrefixRedirectHandler)


def install() -> bool:
    """Put the turnstile in front of JupyterHub's coroutines; says whether that was possible. Safe to repeat."""
    for owner, name, _ in _SEAMS[:3]:
        if not inspect.iscoroutinefunction(inspect.unwrap(getattr(owner, name, None) or install)):
            log.warning("no gate in front of starts: this JupyterHub has no coroutine %s.%s", owner.__name__, name)
            return False
    for owner, name, wrap in _SEAMS:
        if not hasattr(owner, name):
            continue
        original = getattr(owner, name)
        if not hasattr(original, _MARK):
            wrapped = functools.wraps(original)(wrap(original))
            setattr(wrapped, _MARK, original)
            setattr(owner, name, wrapped)
    return True


def uninstall() -> None:
    """Take away what `install` put there."""
    for owner, name, _ in _SEAMS:
        original = getattr(getattr(owner, name, None), _MARK, None)
        if original is not None:
            setattr(owner, name, original)


def turnstile_of(settings: Any) -> Turnstile:
    """The turnstile of the hub whose settings these are, as its users have them; made on the first call."""
    found = settings.get(KEY)
    if not isinstance(found, Turnstile):
        found = settings[KEY] = Turnstile(PACES)
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
        work = original(user, server_name, *args, **kwargs)
        return await OneCommit(
            work,
            user.db,
            shared=_shared_commit(user),
            enough=lambda: getattr(user.spawners.get(server_name), "_waiting_for_response", True),
        )

    return spawn


def _shared_commit(user: Any) -> SharedCommit:
    """Where the starts of one turn are committed."""
    found = user.settings.get(_COMMIT)
    if not isinstance(found, SharedCommit) or found.db is not user.db:
        found = user.settings[_COMMIT] = SharedCommit(user.db, turnstile_of(user.settings).after)
    return found


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


def _counted_once(original: Any) -> Any:
    counted: weakref.WeakKeyDictionary[Turnstile, tuple[float, Any]] = weakref.WeakKeyDictionary()

    def count_active_users(users: Any) -> Any:
        turnstile = turnstile_of(users.settings)
        limited = any(users.settings.get(limit) for limit in ("active_server_limit", "concurrent_spawn_limit"))
        if limited or turnstile.waiting(BEGIN) < _MANY:
            return original(users)
        now = time.monotonic()
        at, counts = counted.get(turnstile, (float("-inf"), None))
        if now - at > COUNTED_S:
            counts = original(users)
            counted[turnstile] = now, counts
        return counts

    return count_active_users


async def _check(user: Any, server_name: str, options: Any) -> None:
    """Refuse what cannot be started, before it waits in line; JupyterHub checks it again when it starts."""
    spawner = user.spawners.get(server_name)
    check = getattr(spawner, "check_options", None)
    if check is not None:
        await check(options)


_SEAMS: list[tuple[Any, str, Callable[[Any], Any]]] = [
    (base.BaseHandler, "prepare", _paced_request),
    (base.BaseHandler, "spawn_single_user", _answered_at_once),
    (User, "spawn", _paced_start),
    (UserDict, "count_active_users", _counted_once),
]
