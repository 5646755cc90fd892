"""What kernels do, from their own messages: busy since when, last used when, waiting for an answer of the student.

jupyter_server's `last_activity` is no evidence of use (an open tab's pings move it), and its `execution_state` has no
beginning. So we listen to each kernel's status messages ourselves, without checking signatures: whoever can forge them
can run code in the kernel anyway. Kernels that this Jupyter server did not start (nbconvert, VS Code's own) are not seen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

WORK = frozenset({"execute_request", "comm_msg"})  # a cell, or the button of a widget
GONE = frozenset({"starting", "restarting", "autorestarting", "dead", "terminating"})
_DELIMITER = b"<IDS|MSG>"
_MISSED_AFTER_LOOKS = 2


class KernelLog:
    """What one kernel's messages said so far.

    last_execution: when a cell last began or ended. waiting: the kernel asked for input and has no answer yet.
    """

    def __init__(self) -> None:
        self.last_execution: datetime | None = None
        self.waiting = False
        self._running: dict[str, tuple[str, datetime]] = {}
        self._unseen_since: datetime | None = None
        self._looks = 0

    @property
    def busy_since(self) -> datetime | None:
        """When what runs now began, the oldest where several do; None while nothing does."""
        begun = [since for _, since in self._running.values()]
        return min(begun) if begun else self._unseen_since

    def read(self, parts: list[bytes], now: datetime) -> None:
        """Take in one message from the iopub channel as it came over the wire; what cannot be read is ignored."""
        try:
            at = parts.index(_DELIMITER) + 2
            if json.loads(parts[at])["msg_type"] != "status":
                return
            parent, content = json.loads(parts[at + 1]), json.loads(parts[at + 3])
            self._status(str(content["execution_state"]), parent, now)
        except (ValueError, LookupError, TypeError, AttributeError):
            return

    def _status(self, state: str, parent: Mapping[str, Any], now: datetime) -> None:
        if state in GONE:
            self.reset()
        if parent.get("msg_type") not in WORK:
            return
        # One thing at a time runs in a kernel, or in each of its subshells: a new one there says that the one before
        # has ended, even if the message that said so was lost.
        lane, message = str(parent.get("subshell_id") or ""), str(parent.get("msg_id"))
        if state == "busy":
            self._unseen_since, self.waiting = None, False
            self._running[lane] = (message, now)
        elif state == "idle" and self._running.get(lane, ("", now))[0] in {message, ""}:
            self._running.pop(lane, None)
            self._unseen_since, self.waiting = None, False
        if parent.get("msg_type") == "execute_request":
            self.last_execution = now

    def look(self, state: str | None, last_activity: datetime | None, now: datetime) -> None:
        """Compare with what the server's kernel manager believes, about once a second.

        A kernel that was busy before we listened is found so. What our own messages say is exact, and stands.
        """
        if state in GONE:
            self.reset()
        elif state == "busy" and not self._running:
            self._looks += 1
            if self._unseen_since is None and self._looks >= _MISSED_AFTER_LOOKS:
                self._unseen_since = last_activity or now
        else:
            self._looks, self._unseen_since = 0, None

    def reset(self) -> None:
        """The kernel's process is a new one, or gone: nothing runs in it."""
        self._running.clear()
        self._unseen_since, self.waiting, self._looks = None, False, 0


