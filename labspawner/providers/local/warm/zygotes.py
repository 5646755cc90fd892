"""The hub's side: a zygote for each interpreter, kept warm, and the starts that go through them."""

from __future__ import annotations

import asyncio
import json
import math
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from logging import getLogger
from typing import Any, TypeAlias

import psutil

from labspawner.deadlines import within
from labspawner.errors import ProviderUnavailable, SetupError
from labspawner.providers.local.warm import wire
from labspawner.providers.local.warm.child import Child, Refused, Watched, environment_changed
from labspawner.providers.local.warm.memory import Memory, memory_of
from labspawner.providers.local.warm.orders import Started, StartOrder, program_of
from labspawner.providers.local.warm.trust import distrust
from labspawner.providers.processes import Identity
from labspawner.sentences import Sentence

log = getLogger(__name__)

# What an interpreter reads once, when it starts, or its modules when they are imported: where the server's differs from
# the zygote's, a fork would be another server than the one that was asked for.
FROZEN = (
    *("LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH", "PYTHONHASHSEED", "PYTHONUTF8"),
    *("PYTHONOPTIMIZE", "PYTHONWARNINGS", "PYTHONIOENCODING", "PYTHONMALLOC", "PYTHONDEVMODE", "PYTHONBREAKPOINT"),
    *("JUPYTERHUB_SINGLEUSER_APP", "JUPYTERHUB_SINGLEUSER_EXTENSION", "JUPYTERHUB_SINGLEUSER_LOAD_OTHER_EXTENSIONS"),
    *("JUPYTER_PLATFORM_DIRS", "JUPYTER_PREFER_ENV_PATH", "MALLOC_ARENA_MAX", "OPENSSL_CONF"),
)
Loader: TypeAlias = tuple[tuple[str, str], ...]
"""Variables of the dynamic loader, beyond the hub's, that an interpreter was started with; see `StartOrder.loader`."""

_LOCALE = ("LC_ALL", "LC_CTYPE", "LANG")
_LOOK_EVERY_S = 2.0
_START_S = 180.0
_ROLLBACK_S = 10.0
AGAIN_S, COLD_AGAIN_S = 30.0, 1.0
"""From a failure that may pass, as where no more processes can be made, to the next try; without the cold one no server
starts at all."""


