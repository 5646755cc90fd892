"""The threads in which calls block, as many as there may be and no more. A call that hangs keeps its thread until its own
deadline, or until its line is cut; who asked is told long before."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from logging import getLogger
from typing import TYPE_CHECKING

from labspawner.errors import BadConfig
from labspawner.providers.proxmox.access import Access, wrong
from labspawner.providers.proxmox.asking import Answer, Ask, Call, Lost, NotSent
from labspawner.sentences import Sentence

if TYPE_CHECKING:
    from labspawner.providers.proxmox.transport import Line

log = getLogger(__name__)
_CLOSE_S = 1.0


class Threads:
    """most: how many calls go at once. connect_s: until a connection is made, TLS included."""

    def __init__(self, access: Access, *, most: int, connect_s: float) -> None:
        self._access = access
        self._most = most
        self._connect_s = connect_s
        self._executor: ThreadPoolExecutor | None = None
        self._own = threading.local()
        self._lock = threading.Lock()
        self._lines: list[Line] = []
        self._calls: dict[Future[Answer], Call] = {}
        self._left: set[Future[Answer]] = set()
        self._closed = False

    @property
    def hanging(self) -> int:
        """Calls that nobody waits for any more, and that keep a thread."""
        return len(self._left)

    async def run(self, url: str, ask: Ask, *, within_s: float) -> Answer:
        """The answer of one endpoint. Raises NotSent, Untrusted and Lost, Lost also when there is none after `within_s`;
        BadConfig where proxmoxer is not installed, or the CA file is none. Cancelled, what is not sent by then never is."""
        if self._closed:
            raise NotSent("closed")
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self._most, thread_name_prefix="labspawner-pve")
        call = Call(ask)
        future = self._executor.submit(self._call, url, call)
        self._calls[future] = call
        waiting = asyncio.wrap_future(future)
        try:
            await asyncio.wait({waiting}, timeout=within_s)
        except asyncio.CancelledError:
            self._leave(call, future, waiting, hang_up=False)
            raise
        finally:
            self._calls.pop(future, None)
        if waiting.done():
            return waiting.result()
        began = not future.cancel()
        if self._leave(call, future, waiting, hang_up=True):
            raise Lost(f"no answer after {within_s:.1f} s")
        raise NotSent(f"not connected after {within_s:.1f} s" if began else "all threads are busy")

    async def close(self) -> None:
        """Give threads and connections back; calls under way fail."""
        self._closed = True
        executor, self._executor = self._executor, None
        if executor is None:
            return
        for call in list(self._calls.values()):
            call.give_up(hang_up=True)
        executor.shutdown(wait=False, cancel_futures=True)
        busy = {asyncio.wrap_future(each) for each in {*self._calls, *self._left} if not each.done()}
        if busy:
            _, hanging = await asyncio.wait(busy, timeout=self._connect_s + _CLOSE_S)
            for each in busy:
                each.add_done_callback(_heard)
                each.cancel()
            if hanging:
                log.warning(
                    "%d calls to Proxmox VE hang at the end; their threads are left to their deadlines", len(hanging)
                )
                return
        executor.shutdown(wait=True)  # no call is left, so this takes no time
        for line in self._lines:
            line.close()

    def _leave(self, call: Call, future: Future[Answer], waiting: asyncio.Future[Answer], *, hang_up: bool) -> bool:
        """Nobody waits for this call any more. Answers whether it was sent."""
        sent = call.give_up(hang_up=hang_up)
        if not future.done():
            self._left.add(future)
            future.add_done_callback(self._left.discard)
        waiting.add_done_callback(_heard)
        waiting.cancel()
        return sent

    def _call(self, url: str, call: Call) -> Answer:
        """In a thread."""
        lines: dict[str, Line] = self._own.__dict__.setdefault("lines", {})
        line = lines.get(url)
        if line is None:
            line = lines[url] = self._open(url)
            with self._lock:
                self._lines.append(line)
        return line.run(call)

    def _open(self, url: str) -> Line:
        try:
            from labspawner.providers.proxmox.transport import Line  # noqa: PLC0415 - slow, and has to be installed
        except ImportError as exc:
            raise BadConfig(
                Sentence(
                    "This hub cannot use a Proxmox VE cluster yet. Administrator: install labspawner[proxmox] where the "
                    "hub runs."
                ),
                detail=f"proxmoxer or requests cannot be imported: {exc}",
            ) from exc
        access = self._access
        try:
            return Line(url, fingerprint=access.pin(url), ca_file=access.ca_file, connect_s=self._connect_s)
        except OSError as exc:  # ssl.SSLError too
            raise wrong("ca_file", f"{access.ca_file}: {exc}", "/etc/labspawner/pve-root-ca.pem") from exc


def _heard(done: asyncio.Future[Answer]) -> None:
    """Nobody asks for the result any more, so that asyncio need not complain about it."""
    if not done.cancelled():
        done.exception()
