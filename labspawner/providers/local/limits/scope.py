"""Rung SYSTEMD: a transient scope of systemd for each lease, delegated to us, with the same two leaves in it.

`systemd-run --scope` moves only itself into a scope, and the keeper is a fork that runs already. So a small anchor
makes the scope and waits on a pipe until the keeper has joined. systemd shows the scope's limits, which leave our
helpers some room, and removes it when its last process is gone; what holds the server are the limits of its leaf.
Blocking. Checked with a systemd that is a double: the machines that build labspawner have none.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import shutil
import subprocess
import time
from pathlib import Path, PurePosixPath

from labspawner.errors import LabError, SetupError
from labspawner.model import LeaseId
from labspawner.naming import safe_name
from labspawner.providers.local.confinement import Limits
from labspawner.providers.local.limits.cgroupfs import PROC_SELF, CgroupFs, Mounts, find_mounts
from labspawner.providers.local.limits.dialects import OUTSIDE, V2
from labspawner.providers.local.limits.groups import EMPTY_S, Group, Probed
from labspawner.providers.local.limits.probing import TRIAL, what_fails, what_is_limited
from labspawner.sentences import Sentence

SLICE = "labspawner.slice"
HELPERS_BYTES, HELPERS_TASKS = 256 * 2**20, 64  # for the keeper, bubblewrap and slirp4netns, beside the server's own
_ANSWER_S = 15.0
_RUNS = {"running", "degraded", "starting"}
_ENVIRONMENT = ("PATH", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")
_ANCHOR = ("/bin/sh", "-c", "echo started; read line")


def unit_name(*, hub_id: str, provider: str, name: str) -> str:
    """The unit of a lease. The parts have no `_` in them, so no two leases share a unit."""
    return "_".join(("labspawner", safe_name(hub_id), safe_name(provider), safe_name(name))) + ".scope"


def command(unit: str, limits: Limits, *, user_manager: bool) -> tuple[str, ...]:
    """The words that run what follows them in a new scope with these limits, plus room for our helpers. Pure."""
    properties = {"Delegate": "yes", "MemoryAccounting": "yes", "TasksAccounting": "yes"}
    if limits.memory_bytes is not None:
        properties |= {"MemoryMax": str(limits.memory_bytes + HELPERS_BYTES), "MemorySwapMax": "0"}
    if limits.cpu is not None:
        percent = max(1, math.ceil(100 * limits.cpu))
        properties |= {"CPUQuota": f"{percent}%", "CPUWeight": str(min(10_000, percent))}
    if limits.processes is not None:
        properties["TasksMax"] = str(limits.processes + HELPERS_TASKS)
    return (
        "systemd-run",
        *_manager(user_manager),
        "--scope",
        "--quiet",
        "--collect",
        f"--unit={unit}",
        f"--slice={SLICE}",
        "--description=labspawner server",
        *(word for key, value in properties.items() for word in ("-p", f"{key}={value}")),
        "--",
    )


class ScopeGroup(Group):
    """One lease's scope. anchors: of this hub process, by unit; whoever asks for a scope again shares them."""

    def __init__(
        self, dialect: V2, unit: str, *, user_manager: bool, anchors: dict[str, subprocess.Popen[bytes]]
    ) -> None:
        super().__init__(dialect, PurePosixPath(unit))
        self._user_manager = user_manager
        self._anchors = anchors

    def joined(self) -> None:
        """Let go of the anchor, so that the scope lives as long as who joined it."""
        anchor = self._anchors.pop(self.name.name, None)
        if anchor is not None:
            _let_go(anchor)

    def kill(self, *, deadline_s: float = EMPTY_S) -> bool:
        """Kill all processes of the scope; whether none is left."""
        killed = super().kill(deadline_s=deadline_s)
        self.joined()
        return killed

    def remove(self, *, deadline_s: float = EMPTY_S) -> bool:
        """Stop the unit, which systemd then removes; False while a process in it lives."""
        self.joined()
        if self.exists():
            if self.pids():
                return False
            _systemctl(self._user_manager, "stop", self.name.name)
        until = time.monotonic() + deadline_s
        while self.exists() and not self._removed():
            if self.pids() or time.monotonic() >= until:
                return False
            time.sleep(0.01)
        return True


class Scopes:
    """The scopes of one provider of one hub: what `Groups` is for the rung below, with the same methods."""

    def __init__(self, dialect: V2, *, hub_id: str, provider: str, user_manager: bool, words: str = "") -> None:
        self._dialect = dialect
        self._hub_id, self._provider = hub_id, provider
        self._user_manager = user_manager
        self._anchors: dict[str, subprocess.Popen[bytes]] = {}
        self.words = words
        self.limits_memory = "memory" in dialect.controllers
        self.limits_cpu = "cpu" in dialect.controllers
        self.limits_processes = "pids" in dialect.controllers

    def create(self, name: str, limits: Limits) -> Group:
        """A scope of this name with these limits; call `joined` when the keeper is in it, or it is kept for nothing.

        An existing one, left by a hub that was killed, is killed first. Raises SetupError with what systemd said.
        """
        old = self.group(name)
        if old.exists():
            old.kill()
            old.remove()
        self._anchors[old.name.name] = start(old.name.name, limits, user_manager=self._user_manager)
        group = self.group(name)
        try:
            folder = self._dialect.folders(group.name)[0]
            self._dialect.fs.make(folder / OUTSIDE)
            for pid in group.pids():  # the anchor: a group that passes controllers on may have no processes itself
                self._dialect.fs.write(folder / OUTSIDE / "cgroup.procs", str(pid))
            self._dialect.make(group.name)
            self._dialect.limit(group.name, limits)
        except OSError as exc:
            group.kill()
            group.remove()
            raise _refused(f"scope {group.name}: {exc}") from exc
        return group

    def group(self, name: str) -> Group:
        """The scope of this name, whether it exists or not."""
        return self._scope(self._unit(name))

    def list_groups(self) -> dict[LeaseId, Group]:
        """Every scope of this provider and hub that is there, by its lease."""
        head, tail = self._unit("\0").rsplit("_", 1)[0] + "_", ".scope"
        units = [path.name for path in self._dialect.fs.groups_in(self._dialect.parents[0])]
        return {
            LeaseId(unit[len(head) : -len(tail)]): self._scope(unit)
            for unit in units
            if unit.startswith(head) and unit.endswith(tail)
        }

    def _scope(self, unit: str) -> Group:
        return ScopeGroup(self._dialect, unit, user_manager=self._user_manager, anchors=self._anchors)

    def _unit(self, name: str) -> str:
        return unit_name(hub_id=self._hub_id, provider=self._provider, name=name)


