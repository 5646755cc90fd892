"""What `jupyterhub_config.py` calls so that an administrator need not know how the rooms are plugged into JupyterHub."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import random
import socket
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from jupyterhub.app import JupyterHub
from jupyterhub.proxy import ConfigurableHTTPProxy
from traitlets.config import Config

from labspawner import gate, inner
from labspawner.availability import handlers as availability_handlers
from labspawner.config import Labspawner, Settings, course_of_profile_list, open_providers
from labspawner.culler import role as culler_role
from labspawner.culler import service as culler_service
from labspawner.demo import ACCOUNTS
from labspawner.errors import BadConfig
from labspawner.evidence import handlers as evidence_handlers
from labspawner.hubid import Claim
from labspawner.hubsocket import HubSocket
from labspawner.pages.hub import CONSOLE, DESKTOPS, DemoHint, configure
from labspawner.providers.contract import Provider
from labspawner.providers.local import LocalProvider
from labspawner.providers.local.network.rundir import RunDirs, default_base
from labspawner.proxies import PROXY, proxy_command, reach_sockets
from labspawner.runtime import Runtime
from labspawner.sentences import Sentence
from labspawner.service.console import custom_scopes as console_custom_scopes
from labspawner.service.console import role as console_role
from labspawner.service.console import service as console_service
from labspawner.service.console import user_scopes as console_user_scopes
from labspawner.service.console.settings import of_hub as console_of
from labspawner.service.desktop import role as desktop_role
from labspawner.service.desktop import service as desktop_service
from labspawner.service.desktop import user_scopes as desktop_user_scopes
from labspawner.service.desktop.settings import of_hub as desktop_of
from labspawner.service.desktop.settings import takes_desktop_url
from labspawner.service.serving import HUB_PID
from labspawner.store.sqlite import tune_all_sqlite

log = logging.getLogger(__name__)

SERVICE_START_S = 120

__all__ = ["PROXY", "proxy_command", "reach_sockets", "run_console", "run_culler", "run_desktop", "wire"]


def wire(c: Any, *, demo: bool = False) -> None:
    """Plug labspawner into the configuration `c`: spawner, pages, fast SQLite, and the reconciler from hub start on.

    demo: says on every page that this is the loopback demo.
    """
    c.JupyterHub.spawner_class = "lab"
    # A refused choice answers at once with its sentence; whatever takes longer than this gets the progress page.
    c.JupyterHub.tornado_settings = {"slow_spawn_timeout": 1, **_given(c.JupyterHub, "tornado_settings", {})}
    configure(c, demo=DemoHint(accounts=ACCOUNTS) if demo else None)
    c.JupyterHub.extra_handlers = [
        *c.JupyterHub.extra_handlers,
        *evidence_handlers.extra_handlers(),
        *availability_handlers.extra_handlers(),
        *inner.extra_handlers(),
    ]
    tune_all_sqlite()
    for shortcut in (gate.lookups, gate.tokens, gate.activity):
        shortcut.install()
    if gate.install() and "concurrent_spawn_limit" not in c.JupyterHub:
        c.JupyterHub.concurrent_spawn_limit = 0  # the gate paces them; a refusal would be retried by hand
    _log_with_the_hub()
    try:
        _START_TASKS.append(asyncio.get_running_loop().create_task(_start_with_the_hub()))
    except RuntimeError:
        log.debug("no event loop: the configuration is only being read")


def _log_with_the_hub() -> None:
    """Our lines go where JupyterHub's go, in its format and from its level up."""
    if JupyterHub.initialized():
        logger = logging.getLogger("labspawner")
        logger.parent = JupyterHub.instance().log
        logger.setLevel(JupyterHub.instance().log.level)


def run_culler(c: Any, *, dry_run: bool = False) -> None:
    """Add the idle culler as a managed service with the least scopes. Call it after `c.Labspawner` is set; the last call
    counts."""
    settings = Labspawner(config=c)
    role = culler_role()
    c.JupyterHub.load_roles = [*_others(c.JupyterHub, "load_roles", role), role]
    service = culler_service(
        store_url=settings.database_url,
        hub_id=settings.hub_id,
        interval_s=settings.culler_interval_s,
        dry_run=dry_run,
    )
    c.JupyterHub.services = [*_others(c.JupyterHub, "services", service), service]
    _told["run_culler"] = _whose(settings)


