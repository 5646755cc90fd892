"""The screens that clients see, and what they did there."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from labspawner.testing.pve.console import rfb
from labspawner.testing.pve.console.canvas import (
    BACKGROUND,
    COLOURS,
    HEIGHT,
    MARK,
    WHOLE,
    WIDTH,
    Area,
    Canvas,
    Colour,
    PixelFormat,
    squares,
)
from labspawner.testing.pve.seams import Stream
from labspawner.testing.pve.world import Vm

_LOOK_S = 0.25  # how often a console looks whether its VM is still the same
_LINE = Area(20, 200, WIDTH - 40, 30)
_LETTERS = 27  # that fit into the line
_DOT = 10
_CHUNK = Area(0, HEIGHT - 40, WIDTH, 40)  # what a flood sends again and again


@dataclass(eq=False)
class Viewer:
    """One client that was let in. wants: it has asked for an update that it did not get yet."""

    stream: Stream
    pixels: PixelFormat = field(default_factory=PixelFormat)
    wants: bool = False
    dirty: list[Area] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    flood: int = 0
    dropped: bool = False

    def colours(self) -> list[bytes]:
        return [self.pixels.pixel(colour) for colour in COLOURS]


class Screen:
    """What one VM shows. Read it from anywhere; it is drawn in the double's loop."""

    def __init__(self, vmid: int) -> None:
        self.vmid = vmid
        self.keys: list[tuple[bool, int]] = []
        self.pointers: list[tuple[int, int, int]] = []
        self.cut_texts: list[str] = []
        self.typed = ""
        self.connections, self.refused, self.sent = 0, 0, 0
        self.viewers: set[Viewer] = set()
        self.loop: asyncio.AbstractEventLoop | None = None
        self._canvas = Canvas()

    def begin(self, name: str) -> None:
        """The VM was switched on: all that was done before is forgotten."""
        self.keys, self.pointers, self.cut_texts, self.typed = [], [], [], ""
        self._canvas.fill(WHOLE, BACKGROUND)
        self._canvas.text(20, 24, name[:19], 6)
        self._canvas.text(20, 70, "simulated by labspawner", 3)
        for number, colour in enumerate(squares(self.vmid)):
            self._canvas.fill(Area(20 + number * 50, 110, 40, 40), colour)

    @property
    def open(self) -> int:
        """How many clients there are now."""
        return len(self.viewers)

    def pixel(self, x: int, y: int) -> Colour:
        return self._canvas.pixel(x, y)

    def drop(self) -> None:
        """End all its connections."""

        def do() -> None:
            for viewer in [*self.viewers]:
                viewer.dropped = True
                viewer.news.set()

        self._there(do)

    def flood(self, count: int) -> None:
        """Send each client that many bytes of updates, whether or not it asked."""

        def do() -> None:
            for viewer in self.viewers:
                viewer.flood = count
                viewer.news.set()

        self._there(do)

    def _there(self, do: Callable[[], None]) -> None:
        if self.loop is not None:
            self.loop.call_soon_threadsafe(do)

    # what clients do; in the loop

    def key(self, down: bool, keysym: int) -> None:
        self.keys.append((down, keysym))
        if down and (letter := rfb.letter_of(keysym)):
            self.typed += letter
            self._canvas.fill(_LINE, BACKGROUND)
            self._canvas.text(_LINE.x, _LINE.y, self.typed.replace("\n", "/")[-_LETTERS:], 4)
            self._changed(_LINE)

    def pointer(self, buttons: int, x: int, y: int) -> None:
        self.pointers.append((buttons, x, y))
        if buttons:
            self._changed(self._canvas.fill(Area(x - _DOT // 2, y - _DOT // 2, _DOT, _DOT), MARK))

    def cut(self, text: str) -> None:
        self.cut_texts.append(text)

    def _changed(self, area: Area) -> None:
        for viewer in self.viewers:
            viewer.dirty.append(area)
            viewer.news.set()

    def frame(self, viewer: Viewer, area: Area) -> bytes:
        return rfb.update(area, self._canvas.raw(area, viewer.colours()))


class Screens:
    """`seams.Console`: shows the screens of all VMs."""

    def __init__(self) -> None:
        self._screens: dict[int, Screen] = {}
        self._lives: dict[int, tuple[int, float, str]] = {}
        self._serving: set[asyncio.Task[None]] = set()

    def screen(self, vmid: int) -> Screen:
        """The screen of a VM, whether or not somebody has looked at it."""
        return self._screens.setdefault(vmid, Screen(vmid))

    def _of(self, vm: Vm) -> Screen:
        """The VM's screen; an empty one where it was switched off meanwhile."""
        screen, life = self.screen(vm.vmid), (vm.pid, vm.started_at, vm.name)
        if self._lives.get(vm.vmid) != life:
            self._lives[vm.vmid] = life
            screen.begin(vm.name)
        return screen

    async def serve(self, vm: Vm, password: str, stream: Stream) -> None:
        """Speak RFB with a client until it goes or the VM stops."""
        screen, line = self._of(vm), rfb.Line(stream)
        screen.loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        if task is not None:
            self._serving.add(task)
        try:
            await rfb.admit(line, stream, password, secrets.token_bytes(16), f"QEMU ({vm.name})")
            screen.connections += 1
            viewer = Viewer(stream)
            screen.viewers.add(viewer)
            await self._show(vm, screen, viewer, line)
        except rfb.WrongPassword:
            screen.refused += 1
        except (rfb.ClientGone, ConnectionError):
            pass
        finally:
            if task is not None:
                self._serving.discard(task)
            with contextlib.suppress(ConnectionError):
                await stream.close()

    async def _show(self, vm: Vm, screen: Screen, viewer: Viewer, line: rfb.Line) -> None:
        """All three halves of a console, until one of them ends."""
        loop = asyncio.get_running_loop()
        parts = [
            loop.create_task(_listen(screen, viewer, line)),
            loop.create_task(_draw(screen, viewer)),
            loop.create_task(_until_off(vm)),
        ]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
        finally:
            screen.viewers.discard(viewer)
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)

    async def close(self) -> None:
        for task in [*self._serving]:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)


async def _listen(screen: Screen, viewer: Viewer, line: rfb.Line) -> None:
    """Take what the client sends. Raises ClientGone."""
    while True:
        kind = (await line.read(1))[0]
        if kind == 0:
            try:
                viewer.pixels = PixelFormat.read((await line.read(19))[3:])
            except ValueError:
                raise rfb.ClientGone from None
            viewer.dirty.append(WHOLE)
        elif kind == 2:
            (count,) = await line.unpack(">xH")
            await line.read(4 * count)
        elif kind == 3:
            incremental, *_ = await line.unpack(">BHHHH")
            viewer.dirty += [] if incremental else [WHOLE]
            viewer.wants = True
            viewer.news.set()
        elif kind == 4:
            down, keysym = await line.unpack(">B2xI")
            screen.key(bool(down), keysym)
        elif kind == 5:
            buttons, x, y = await line.unpack(">BHH")
            screen.pointer(buttons, x, y)
        elif kind == 6:
            screen.cut(await rfb.text_of(line))
        else:
            raise rfb.ClientGone


async def _draw(screen: Screen, viewer: Viewer) -> None:
    """Send what the client asked for, once there is something; ends when it is dropped."""
    while True:
        await viewer.news.wait()
        viewer.news.clear()
        while viewer.flood > 0 and not viewer.dropped:
            frame = screen.frame(viewer, _CHUNK)
            viewer.flood = max(0, viewer.flood - len(frame))
            await viewer.stream.write(frame)
            screen.sent += len(frame)
        if viewer.dropped:
            return
        if viewer.wants and viewer.dirty:
            areas, viewer.dirty, viewer.wants = viewer.dirty, [], False
            frame = screen.frame(viewer, _around(areas))
            await viewer.stream.write(frame)
            screen.sent += len(frame)


def _around(areas: list[Area]) -> Area:
    """The smallest rectangle that has all of them in it."""
    left, top = min(area.x for area in areas), min(area.y for area in areas)
    right, bottom = max(area.x + area.width for area in areas), max(area.y + area.height for area in areas)
    return Area(left, top, right - left, bottom - top)


async def _until_off(vm: Vm) -> None:
    """Return when the VM is off, or is another run of it."""
    life = (vm.pid, vm.started_at)
    while vm.running and (vm.pid, vm.started_at) == life:  # noqa: ASYNC110 - a VM is data, which says nothing by itself
        await asyncio.sleep(_LOOK_S)
