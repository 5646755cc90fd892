"""The node agent, from start to SIGTERM: looks at cards, serves classes, keeps books, publishes, watches."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from logging import getLogger
from pathlib import Path
from typing import TypeVar

from labspawner.deadlines import let_go, within
from labspawner.gpu.agent.books import GRACE_S, Books
from labspawner.gpu.agent.cards import Look, NodeCards
from labspawner.gpu.agent.containers import Containers, identify
from labspawner.gpu.agent.folders import Folders
from labspawner.gpu.agent.inventory import ANNOTATION, NodeInventory, render, resource_of
from labspawner.gpu.agent.kubelet import Registration
from labspawner.gpu.agent.layout import DoesNotFit, Layout, lay_out
from labspawner.gpu.agent.metrics import AgentMetrics
from labspawner.gpu.agent.node import NodeDoor, NodeError
from labspawner.gpu.agent.plugin import PluginServer
from labspawner.gpu.agent.settings import AgentSettings, BadSettings
from labspawner.gpu.agent.shelf import ClassOffer, Shelf
from labspawner.gpu.agent.snapshot import Snapshot, inventory_of
from labspawner.gpu.cards import Inventory
from labspawner.gpu.nvml import NoDriver
from labspawner.gpu.watchdog import Watchdog
from labspawner.sentences import plain

log = getLogger(__name__)
T = TypeVar("T")

_NO_CARDS_S = 60.0
_SOON_S = 1.0
_PUBLISH_S = 60.0
_LET_GO_S = 5.0


class Agent:
    """One node's agent. `run` does all; afterwards nothing is left but the files of slices that pods have.

    door: None: nothing is published. poll_s: how often sockets are looked at. cards: asked in a thread of its own.
    proc: where the processes of the host are seen.
    """

    def __init__(
        self,
        settings: AgentSettings,
        pool_name: str,
        *,
        libvgpu: Path,
        door: NodeDoor | None = None,
        cards: NodeCards | None = None,
        proc: Path = Path("/proc"),
        poll_s: float = _SOON_S,
        grace_s: float = GRACE_S,
    ) -> None:
        self.pool_name, self.pool = settings.pool(pool_name)
        self._settings, self._door, self._poll_s = settings, door, poll_s
        self._cards = cards or NodeCards(pretend=settings.pretend, state=settings.state / "pretended")
        self._files, self._nvml = ThreadPoolExecutor(1, "slices"), ThreadPoolExecutor(1, "nvml")
        self._folders = Folders(settings.state, settings.libvgpu_dir, libvgpu=libvgpu, tested=self.pool.selftest)
        self.metrics = AgentMetrics(lambda: self.snapshot)
        self._news = asyncio.Event()
        self._shelf = Shelf(self.pool, self._folders, self._files, self.metrics, given=self._news.set)
        self._books = Books(self._shelf, self._folders, self._files, settings.pod_resources, grace_s=grace_s)
        self._look = Look()
        self._servers: dict[str, PluginServer] = {}
        self._registrations: dict[str, Registration] = {}
        self._containers = Containers(proc)
        self._watchdog = Watchdog(
            inventory=self._seen,
            identify=identify,
            slice_of=self._containers.slice_of,
            slices=self._books.watched,
            kill=self.pool.watchdog == "kill",
        )
        self._published: NodeInventory | None = None
        self._publish_trouble = ""
        self.snapshot: Snapshot | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set. Raises BadSettings where the layout does not fit the cards, or no file can be made."""
        with contextlib.ExitStack() as held:
            try:
                if not await self._alone(held, stop):
                    return
                await in_thread(self._files, self._folders.open)
                if await self._first_cards(stop):
                    await self._serve(stop)
            finally:
                await self._close()

    async def _close(self) -> None:
        """Give NVML back, unless it hangs: its thread then ends with the process."""
        with contextlib.suppress(asyncio.TimeoutError):
            await within(_LET_GO_S, in_thread(self._nvml, self._cards.close))
        self._nvml.shutdown(wait=False, cancel_futures=True)
        with contextlib.suppress(asyncio.TimeoutError):  # what is half made is finished
            await within(_LET_GO_S, asyncio.to_thread(self._files.shutdown))

    # -- the parts of it ------------------------------------------------------------------------------------------------

    async def _alone(self, held: contextlib.ExitStack, stop: asyncio.Event) -> bool:
        """Wait until no other agent is at work on this node; whether that came before `stop`."""
        try:
            self._settings.state.mkdir(mode=0o755, parents=True, exist_ok=True)
            lock = held.enter_context(_opened(self._settings.state / "lock"))
        except OSError as exc:
            raise BadSettings(f"the folder for slices cannot be used: {exc}") from exc
        said = False
        while not stop.is_set():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if not said:
                    log.warning("another agent is at work on this node; waiting until it ends")
                said = True
                await _until(stop, self._poll_s)
            else:
                return True
        return False

    async def _first_cards(self, stop: asyncio.Event) -> bool:
        """Look until there is a card to share; whether one came before `stop`. Raises DoesNotFit at the first look only."""
        said = None
        while not stop.is_set():
            try:
                await self._look_at_cards()
            except DoesNotFit:
                if said is None:
                    raise
                log.exception("the cards that came do not fit the slice classes; trying again")
            if self._shelf.layout.units:
                return True
            why = self._look.missing or "no card of this node is to be shared"
            if why != said:
                log.warning("no GPU slices on this node: %s Looking again every minute.", why)
                said = why
            self._take_picture()
            await self._publish()
            await _until(stop, _NO_CARDS_S)
        return False

    async def _serve(self, stop: asyncio.Event) -> None:
        for name in self.pool.classes:
            server = PluginServer(self._settings.plugins / f"labspawner-{name}.sock", ClassOffer(self._shelf, name))
            self._servers[name] = server
            self._registrations[name] = Registration(server, resource_of(name), self._settings.plugins)
        ours = {server.socket for server in self._servers.values()}
        for path in set(self._settings.plugins.glob("labspawner-*.sock")) - ours:
            path.unlink(missing_ok=True)  # of a class that there is no more, and an agent that was killed
        await self._books.look()  # before anything is given: what earlier agents gave is known
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(one.keep(self._poll_s)) for one in self._registrations.values()]
        tasks += [loop.create_task(self._repeat(self._card_pass)), loop.create_task(self._slice_passes())]
        waiting = loop.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait({waiting, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {waiting}:
                task.result()  # a loop that ended has raised
        finally:
            for task in (waiting, *tasks):
                await let_go(task)
            for server in self._servers.values():
                await server.stop()
            log.info("stopped; pods keep their slices")

    async def _repeat(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(self._settings.every)
            try:
                await work()
            except Exception:
                log.exception("a look failed; trying again")

    async def _slice_passes(self) -> None:
        """Soon after something was given, and until it is settled; else at a slow pace."""
        while True:
            try:
                await self._slice_pass()
            except Exception:
                log.exception("a look at the slices failed; trying again")
            soon = min(_SOON_S, self._settings.every)
            if self._books.settled:
                await _until(self._news, self._settings.every)
            self._news.clear()
            await asyncio.sleep(soon)

    # -- one look each --------------------------------------------------------------------------------------------------

    async def _look_at_cards(self) -> None:
        """Ask for all cards, cut those that are new, and note those that are lost. Raises DoesNotFit; then all stays."""
        look = self._look = await in_thread(self._nvml, self._cards.look)
        try:
            if not look.missing:
                await self._cut(lay_out(_with_known(look.inventory, self._shelf.layout), self.pool))
        finally:
            self._note_lost(look)
            for server in self._servers.values():
                server.changed()

    async def _cut(self, found: Layout) -> None:
        before = self._shelf.layout
        for name in found.left_out.keys() - before.left_out.keys():
            log.warning("GPU not shared gpu=%s: %s", name, found.left_out[name])
        if found.units.keys() != before.units.keys():
            log.info("cards are shared cards=%d slices=%d", len(found.cards), len(found.units))
        if self._cards.pretended is not None and self._shelf.pretended is None:
            log.warning("these cards do not exist, and nothing is computed on them")
            folder = await in_thread(self._files, partial(self._folders.put_driver, self._cards.pretended.folder))
            self._shelf.pretended = replace(self._cards.pretended, folder=folder)
        self._shelf.layout = found
        await in_thread(self._files, self._prepare)

    def _prepare(self) -> None:
        limits = self._shelf.all_limits()
        for one in limits:
            self._folders.prepare(one)
        self._folders.keep_only(one.name for one in limits)
        self._books.hold_back()

    def _note_lost(self, look: Look) -> None:
        there = {card.uuid for card in look.inventory.cards}
        why = {lost.index: lost.why for lost in look.inventory.lost}
        lost = {
            uuid: look.missing or why.get(card.index, "") or "the driver does not list it any more"
            for uuid, card in self._shelf.layout.cards.items()
            if uuid not in there
        }
        for uuid in lost.keys() - self._shelf.lost.keys():
            log.error("no slices of a card that does not answer gpu=%s: %s", uuid, lost[uuid])
        for uuid in self._shelf.lost.keys() - lost.keys():
            log.info("slices of a card that answers again gpu=%s", uuid)
        self._shelf.lost = lost

    async def _card_pass(self) -> None:
        try:
            await self._look_at_cards()
        except DoesNotFit as exc:
            log.error("a card that came does not fit the slice classes; all stays as it is: %s", exc)
        if self.pool.watchdog != "off" and self._shelf.pretended is None:
            ended = await in_thread(self._nvml, self._watch)
            self.metrics.killed.inc(ended)

    def _watch(self) -> int:
        self._containers.look([one.name for one in self._books.watched()])
        return len(self._watchdog.look().ended)

    def _seen(self) -> Inventory:
        if self._look.missing:
            raise NoDriver(plain(self._look.missing))
        return self._look.inventory

    async def _slice_pass(self) -> None:
        await self._books.look()
        for server in self._servers.values():
            server.changed()
        self._take_picture()
        await self._publish()

    def _take_picture(self) -> None:
        self.snapshot = Snapshot(
            at=datetime.now(timezone.utc),
            pool_name=self.pool_name,
            pool=self.pool,
            layout=self._shelf.layout,
            lost=self._shelf.lost,
            seen=self._look.inventory,
            slices=self._books.slices,
            registered={name: one.registered for name, one in self._registrations.items()},
            pretended=self._shelf.pretended is not None,
        )

    async def _publish(self) -> None:
        """Tell hubs, when there is news, and once a minute that we are alive."""
        if self._door is None or self.snapshot is None:
            return
        found, before = inventory_of(self.snapshot), self._published
        age_s = (found.at - before.at).total_seconds() if before is not None else _PUBLISH_S
        if found.same_but_for_time(before) and age_s < _PUBLISH_S:
            return
        try:
            await asyncio.to_thread(self._door.annotate, {ANNOTATION: render(found)})
        except NodeError as exc:
            self.metrics.publish_failures.inc()
            if str(exc) != self._publish_trouble:
                log.warning("hubs are not told about the cards of this node: %s", exc)
            self._publish_trouble = str(exc)
        else:
            if self._publish_trouble:
                log.info("hubs are told about the cards of this node again")
            self._published, self._publish_trouble = found, ""


async def in_thread(thread: Executor, call: Callable[[], T]) -> T:
    """What `call` says, in a thread of `thread`."""
    return await asyncio.get_running_loop().run_in_executor(thread, call)


async def _until(event: asyncio.Event, seconds: float) -> None:
    """Wait for `event`, but not longer than that."""
    with contextlib.suppress(asyncio.TimeoutError):
        await within(seconds, event.wait())


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _with_known(found: Inventory, layout: Layout) -> Inventory:
    """`found` and the cards that were there before: their slices stay, and are not healthy."""
    there = {card.uuid for card in found.cards}
    gone = tuple(card for uuid, card in layout.cards.items() if uuid not in there)
    return replace(found, cards=(*found.cards, *gone))
