"""Knobs turned while the simulation runs, by this process or another, through one small JSON file."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from labspawner.errors import BadConfig
from labspawner.model import Json
from labspawner.providers.sim.settings import Knobs, LaunchKnobs, SimSettings, read

log = logging.getLogger(__name__)
FILE_NAME = "faults.json"
OTHERS = frozenset({"gpu", "image", "template"})
"""What a profile says to other providers: a simulation runs it all the same, and makes nothing of it."""


def write_faults(data_dir: Path, **knobs: Json) -> None:
    """Turn these knobs, and no others, for every sim provider that works in `data_dir`; nothing: all back to normal.

    Takes effect with the next call or stage. Raises BadConfig for a knob that does not exist.
    """
    read(Knobs, knobs, "sim faults")
    draft = data_dir / f"{FILE_NAME}.{os.getpid()}"
    draft.write_text(json.dumps(knobs))
    draft.replace(data_dir / FILE_NAME)


class Faults:
    """The settings as they are now: the provider's, overridden by a launch's own, overridden by the faults file.

    Reads files: for the worker thread only.
    """

    def __init__(self, data_dir: Path, settings: SimSettings) -> None:
        self._path = data_dir / FILE_NAME
        self._base = settings.model_dump(include=set(Knobs.model_fields))
        self._seen: tuple[int, int, int] | None = None
        self._faults: dict[str, Json] = {}

    def knobs(self, own: Mapping[str, Json] | None = None) -> Knobs:
        """What is in force for a launch with the settings `own`. Raises BadConfig for what `own` must not say."""
        self._refresh()
        own = {key: value for key, value in (own or {}).items() if key not in OTHERS}
        if own:
            read(LaunchKnobs, {"stages": self._base["stages"], **own}, "the settings of this profile")
        merged = {**self._base, **own, **self._faults}
        return read(Knobs, merged, "sim settings")

    def _refresh(self) -> None:
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            self._seen, self._faults = None, {}
            return
        seen = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            faults = json.loads(self._path.read_text())
            read(Knobs, {**self._base, **faults}, "sim faults")
        except (OSError, ValueError, TypeError, BadConfig) as error:
            log.warning(
                "sim faults file not readable, keeping the knobs as they were file=%s error=%s", self._path, error
            )
            return
        self._faults = faults
