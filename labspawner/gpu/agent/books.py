"""Who has which slice, and what became of those whose pod is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import Executor
from logging import getLogger
from pathlib import Path

from labspawner.gpu.agent.answers import slice_name
from labspawner.gpu.agent.folders import Folders, Given
from labspawner.gpu.agent.kubelet import KubeletSilent, Owner, in_use, owners
from labspawner.gpu.agent.overlap import Earlier, held_back
from labspawner.gpu.agent.shelf import Shelf
from labspawner.gpu.agent.snapshot import SliceState
from labspawner.gpu.verdict import Verdict
from labspawner.gpu.watchdog import Watched

log = getLogger(__name__)

GRACE_S = 60.0
_LOOKS = 2
_SOON_S = 120.0


class Books:
    """Keeps files and the kubelet's list of pods together. A slice is free when two lists in a row do not have it, its last
    Allocate is `grace_s` ago, and no process is in it. A list that failed frees nothing.

    settled: whether nothing is expected soon: what was given of late is listed, and has its verdict.
    """

    def __init__(
        self, shelf: Shelf, folders: Folders, thread: Executor, pod_resources: Path, *, grace_s: float = GRACE_S
    ) -> None:
        self._shelf, self._folders, self._thread = shelf, folders, thread
        self._pod_resources, self._grace_s = pod_resources, grace_s
        self._missed: dict[str, int] = {}
        self._verdicts: dict[str, tuple[tuple[int, int], Verdict]] = {}
        self._silent = ""
        self.slices: tuple[SliceState, ...] = ()
        self.settled = True

    def watched(self) -> tuple[Watched, ...]:
        """The slices that containers have, for the watchdog."""
        return tuple(
            Watched(state.limits.name, {one.uuid: one.memory_bytes for one in state.limits.devices})
            for state in self.slices
        )

    async def look(self) -> bool:
        """One look at the list and the files; whether the kubelet said who has what. Never raises for their sake."""
        try:
            owned = await owners(self._pod_resources)
        except KubeletSilent as exc:
            if str(exc) != self._silent:
                log.warning("the kubelet does not say which pod has which slice: %s", exc)
            self._silent = str(exc)
            return False
        self._silent = ""
        self._shelf.listed = in_use(owned)
        self.slices = await asyncio.get_running_loop().run_in_executor(self._thread, self._compare, owned)
        return True

    def _compare(self, owned: Mapping[tuple[str, frozenset[str]], Owner]) -> tuple[SliceState, ...]:
        states, given = [], self._folders.given()
        for (class_name, ids), owner in owned.items():
            name = slice_name(class_name, ids)
            limits = self._shelf.limits(class_name, ids) or self._folders.limits(name)
            if limits is None:  # of an earlier layout, and its files are gone
                continue
            if name not in given:
                self._bring_back(name, class_name, ids)
            limits = self._folders.limits(name) or limits
            states.append(
                SliceState(
                    class_name=class_name,
                    ids=ids,
                    owner=owner,
                    limits=limits,
                    reading=self._folders.reading(name),
                    verdict=self._verdict(name, given.get(name)),
                )
            )
        self._verdicts = {name: said for name, said in self._verdicts.items() if name in given}
        self._free(given, {state.limits.name for state in states})
        self._folders.tidy()
        self.hold_back()
        silent = {state.limits.name for state in states if state.verdict is None and self._shelf.pool.selftest}
        expected = [given[name] for name in silent | self._missed.keys() if name in given]
        self.settled = not any(one.age_s < _SOON_S for one in expected)
        return tuple(states)

    def _verdict(self, name: str, given: Given | None) -> Verdict | None:
        """The first one that a pod's server gives: a program that writes another one every second is not heard."""
        before = self._verdicts.get(name)
        if given is not None and before is not None and before[0] == given.mark:
            return before[1]
        found = self._folders.verdict(name)
        if found is not None and given is not None:
            self._verdicts[name] = given.mark, found
        return found

    def hold_back(self) -> None:
        """Let nothing be given that has no room beside slices of an earlier layout. Blocks."""
        earlier = []
        for name, given in self._folders.given().items():
            limits, class_name = self._folders.limits(name), name.rpartition("-")[0]
            if limits is not None and limits != self._shelf.limits(class_name, given.ids):
                earlier.append(Earlier(given.ids, limits))
        self._shelf.hold_back(held_back(self._shelf.layout, self._shelf.pool, earlier))

    def _bring_back(self, name: str, class_name: str, ids: frozenset[str]) -> None:
        """A pod has it, and we have not given it: the machine was started anew, and what was in memory is gone."""
        limits = self._shelf.limits(class_name, ids)
        try:
            if limits is not None:
                self._folders.prepare(limits)
        except OSError as exc:
            log.error("the files of a slice cannot be made slice=%s: %s", name, exc)
        self._folders.mark(name, ids)

    def _free(self, given: Mapping[str, Given], listed: set[str]) -> None:
        single = {limits.name: limits for limits in self._shelf.all_limits()}
        missed = {name: self._missed.get(name, 0) + 1 for name in given if name not in listed}
        for name, times in list(missed.items()):
            if times < _LOOKS or given[name].age_s < self._grace_s:
                continue
            try:
                if self._folders.take_back(name, single.get(name)):
                    del missed[name]
                    log.info("slice freed slice=%s", name)
            except OSError as exc:
                log.error("the files of a slice cannot be exchanged slice=%s: %s", name, exc)
        self._missed = missed
