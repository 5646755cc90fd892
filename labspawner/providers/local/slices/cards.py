"""The cards that one provider shares, real or pretended; a door that never raises for a card's sake. Blocking."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable
from dataclasses import replace
from logging import getLogger
from pathlib import Path
from threading import Lock

from labspawner.errors import LabError, ProviderUnavailable
from labspawner.gpu.cards import Inventory, events
from labspawner.gpu.nvml import Nvml
from labspawner.gpu.pretend import Pretended, find_driver
from labspawner.providers.local.slices.options import GpuSettings
from labspawner.sentences import Sentence, plain

log = getLogger(__name__)

_FRESH_S = 5.0
_TRY_AGAIN_S = 60.0


class Cards:
    """Looks at the cards now and then, and remembers.

    state: the file that plays the memory of pretended cards, where there are any; make_room: makes its folder.
    open_nvml: as `Nvml.open`.
    """

    def __init__(
        self,
        settings: GpuSettings,
        *,
        state: Path,
        make_room: Callable[[], None],
        open_nvml: Callable[[Path | None], Nvml] = Nvml.open,
    ) -> None:
        self._settings, self._state, self._open_nvml = settings, state, open_nvml
        self._make_room = make_room
        self._lock = Lock()
        self._nvml: Nvml | None = None
        self._in_use: int | None = None
        self._last, self._looked_at = Inventory(), float("-inf")
        self.pretended: Pretended | None = None
        self.missing: Sentence | None = None

    @property
    def wanted(self) -> bool:
        """Whether cards are to be shared at all."""
        return self._settings.cards != () or self._settings.pretend is not None

    @property
    def known(self) -> Inventory:
        """The cards of the last look."""
        return self._last

    @property
    def found(self) -> bool | None:
        """Whether the last look found any; None before the first."""
        if not self.wanted:
            return False
        return None if self._looked_at == float("-inf") else bool(self._last.cards)

    def look(self, max_age_s: float = _FRESH_S) -> Inventory:
        """The cards that are shared here; none where there is no driver, and `missing` then says why. 0.0: look now."""
        with self._lock:
            age_s = time.monotonic() - self._looked_at
            if not self.wanted or age_s < (max_age_s if self.missing is None or not max_age_s else _TRY_AGAIN_S):
                return self._last
            self._looked_at = time.monotonic()
            try:
                found = self._shared(self._opened().inventory())
            except LabError as exc:
                self._say_missing(exc)
                found = Inventory()
            except OSError as exc:
                self._say_missing(ProviderUnavailable(plain(str(exc))))
                found = Inventory()
            else:
                self.missing = None
            for event in events(self._last, found):
                if event.present:
                    log.info("card found uuid=%s", event.uuid)
                else:
                    log.warning("card lost uuid=%s why=%s", event.uuid, event.why or "the driver lists it no more")
            self._last = found
            return found

    def close(self) -> None:
        """Give NVML back; may be repeated."""
        with self._lock:
            if self._nvml is not None:
                self._nvml.close()
                self._nvml = None
            if self._in_use is not None:
                os.close(self._in_use)
                self._in_use = None

    def remove_state(self) -> None:
        """Remove what plays the memory of pretended cards, unless some hub process gives slices of them out."""
        with contextlib.suppress(OSError):
            descriptor = os.open(self._state, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._state.unlink()
            finally:
                os.close(descriptor)

    def _use_state(self) -> None:
        """Keep others from removing the state; servers write to it, with uids of their own. Raises OSError."""
        if self._in_use is None:
            self._in_use = os.open(self._state, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(self._in_use, fcntl.LOCK_SH)
        self._state.chmod(0o666)

    def _opened(self) -> Nvml:
        if self._nvml is None:
            library = None
            if self._settings.pretend is not None:
                self._make_room()
                self.pretended = pretended = Pretended(
                    folder=find_driver(), state=self._state, cards=self._settings.pretend
                )
                os.environ.update(pretended.settings)  # the driver reads them in this process
                library = pretended.nvml
            self._nvml = self._open_nvml(library)
            if self.pretended is not None:
                self._use_state()
        return self._nvml

    def _shared(self, found: Inventory) -> Inventory:
        """`found` without the cards that are not to be shared."""
        wanted = self._settings.cards
        if wanted == "auto" or self._settings.pretend is not None:
            return found
        cards = []
        for card in found.cards:
            parts = tuple(part for part in card.parts if card.uuid in wanted or part.uuid in wanted)
            if card.uuid in wanted or parts:
                cards.append(replace(card, parts=parts))
        return replace(found, cards=tuple(cards))

    def _say_missing(self, error: LabError) -> None:
        if self._nvml is not None:  # it was there, and does not answer any more
            log.error("GPUs do not answer: %s", error)
            self._nvml.close()
            self._nvml = None
        elif self._settings.pretend is not None or self._settings.cards != "auto":
            log.error("no GPU slices: %s", error)
        elif self.missing is None:
            log.debug("no GPU slices: %s", error)
        self.missing = error.message