def run_desktop(c: Any, *, url: str = "", novnc_dir: str = "") -> None:
    """Add the service that shows servers' screens, where some provider has screens; else nothing. Call it after
    `c.Labspawner` is set, and again where providers were added since: the last call counts.

    url: where it listens, for the hub's proxy alone; left out: a port on loopback that is kept in `data_dir`. novnc_dir: the
    folder of noVNC; left out: where npm or Debian put it.
    """
    try:
        settings = Labspawner(config=c).settings()
    except BadConfig:
        return  # said when the hub starts
    wanted = desktop_of(settings, novnc_dir=novnc_dir)
    if wanted is None:
        return
    url = url or f"http://127.0.0.1:{_kept_port(settings.data_dir / 'desktop.port')}"
    c.Labspawner.providers = {
        name: {"desktop_url": url, **options} if takes_desktop_url(name, options) else options
        for name, options in settings.providers.items()
    }
    _add_service(c, desktop_service(wanted, url=url), desktop_role(), desktop_user_scopes())
    _told["run_desktop"] = _whose(settings)
    c.JupyterHub.tornado_settings = {**_given(c.JupyterHub, "tornado_settings", {}), DESKTOPS: True}


def run_console(c: Any, *, url: str = "", listen: str = "", create_users: bool = False) -> None:
    """Add the console: pages for instructors and administrators, and the REST API. Call it after `c.Labspawner` is set; the
    last call counts.

    url: where the hub's proxy reaches it, and nobody else should; left out: a port on loopback that is kept in `data_dir`.
    listen: where it listens, if that is another address: `http://0.0.0.0:8082` behind a Service of Kubernetes. create_users:
    names of rosters that the hub does not know become users at once, which on most hubs lets them log in; left out, they are
    put into their courses within seconds of their first log-in.
    """
    try:
        given = Labspawner(config=c)
        settings, wanted = given.settings(), console_of(given, creates_users=create_users, listen=listen)
    except BadConfig:
        return  # said when the hub starts
    url = url or f"http://127.0.0.1:{_kept_port(settings.data_dir / 'console.port')}"
    service = console_service(wanted.to_environment(), url=url)
    _add_service(c, service, console_role(creates_users=create_users), console_user_scopes())
    _told["run_console"] = _whose(settings)
    c.JupyterHub.custom_scopes = {**_given(c.JupyterHub, "custom_scopes", {}), **console_custom_scopes()}
    told = {**_given(c.JupyterHub, "tornado_settings", {}), CONSOLE: frozenset(settings.console_creators)}
    c.JupyterHub.tornado_settings = told


_told: dict[str, tuple[str, str]] = {}
"""What each `run_...` was told of the hub when it was last called: a later line of the file may have said something else."""


def _whose(settings: Labspawner | Settings) -> tuple[str, str]:
    """Which leases are this hub's, and where they are kept."""
    return settings.hub_id, settings.database_url


def _add_service(c: Any, service: dict[str, Any], role: dict[str, Any], of_users: list[str]) -> None:
    """Add a managed service with its role, and what every user needs in order to use it."""
    roles = [*_others(c.JupyterHub, "load_roles", role), role]
    c.JupyterHub.load_roles = _with_user_scopes(roles, of_users)
    told = {**service, **_slow_start(), "environment": {**service["environment"], HUB_PID: str(os.getpid())}}
    c.JupyterHub.services = [*_others(c.JupyterHub, "services", service), told]


def _slow_start() -> dict[str, int]:
    """How long the hub waits until a service answers before it gives up itself: on a busy machine 30 s are too short.

    JupyterHub 5 waits 10 s, and refuses the setting.
    """
    major = int(metadata.version("jupyterhub").partition(".")[0])
    return {"timeout": SERVICE_START_S} if major >= 6 else {}


def _others(section: Any, key: str, mine: dict[str, Any]) -> list[dict[str, Any]]:
    """What the file set so far, but for an earlier one of the same name."""
    return [one for one in _given(section, key, []) if one.get("name") != mine["name"]]


def _with_user_scopes(roles: list[dict[str, Any]], added: list[str]) -> list[dict[str, Any]]:
    """The roles with that of every user widened: JupyterHub's own is what nobody else has configured."""
    usual = {"name": "user", "scopes": ["self"]}
    mine = next((role for role in roles if role.get("name") == "user"), usual)
    scopes = list(dict.fromkeys([*mine.get("scopes", ["self"]), *added]))
    return [*(role for role in roles if role is not mine), {**mine, "scopes": scopes}]