class Kernels:
    """All kernels of one Jupyter server. on_change: called when one becomes busy or idle."""

    def __init__(self, manager: Any, clock: Callable[[], datetime], on_change: Callable[[], None]) -> None:
        self._manager = manager
        self._clock = clock
        self._on_change = on_change
        self._logs: dict[str, KernelLog] = {}
        self._streams: dict[str, tuple[object, Any]] = {}

    def look(self) -> None:
        """Notice kernels that came, went or moved to other ports. Cheap enough for every second."""
        living = set(self._manager.list_kernel_ids())
        for kernel_id in set(self._logs) - living:
            self._hang_up(kernel_id)
            del self._logs[kernel_id]
        for kernel_id in living:
            kernel = self._manager.get_kernel(kernel_id)
            log = self._logs.setdefault(kernel_id, KernelLog())
            self._listen(kernel_id, kernel, log)
            log.look(getattr(kernel, "execution_state", None), getattr(kernel, "last_activity", None), self._clock())

    def last_execution(self) -> datetime | None:
        """When a cell of any kernel last began or ended."""
        return max((log.last_execution for log in self._logs.values() if log.last_execution), default=None)

    def busy(self) -> Iterable[tuple[str, bool]]:
        """The busy kernels, and whether each only waits for input."""
        return [(kernel_id, self.waits(kernel_id)) for kernel_id, log in self._logs.items() if log.busy_since]

    def log(self, kernel_id: str) -> KernelLog:
        """What is known of a kernel; nothing yet for one that is new."""
        return self._logs.setdefault(kernel_id, KernelLog())

    def name(self, kernel_id: str) -> str:
        """The name of its kernel specification."""
        return str(getattr(self._manager.get_kernel(kernel_id), "kernel_name", ""))

    def ids(self) -> list[str]:
        """The kernels of the last look that still are."""
        return [kernel_id for kernel_id in self._logs if kernel_id in self._manager]

    def waits(self, kernel_id: str) -> bool:
        """Whether a busy kernel asked for input and got none: the student is away, and so is the work."""
        log = self._logs.get(kernel_id)
        return log is not None and log.busy_since is not None and (log.waiting or self._question_kept(kernel_id))

    def _question_kept(self, kernel_id: str) -> bool:
        """Whether a question arrived while no browser was connected: the server keeps it for the next one."""
        kept = getattr(self._manager, "_kernel_buffers", {})
        messages = kept[kernel_id].get("buffer", ()) if kernel_id in kept else ()
        return any(channel == "stdin" for channel, _ in messages)

    def _listen(self, kernel_id: str, kernel: Any, log: KernelLog) -> None:
        address = (getattr(kernel, "ip", None), getattr(kernel, "iopub_port", None))
        if not address[1] or self._streams.get(kernel_id, (None, None))[0] == address:
            return
        self._hang_up(kernel_id)
        if not hasattr(kernel, "connect_iopub"):  # on a gateway: its state is all there is
            return
        stream = kernel.connect_iopub()
        self._streams[kernel_id] = (address, stream)

        def take(parts: list[bytes]) -> None:
            before = log.busy_since
            log.read(parts, self._clock())
            if (before is None) != (log.busy_since is None):
                self._on_change()

        stream.on_recv(take)

    def _hang_up(self, kernel_id: str) -> None:
        _, stream = self._streams.pop(kernel_id, (None, None))
        if stream is not None and not stream.closed():
            stream.close()


def asking(connection_class: Any, log_of: Callable[[str], KernelLog]) -> type:
    """A kernel websocket connection that also notices the kernel's questions (`input()`) and the student's answers.

    Questions go to the one browser that ran the cell and never over iopub, so this is where they can be seen.
    """

    class Asking(connection_class):  # type: ignore[misc]
        def handle_outgoing_message(self, stream: Any, outgoing_msg: list[Any]) -> None:
            if (stream if isinstance(stream, str) else getattr(stream, "channel", None)) == "stdin":
                log_of(self.kernel_id).waiting = True
            super().handle_outgoing_message(stream, outgoing_msg)

        def handle_incoming_message(self, incoming_msg: Any) -> None:
            log = log_of(self.kernel_id)
            # Only while something was asked, so that no message is searched for nothing.
            if log.waiting and (b"input_reply" if isinstance(incoming_msg, bytes) else "input_reply") in incoming_msg:
                log.waiting = False
            super().handle_incoming_message(incoming_msg)

    Asking.__name__ = connection_class.__name__
    return Asking
