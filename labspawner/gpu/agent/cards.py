"""The cards of the node, looked at now and then. Blocking: use a thread of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path

from labspawner.errors import LabError
from labspawner.gpu.cards import Inventory, events
from labspawner.gpu.nvml import Nvml
from labspawner.gpu.pretend import Pretended, find_driver

log = getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Look:
    """What one look saw. missing: why there is nothing to see at all; "" where the driver answers."""

    inventory: Inventory = Inventory()
    missing: str = ""


class NodeCards:
    """NVML, opened when it answers, and opened anew after it did not.

    pretend: cards that do not exist, as the pretended driver reads them; state: the file that plays their memory.
    open_nvml: as `Nvml.open`.
    """

    def __init__(
        self,
        *,
        pretend: str | None = None,
        state: Path | None = None,
        open_nvml: Callable[[Path | None], Nvml] = Nvml.open,
    ) -> None:
        self._pretend, self._state, self._open_nvml = pretend, state, open_nvml
        self._nvml: Nvml | None = None
        self._last: Look | None = None
        self.pretended: Pretended | None = None

    def look(self) -> Look:
        """All cards now. Never raises for a card's or a driver's sake; what changed is in the log once."""
        try:
            found = Look(self._opened().inventory())
        except (LabError, OSError) as exc:
            self.close()
            found = Look(missing=str(exc.message) if isinstance(exc, LabError) else str(exc))
        before = self._last
        if before is not None and before.missing == "" and found.missing:
            log.error("the NVIDIA driver does not answer any more: %s", found.missing)
        elif before is not None and before.missing and not found.missing:
            log.info("the NVIDIA driver answers")
        for event in events(before.inventory, found.inventory) if before is not None else ():
            if event.present:
                log.info("GPU is there gpu=%s", event.uuid)
            else:
                log.error("GPU is gone gpu=%s: %s", event.uuid, event.why or found.missing or "it is not listed")
        self._last = found
        return found

    def close(self) -> None:
        """Give NVML back; may be repeated."""
        if self._nvml is not None:
            self._nvml.close()
            self._nvml = None

    def _opened(self) -> Nvml:
        if self._nvml is None:
            if self._pretend is not None and self._state is not None:
                self.pretended = Pretended(folder=find_driver(), state=self._state, cards=self._pretend)
                os.environ.update(self.pretended.settings)  # the driver reads them in this process
            self._nvml = self._open_nvml(self.pretended.nvml if self.pretended is not None else None)
            if self.pretended is not None and self._state is not None:
                self._state.chmod(0o666)  # containers write to it, with uids of their own
        return self._nvml