class Zygotes:
    """Starts servers, in a fraction of a second where their interpreter could be warmed up.

    environment: what servers inherit from the hub. wait_s: how long a start waits for a zygote that is about to be
    ready, before it is done the slow way. idle_s: after how long the zygotes of interpreters other than the hub's end.
    """

    def __init__(self, environment: Mapping[str, str], *, wait_s: float = 20.0, idle_s: float = 1800.0) -> None:
        self._environment = dict(environment)
        self._wait_s, self._idle_s = wait_s, idle_s
        self._slots: dict[tuple[str, str, Loader], _Slot] = {}
        self._cold = _Slot(sys.executable)
        self._said: set[str] = set()
        self._rollbacks: set[asyncio.Task[None]] = set()
        self._janitor: asyncio.Task[None] | None = None
        self._closed = False

    async def open(self) -> None:
        """Warm up the hub's own interpreter in the background; returns at once."""
        self._renew(self._slot(sys.executable), warm=True)
        self._renew(self._cold, warm=False)
        self._janitor = asyncio.ensure_future(self._tidy_up())

    async def ready(self, interpreter: str = sys.executable, loader: Mapping[str, str] | None = None) -> str | None:
        """Wait for an interpreter's zygote: None when it is warm, else why it will not be. loader: see `StartOrder`."""
        slot = self._slot(interpreter, tuple(sorted((loader or {}).items())))
        self._renew(slot, warm=True)
        assert slot.making is not None
        await asyncio.wait([slot.making])
        return slot.reason

    @property
    def zygotes(self) -> Mapping[str, int]:
        """The interpreters that are warm, each with its zygote's pid. One that has a library preloaded is named with it."""
        return {
            " ".join([slot.interpreter, *(value for _, value in slot.loader)]): slot.child.process.pid
            for slot in self._slots.values()
            if slot.child is not None
        }

    async def start(self, order: StartOrder) -> Started:
        """Start a server. One that cannot start, or whose start is cancelled, leaves nothing.

        Raises OSError as `execve` and the sandbox's system calls do, SetupError where the sandbox cannot be made,
        ProviderUnavailable where there is no answer.
        """
        for _attempt in range(2):
            slot, words = await self._way(order)
            child = await self._child(slot)
            if child is None:
                continue
            try:
                return await self._start_through(child, order, words)
            except _Lost:
                log.warning("zygote lost pid=%s interpreter=%s", child.process.pid, slot.interpreter)
                await child.end()
        raise ProviderUnavailable(
            Sentence("The server machine is too busy to start one more server. Try again in a minute."),
            detail="the zygote ends before it starts anything",
            retry_after_s=30.0,
        )

    async def memory(self, pids: Sequence[int]) -> Memory:
        """What these processes use, and how much of it is their own."""
        return await asyncio.to_thread(memory_of, list(pids))

    async def close(self) -> None:
        """End the zygotes; servers go on. May be repeated."""
        self._closed = True
        if self._rollbacks:
            await asyncio.wait(self._rollbacks)
        tasks = [task for task in (self._janitor, *(slot.making for slot in self._all())) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for slot in self._all():
            if slot.child is not None:
                await slot.child.end()
                slot.child = None

    # -- which zygote ----------------------------------------------------------------------------------------------

    async def _way(self, order: StartOrder) -> tuple[_Slot, int]:
        """Through which zygote, and how many words of the command name its program; none for any other command."""
        program = await asyncio.to_thread(program_of, order.argv, order.environment.get("PATH", os.defpath))
        if not order.warm or program is None:
            return self._cold, 0
        slot = self._slot(program.interpreter, tuple(sorted(order.loader.items())))
        reason = self._other_interpreter(order)
        if reason is None:
            reason = await self._until_warm(slot)
        if reason is None:
            return slot, program.words
        self._say_once(f"servers of {slot.interpreter} start slowly: {reason}")
        return self._cold, 0

    def _other_interpreter(self, order: StartOrder) -> str | None:
        """Why a server with this environment cannot be a fork; None where it can."""
        environment = order.environment
        for name in FROZEN:
            started_with = self._environment.get(name)
            if name != "LD_PRELOAD":  # forgotten, so the server has the hub's own, or none
                started_with = order.loader.get(name, started_with)
            if environment.get(name) != started_with:
                return f"{name} is not the hub's"
        if any(name.startswith("PYTHON") and name in FROZEN and name != "PYTHONPATH" for name in environment):
            return "a variable of the interpreter is set"
        said = next((environment[name] for name in _LOCALE if environment.get(name)), "C")
        if "." in said and said.rpartition(".")[2].partition("@")[0].lower().replace("-", "") != "utf8":
            return f"the locale {said} is not UTF-8"
        return None

    async def _until_warm(self, slot: _Slot) -> str | None:
        slot.used_at = time.monotonic()
        if time.monotonic() - slot.looked_at >= _LOOK_EVERY_S:
            slot.looked_at = time.monotonic()
            changed = await asyncio.to_thread(environment_changed, slot.watched)
            if changed is not None:
                log.info("environment changed, zygote renewed interpreter=%s path=%s", slot.interpreter, changed)
                slot.stale = True
        self._renew(slot, warm=True)
        assert slot.making is not None
        done, _ = await asyncio.wait([slot.making], timeout=self._wait_s)
        return slot.reason if done else f"not warm within {self._wait_s:g} s"

    def _slot(self, interpreter: str, loader: Loader = ()) -> _Slot:
        key = (os.path.dirname(interpreter), os.path.realpath(interpreter), loader)
        return self._slots.setdefault(key, _Slot(interpreter, loader))

    def _all(self) -> list[_Slot]:
        return [self._cold, *self._slots.values()]

    async def _child(self, slot: _Slot) -> Child | None:
        if slot is self._cold:
            self._renew(slot, warm=False)
            assert slot.making is not None
            await asyncio.wait([slot.making])
        if slot.child is None and slot.reason:
            self._say_once(f"the program that starts servers does not run: {slot.reason}")
        return slot.child

    # -- making them -----------------------------------------------------------------------------------------------

    def _renew(self, slot: _Slot, *, warm: bool) -> None:
        """See to it that a zygote is there, or on its way, or refused for a reason that still holds."""
        if self._closed or (slot.making is not None and not slot.making.done()):
            return
        died = slot.child is not None and not slot.child.alive
        again = time.monotonic() - slot.failed_at >= (AGAIN_S if warm else COLD_AGAIN_S)
        if slot.making is None or slot.stale or died or again:
            slot.making = asyncio.ensure_future(self._make(slot, warm=warm))

    async def _make(self, slot: _Slot, *, warm: bool) -> None:
        old, slot.child, slot.stale, slot.failed_at = slot.child, None, False, math.inf
        began = time.monotonic()
        try:
            if old is not None:
                await old.end()
            if warm and slot.interpreter != sys.executable and os.geteuid() == 0:
                reason = await asyncio.to_thread(distrust, slot.interpreter, uid=os.geteuid())
                if reason is not None:
                    raise Refused(f"root does not run it: {reason}")
            environment = {
                name: value
                for name, value in self._environment.items()
                if name in {"PATH", *FROZEN, *_LOCALE} and not name.startswith("PYTHON")
            } | dict(slot.loader)
            path = [part for part in self._environment.get("PYTHONPATH", "").split(os.pathsep) if part]
            slot.child = await Child.make(slot.interpreter, environment=environment, path=path, warm=warm)
        except Refused as exc:
            slot.reason, slot.watched = str(exc), exc.watched
            log.info("no zygote interpreter=%s: %s", slot.interpreter, exc)
        except Exception as exc:  # no thread for it, for one; nobody awaits this task's result, and starts go on
            slot.reason, slot.watched = f"{type(exc).__name__}: {exc}", {}
            log.exception("no zygote interpreter=%s", slot.interpreter)
        else:
            slot.reason, slot.watched = None, slot.child.watched
            if warm:
                took = time.monotonic() - began
                log.info(
                    "zygote warm interpreter=%s pid=%s s=%.1f%s",
                    slot.interpreter,
                    slot.child.process.pid,
                    took,
                    "".join(f" {name}={value}" for name, value in slot.loader),
                )
        slot.used_at = slot.looked_at = time.monotonic()
        if slot.child is None and not slot.watched:
            slot.failed_at = slot.looked_at

    async def _tidy_up(self) -> None:
        while True:
            await asyncio.sleep(self._idle_s / 4)
            for key, slot in list(self._slots.items()):
                idle = time.monotonic() - slot.used_at >= self._idle_s
                done = slot.making is None or slot.making.done()
                if idle and done and (slot.interpreter != sys.executable or slot.loader):
                    del self._slots[key]
                    if slot.child is not None:
                        log.info("zygote ended, nobody needs it interpreter=%s", slot.interpreter)
                        await slot.child.end()

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            log.warning("%s", text)

    # -- one start -------------------------------------------------------------------------------------------------

    async def _start_through(self, child: Child, order: StartOrder, words: int) -> Started:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            with theirs:
                child.hand_over(theirs)
            started = await within(_START_S, _converse(ours, order, words))
            ours.send(wire.GO)
        except BaseException as exc:
            ending = asyncio.ensure_future(_wait_for_end(ours))
            self._rollbacks.add(ending)
            ending.add_done_callback(self._rollbacks.discard)
            await asyncio.shield(ending)
            if isinstance(exc, asyncio.TimeoutError):
                raise ProviderUnavailable(
                    Sentence("The server machine is too busy to start one more server. Try again in a minute."),
                    detail=f"no server after {_START_S:g} s",
                    retry_after_s=30.0,
                ) from exc
            if isinstance(exc, (BrokenPipeError, ConnectionResetError)):
                raise _Lost from exc
            raise
        return started


class _Lost(Exception):
    """The zygote, or the keeper before it had done anything, is gone."""


class _Slot:
    """The zygote of one interpreter: there, being made, or refused."""

    def __init__(self, interpreter: str, loader: Loader = ()) -> None:
        self.interpreter, self.loader = interpreter, loader
        self.child: Child | None = None
        self.making: asyncio.Task[None] | None = None
        self.reason: str | None = None
        self.watched: Watched = {}
        self.stale = False
        self.failed_at = math.inf  # when it could not be made, for a reason that no change of `watched` will end
        self.used_at = self.looked_at = time.monotonic()


async def _converse(ours: socket.socket, order: StartOrder, words: int) -> Started:
    """Ask for the server, and hear that it runs."""
    loop = asyncio.get_running_loop()
    data = wire.frame(order.request(words=words))
    sent = socket.send_fds(ours, [data], [order.output_fd])
    await loop.sock_sendall(ours, data[sent:])
    keeper: Identity | None = None
    said = b""
    while True:
        some = await loop.sock_recv(ours, 65536)
        if not some:
            raise _Lost if keeper is None else ConnectionResetError("the keeper ended")
        said += some
        *lines, said = said.split(b"\n")
        for line in lines:
            answer: dict[str, Any] = json.loads(line)
            if "failed" in answer:
                raise _failure(answer)
            if "keeper" in answer:
                keeper = await loop.run_in_executor(None, _identity, answer["keeper"])
            if "server" in answer:
                assert keeper is not None
                return Started(keeper=keeper, server_pid=answer["server"], warm=words > 0, connection=ours)


def _identity(pid: int) -> Identity:
    try:
        return pid, float(psutil.Process(pid).create_time())
    except psutil.Error:  # it ended meanwhile, and says so
        return pid, 0.0


def _failure(answer: Mapping[str, Any]) -> Exception:
    if answer.get("errno"):
        return OSError(answer["errno"], answer["failed"])
    return SetupError(
        Sentence("Your server could not be started. Tell your administrator."), detail=str(answer["failed"])
    )


async def _wait_for_end(ours: socket.socket) -> None:
    """Tell the keeper that it is not wanted, and wait until it is gone with all that it made; its end ends the
    connection."""
    loop = asyncio.get_running_loop()
    with ours:
        try:
            ours.shutdown(socket.SHUT_WR)
            until = time.monotonic() + _ROLLBACK_S
            while await within(until - time.monotonic(), loop.sock_recv(ours, 4096)):
                pass
        except (OSError, asyncio.TimeoutError):
            return