def start(unit: str, limits: Limits, *, user_manager: bool) -> subprocess.Popen[bytes]:
    """The anchor of a new scope, which has nothing else in it. Raises SetupError with what systemd said."""
    words = command(unit, limits, user_manager=user_manager)
    try:
        anchor = subprocess.Popen(  # noqa: S603 - our own words
            (*words, *_ANCHOR),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,
        )
    except OSError as exc:
        raise _refused(f"systemd-run: {exc}") from exc
    assert anchor.stdout is not None
    ready, _, _ = select.select([anchor.stdout], [], [], _ANSWER_S)
    said = anchor.stdout.readline().strip() if ready else b"it does not answer"
    if said != b"started":
        if not ready:
            anchor.kill()
        _let_go(anchor)
        raise _refused(f"systemd-run {unit}: {said.decode(errors='replace')}")
    return anchor


def probe_scopes(
    *, hub_id: str, provider: str, fs: CgroupFs | None = None, mounts: Mounts | None = None, uid: int | None = None
) -> Probed:
    """Say whether scopes of systemd work here, by trial: of the system's manager for root, else of the user's own."""
    user_manager = (os.geteuid() if uid is None else uid) != 0
    mounts = mounts or find_mounts(PROC_SELF)
    missing = [name for name in ("systemd-run", "systemctl") if shutil.which(name) is None]
    if missing:
        return Probed(None, f"no scopes: {' and '.join(missing)} not found")
    state = _systemctl(user_manager, "is-system-running")
    if state not in _RUNS:
        whose = "user's" if user_manager else "system's"
        return Probed(None, f"no scopes: the {whose} systemd does not run here ({state or 'no answer'})")
    if mounts.v2 is None or mounts.v1:
        return Probed(None, "no scopes: they need the unified control groups (version 2) alone")
    unit = unit_name(hub_id=hub_id, provider="trial", name=f"p{os.getpid()}")
    try:
        dialect, problem = _try_out(fs or CgroupFs(), mounts.v2, unit, user_manager=user_manager)
    except LabError as exc:
        return Probed(None, f"no scopes: {exc}")
    if problem is not None:
        return Probed(None, f"no scopes: {problem}")
    words = f"scopes of systemd limit {what_is_limited(dialect.controllers)}"
    scopes = Scopes(dialect, hub_id=hub_id, provider=provider, user_manager=user_manager, words=words)
    return Probed(scopes, words)


def _try_out(fs: CgroupFs, mount: Path, unit: str, *, user_manager: bool) -> tuple[V2, str | None]:
    """The slice in which scopes stand, and what of them does not work."""
    anchor = start(unit, Limits(), user_manager=user_manager)
    try:
        path = _systemctl(user_manager, "show", "--property=ControlGroup", "--value", unit)
        folder = mount / path.strip("/")
        if not path or not fs.exists(folder):
            return V2(fs, mount), f"systemd does not say where its scope is ({path or 'no answer'})"
        dialect = V2(fs, folder.parent)
    finally:
        _let_go(anchor)
        _systemctl(user_manager, "stop", unit)
    scopes = Scopes(dialect, hub_id="trial", provider="trial", user_manager=user_manager)
    group = scopes.create(f"p{os.getpid()}", TRIAL)
    try:
        return dialect, what_fails(group, dialect.controllers)
    finally:
        group.kill()
        group.remove()


def _systemctl(user_manager: bool, *words: str) -> str:
    """What systemctl prints, without its ending; empty where it does not answer."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        result = subprocess.run(  # noqa: S603 - our own words
            ("systemctl", *_manager(user_manager), *words),  # noqa: S607
            capture_output=True,
            timeout=_ANSWER_S,
            check=False,
            env=_environment(),
        )
        return result.stdout.decode(errors="replace").strip()
    return ""


def _let_go(anchor: subprocess.Popen[bytes]) -> None:
    for pipe in (anchor.stdin, anchor.stdout):
        assert pipe is not None
        pipe.close()
    try:
        anchor.wait(timeout=_ANSWER_S)
    except subprocess.TimeoutExpired:  # it does nothing but wait for us
        anchor.kill()
        anchor.wait()


def _manager(user_manager: bool) -> tuple[str, ...]:
    return ("--user",) if user_manager else ()


def _environment() -> dict[str, str]:
    return {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}


def _refused(detail: str) -> SetupError:
    return SetupError(
        Sentence("The limits of your server could not be set on the machine. Tell your administrator."), detail=detail
    )
