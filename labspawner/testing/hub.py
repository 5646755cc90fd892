"""A real JupyterHub with labspawner, as a child process in a folder of its own, for a test to use and to kill."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import psutil

from labspawner.errors import StoreUnavailable
from labspawner.model import Activity, Decision, Json, Lease, Phase
from labspawner.naming import new_lease_id
from labspawner.providers.local.limits import probe
from labspawner.providers.local.network.rundir import default_base
from labspawner.providers.processes import HostProcess, marks, walk
from labspawner.store import Store
from labspawner.testing.waiting import eventually_sync
from labspawner.testing.web import Answer, Client

T = TypeVar("T")
START_S = 60.0
STOP_S = 360.0
WORKERS = 32
PORTS = range(21000, 30000)  # below what the kernel gives to others, so that a port is still free after a restart

_ENTRY_POINTS = "[labspawner.providers]\nsteered = labspawner.testing.hubconfig:steered\n"
_CONFIG = """
import json, pathlib
from labspawner.testing.hubconfig import configure
configure(c, json.loads(pathlib.Path({spec!r}).read_text()))
{more}
"""


class RealHub:
    """A JupyterHub that can be started, killed and started again on the same data.

    courses: file name -> YAML. groups: group -> user names. providers, settings: as in `c.Labspawner`, the latter over
    short intervals. culler: runs the managed culler. config: more Python for the configuration file. base_url: the path below
    which everything of this hub is; `base` has it, too.
    The provider kind `steered` is installed, see `hubconfig.Steered`. Call `close` in the end: it ends the hub, and whatever
    its servers left.
    """

    def __init__(
        self,
        folder: Path,
        *,
        courses: Mapping[str, str],
        groups: Mapping[str, Sequence[str]],
        providers: Mapping[str, Mapping[str, Json]],
        settings: Mapping[str, Json] | None = None,
        culler: Literal["on", "dry-run"] | None = None,
        config: str = "",
        base_url: str = "/",
    ) -> None:
        self.folder = folder
        self.hub_id = new_hub_id()
        self.token, self.password = secrets.token_hex(32), secrets.token_hex(12)
        self.port, proxy_port = free_ports(2)
        self.base = f"http://127.0.0.1:{self.port}{base_url.rstrip('/')}"
        self.api = Client(self.base, {"Authorization": f"token {self.token}"})
        self.process: subprocess.Popen[bytes] | None = None
        usual = f"sqlite:///{folder / 'data' / 'labspawner.sqlite'}"
        self.store_url = str((settings or {}).get("database_url") or usual)
        (folder / "courses").mkdir(parents=True, exist_ok=True)
        keep_ports(folder / "data")
        for name, text in courses.items():
            self.write_course(name, text)
        info = folder / "site" / "labspawner_testing-0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: labspawner-testing\nVersion: 0\n")
        (info / "entry_points.txt").write_text(_ENTRY_POINTS)
        # jsonschema imports it for a format that no hub checks, and its grammar costs every hub a second to build.
        (folder / "site" / "rfc3987_syntax.py").write_text("raise ImportError('left out of tests for their speed')\n")
        self._providers = tuple(providers)
        spec = {
            "folder": str(folder),
            "port": self.port,
            "proxy_port": proxy_port,
            "base_url": base_url,
            "token": self.token,
            "password": self.password,
            "hub_id": self.hub_id,
            "groups": {name: list(users) for name, users in groups.items()},
            "providers": dict(providers),
            "settings": dict(settings or {}),
            "culler": culler,
        }
        (folder / "spec.json").write_text(json.dumps(spec))
        self.config_file = folder / "jupyterhub_config.py"
        self.config_file.write_text(_CONFIG.format(spec=str(folder / "spec.json"), more=config))

    # -- the process -----------------------------------------------------------------------------------------------

    def start(self, *, wait: bool = True) -> None:
        """Start the hub; returns when it answers, unless `wait` is off. Raises AssertionError with its log if it dies."""
        assert self.process is None
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTERHUB_", "LABSPAWNER_"))}
        paths = [str(self.folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
        with (self.folder / "hub.log").open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and configuration
                [sys.executable, "-m", "jupyterhub", "-f", str(self.config_file)],
                cwd=self.folder,
                env={**kept, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if wait:
            self.wait_until_up()

    def wait_until_up(self) -> None:
        """Returns when the hub answers, with its engine started."""

        def up() -> bool:
            if self.process is None or self.process.poll() is not None:
                raise RuntimeError(f"the hub died:\n{self.log()[-6000:]}")
            try:
                return self.api.call("GET", "/hub/health").status == 200
            except OSError:
                return False

        eventually_sync(up, START_S, "the hub answers")

    def kill(self) -> None:
        """SIGKILL, as a crash or the kernel does it."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, as an orderly restart does it."""
        self._end(signal.SIGTERM)

    def wait_for_death(self, deadline_s: float = STOP_S) -> int:
        """Returns when the hub has died by itself: its exit code, negative for a signal."""
        assert self.process is not None
        code = self.process.wait(timeout=deadline_s)
        self.process = None
        return code

    def _end(self, number: signal.Signals) -> None:
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            self.process.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.process = None

    def close(self) -> None:
        """End the hub, then every process that carries its id; remove the run folders and control groups of these."""
        try:
            self.stop()
        finally:
            end_all_of(self.hub_id, self._providers)

    def log(self) -> str:
        """All that the hub, and every hub before it in this folder, wrote."""
        return (self.folder / "hub.log").read_text(errors="replace")

    # -- what is asked of it ---------------------------------------------------------------------------------------

    def write_course(self, name: str, text: str) -> None:
        """Put a course file in place, at once and as a whole."""
        target = self.folder / "courses" / name
        draft = target.with_name("." + target.name)
        draft.write_text(text, encoding="utf-8")
        draft.replace(target)

    def login(self, user: str) -> Client:
        """A browser in which `user` has logged in."""
        browser = Client(self.base)
        browser.call("GET", "/hub/login")
        answer = browser.post_form("/hub/login?next=/hub/home", {"username": user, "password": self.password})
        assert answer.status == 302, answer.text[:2000]
        return browser

    def add_user(self, user: str, *groups: str) -> None:
        """Make the user, a member of these groups."""
        assert self.api.call("POST", f"/hub/api/users/{_q(user)}").status in {201, 409}
        for group in groups:
            self.api.call("POST", f"/hub/api/groups/{_q(group)}")
            answer = self.api.call("POST", f"/hub/api/groups/{_q(group)}/users", {"users": [user]})
            assert answer.status == 200, answer.text

    def ask(self, user: str, options: object = None, *, name: str = "") -> Answer:
        """Ask for a server through REST; the hub's own answer."""
        wrapped = not isinstance(options, bytes) and options is not None and major_version() >= 6
        # In JupyterHub 5, the body is the options.
        return self.api.call("POST", server_path(user, name), {"user_options": options} if wrapped else options)

    def start_server(self, user: str, profile: str, *, name: str = "", **options: object) -> dict[str, Any]:
        """Start a server and wait until it is ready; JupyterHub's model of it."""
        answer = self.ask(
            user, {"profile": profile, "options": options} if options else {"profile": profile}, name=name
        )
        assert answer.status in {201, 202}, answer.text
        return self.wait_ready(user, name=name)

    def wait_ready(self, user: str, *, name: str = "", deadline_s: float = 40.0) -> dict[str, Any]:
        """Wait until JupyterHub calls the server ready; its model."""

        def ready() -> dict[str, Any] | None:
            server = self.servers(user).get(name)
            return server if server and server["ready"] else None

        found = eventually_sync(ready, deadline_s, f"the server {name!r} of {user} is ready")
        assert found is not None
        return found

    def wait_gone(self, user: str, *, name: str = "", deadline_s: float = 30.0) -> None:
        """Wait until JupyterHub has forgotten the server, and every lease of it has ended."""
        eventually_sync(
            lambda: name not in self.servers(user) and not self.leases(user, name),
            deadline_s,
            f"the server {name!r} of {user} is gone",
        )

    def stop_server(self, user: str, *, name: str = "") -> None:
        """Stop a server, or cancel its start, and wait until nothing is left of it."""
        self.cancel(user, name=name)
        self.wait_gone(user, name=name)

    def cancel(self, user: str, *, name: str = "") -> None:
        """Ask that a server be stopped, or its start cancelled, until JupyterHub agrees."""

        def asked() -> bool:
            answer = self.api.call("DELETE", server_path(user, name))
            assert answer.status in {202, 204}, answer.text  # 500: it gives a cancelled start no more than a second
            return True

        eventually_sync(asked, what=f"the server {name!r} of {user} is being stopped")

    def servers(self, user: str) -> dict[str, Any]:
        """JupyterHub's models of the user's active servers, by name."""
        servers: dict[str, Any] = self.api.call("GET", f"/hub/api/users/{_q(user)}").json()["servers"]
        return {name: model for name, model in servers.items() if not model.get("stopped")}

    # -- what is behind it -----------------------------------------------------------------------------------------

    def with_store(self, work: Callable[[Store], Awaitable[T]]) -> T:
        """What `work` answers, on the lease database as it is now."""

        async def run() -> T:
            store = Store.open(self.store_url, hub_id=self.hub_id)
            try:
                return await work(store)
            finally:
                await store.close()

        return asyncio.run(run())

    def leases(self, user: str | None = None, name: str | None = None) -> list[Lease]:
        """The leases that have not ended."""
        found = self.with_store(self._live)
        return [lease for lease in found if user in {None, lease.user} and name in {None, lease.server_name}]

    async def _live(self, store: Store) -> list[Lease]:
        try:
            return await store.live(self.hub_id)
        except StoreUnavailable:  # a hub that has just started may not have made its tables yet
            await store.migrate()
            return await store.live(self.hub_id)

    def lease(self, user: str, name: str = "") -> Lease:
        """The one lease of a server. Raises AssertionError where there is none yet, which a wait counts as such."""
        found = self.leases(user, name)
        assert len(found) == 1, found
        return found[0]

    def ready_leases(self) -> list[Lease]:
        return [lease for lease in self.leases() if lease.phase is Phase.READY]

    def decisions(self) -> Sequence[Decision]:
        """The culler's decision log."""
        return self.with_store(lambda store: store.decisions(hub_id=self.hub_id))

    def cull_of(self, user: str) -> Decision:
        """The decision by which the culler ended the user's server; it is written down when the stop is over."""

        def written() -> Decision | None:
            found = [one for one in self.decisions() if (one.user, one.verdict, one.applied) == (user, "cull", True)]
            assert len(found) <= 1, found
            return found[0] if found else None

        decision = eventually_sync(written, what=f"the culler ended a server of {user}")
        assert decision is not None
        return decision

    def wait_reported(self, user: str, known: Callable[[Activity], bool]) -> None:
        """Wait until the store, from which the culler reads, has a report of the user's server that is `known`."""
        lease = self.lease(user)  # a server that was stopped meanwhile is no failed wait, but the end of it

        def reported() -> bool:
            standing = self.with_store(lambda store: store.standings([lease.id])).get(lease.id)
            report = standing.evidence.report if standing else None
            assert report is not None
            assert known(report), report
            return True

        eventually_sync(reported, 60.0, "the culler can know of it")

    def processes(self, user: str | None = None) -> list[HostProcess]:
        """The processes on this machine that carry this hub's mark."""
        return [found for found in walk().marked if found.hub_id == self.hub_id and user in {None, found.user}]