def _kept_port(file: Path) -> int:
    """The port that `file` names; else one that is free, which `file` names from now on: routes of servers name it."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        port = _free_port()
        file.write_text(f"{port}\n")
        return port


_OWN_PORTS = range(12_000, 20_000)
_PORTS_TRIED = 50


def _free_port() -> int:
    """A port of loopback that is free, where possible below those that the kernel gives to anybody who connects: it has to
    be free again whenever the hub is started again."""
    try:
        end = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        end = 0
    below = [port for port in _OWN_PORTS if port < end]
    for port in random.sample(below, min(len(below), _PORTS_TRIED)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
        return found


def _given(section: Any, key: str, otherwise: Any) -> Any:
    """What the file set so far; a plain look would make traitlets invent a value."""
    return section[key] if key in section else otherwise  # noqa: SIM401 - traitlets' get() invents one too


async def _check(config: Config) -> None:
    """Exit with the sentence of a wrong setting. Called as soon as the whole configuration is read."""
    try:
        settings = Labspawner(config=config).settings()
        course_of_profile_list(settings)
        providers = open_providers(settings)
        check_services(settings)
    except BadConfig as exc:
        log.critical("The configuration is wrong, so the hub does not start: %s", exc)
        sys.exit(1)
    for provider in providers.values():
        await provider.close()


def check_services(settings: Settings) -> None:
    """Raises BadConfig where a service would look after another hub's servers than ours."""
    late = [f"wiring.{name}(c)" for name, told in _told.items() if told != _whose(settings)]
    if late:
        raise BadConfig(
            Sentence(
                "c.Labspawner.hub_id, data_dir or database_url was changed after {calls}, which would look after another "
                "hub's servers. Set them before, or call it again after them.",
                calls=", ".join(late),
            )
        )


async def _be_the_only_one(config: Config) -> None:
    """Exit where another hub process of this machine has our id: each would end the other's servers."""
    hub_id = Labspawner(config=config).hub_id
    folders = RunDirs(default_base(hub_id, environment=os.environ, uid=os.geteuid()))
    try:
        claim = await asyncio.to_thread(Claim.take, folders.base, make=folders.make_base, wait_s=_LAST_HUB_S)
    except OSError:
        log.exception("whether another hub of this machine has the same id is not known hub_id=%s", hub_id)
        return
    if claim is None:
        log.critical(
            "Another hub with the id %r runs on this machine, so this one does not start: they would end each other's"
            " servers. Stop that one, or set another c.Labspawner.hub_id here.",
            hub_id,
        )
        sys.exit(1)
    atexit.register(claim.release)


_LAST_HUB_S = 10.0  # for one that is just ending
_START_TASKS: list[asyncio.Task[None]] = []


async def _start_with_the_hub() -> None:
    """Start the engine as soon as the hub listens, so that what an earlier hub left is found before anyone logs in.

    JupyterHub has no hook for this; its configuration file, however, is read inside the event loop. A wrong setting
    ends the hub before it has started anything: a hub that runs and starts no server helps nobody.
    """
    await _check(JupyterHub.instance().config)
    await _be_the_only_one(JupyterHub.instance().config)
    while not JupyterHub.initialized() or getattr(JupyterHub.instance(), "http_server", None) is None:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    app = JupyterHub.instance()
    gate.open_wide(app.http_server)
    gate.hush(app.log)
    gate.relax()
    runtime = Runtime.of(app.users.settings, app.config)
    if local := _local(runtime.engine.providers.values()):
        _serve_sandboxes(app, runtime.settings.hub_id)
        for provider in local:
            provider.sockets_reached = bool(_SOCKETS) and _proxy_reaches_sockets(app)
            _START_TASKS.append(asyncio.get_running_loop().create_task(provider.warm_up()))
    while True:
        try:
            await runtime.courses()
            await runtime.start()
            await gate.lookups.warm_up(app.users)
        except Exception:
            log.exception("labspawner could not start; trying again in 10 s")
            await asyncio.sleep(10)
        else:
            gate.keep()
            return


_SOCKETS: list[HubSocket] = []


def _local(providers: Iterable[Provider]) -> list[LocalProvider]:
    """The local providers; another one may stand in front."""
    inner = (getattr(provider, "inner", provider) for provider in providers)
    return [provider for provider in inner if isinstance(provider, LocalProvider)]


def _proxy_reaches_sockets(app: JupyterHub) -> bool:
    """Whether hub and proxy can talk to a server at a unix socket; False for a proxy that we do not know."""
    proxy = app.proxy
    return isinstance(proxy, ConfigurableHTTPProxy) and proxy.should_start and reach_sockets(proxy.command)


def _serve_sandboxes(app: JupyterHub, hub_id: str) -> None:
    """Let servers that share no network with the hub reach its API."""
    folders = RunDirs(default_base(hub_id, environment=os.environ, uid=os.geteuid()))
    try:
        folders.make_base()
        served = HubSocket(app.tornado_application, hub_prefix=app.hub_prefix, path=folders.hub_socket)
    except OSError:
        log.exception("servers in sandboxes cannot reach this hub")
        return
    _SOCKETS.append(served)
    atexit.register(served.remove)