def server_path(user: str, name: str = "") -> str:
    """The path of a server in JupyterHub's API."""
    return f"/hub/api/users/{_q(user)}/" + (f"servers/{_q(name)}" if name else "server")


def new_hub_id() -> str:
    """An id that no other hub on this machine has: it would end our servers as orphans, and take our socket."""
    return f"t-{secrets.token_hex(6)}"


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, and that neither the kernel nor another worker of pytest-xdist gives to anybody.

    None is given twice before all others were: who got one may listen on it much later.
    """
    found: list[int] = []
    for port in _turn():
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            break
    return found


def keep_ports(data_dir: Path) -> None:
    """Write down where the services of a hub listen, unless an earlier run did: it finds a port for each that is free
    now, and that anybody may have taken when the service begins."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, port in zip(("console.port", "desktop.port"), free_ports(2), strict=True):
        if not (data_dir / name).exists():
            (data_dir / name).write_text(f"{port}\n")


@functools.cache
def _turn() -> Iterator[int]:
    """All ports of this worker in an order of its own, round and round; one iterator per process."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ours = list(PORTS[worker % WORKERS :: WORKERS])
    random.shuffle(ours)
    return itertools.cycle(ours)


def end_all_of(hub_id: str, providers: Sequence[str] = ()) -> None:
    """End every process that carries the id of a hub that has ended; remove its run folders and these providers' groups."""
    end_processes(hub_id)
    shutil.rmtree(default_base(hub_id, environment=os.environ, uid=os.geteuid()), ignore_errors=True)
    for name in providers:
        groups = probe(hub_id=hub_id, provider=name).groups
        for left in groups.list_groups().values() if groups is not None else ():
            left.remove()


def end_processes(hub_id: str) -> None:
    """Kill whatever carries this hub's mark, until nothing does."""

    def none_left() -> bool:
        left = [process for process in walk().marked if process.hub_id == hub_id]
        for process in left:
            try:
                psutil.Process(process.pid).kill()
            except psutil.NoSuchProcess:
                continue
        return not left

    eventually_sync(none_left, 20.0, f"no process of {hub_id} is left")


@contextlib.contextmanager
def an_orphan(hub_id: str, *, provider: str = "local") -> Iterator[subprocess.Popen[bytes]]:
    """A process that carries a hub's mark and belongs to no lease; ended on the way out if it still lives."""
    mark = marks(new_lease_id(), hub_id=hub_id, provider=provider, user="nobody")
    with subprocess.Popen(["sleep", "300"], env={**os.environ, **mark}) as orphan:  # noqa: S607 - on every PATH
        try:
            yield orphan
        finally:
            if orphan.poll() is None:
                orphan.kill()


def _q(text: str) -> str:
    return quote(text, safe="")


def major_version() -> int:
    """Of the JupyterHub that is installed: 5 and 6 differ in a few requests."""
    return int(metadata.version("jupyterhub").split(".")[0])
