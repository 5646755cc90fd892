"""Waiting for tasks: a UPID means queued, and nothing more."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from logging import getLogger
from typing import Any, TypeAlias
from urllib.parse import quote

from labspawner.providers.proxmox.answers import Fault, PveRefused, PveSilent, TaskEnd, TaskSeen, node_of
from labspawner.providers.proxmox.client import Client
from labspawner.providers.proxmox.pace import CLOCK, Pace

log = getLogger(__name__)

Heard: TypeAlias = Callable[[float | None, str], None]
"""Told of what a task logs: percent, where it says one, and the line."""

_STATUS_S = 25.0
_LEAST_STATUS_S = 5.0
_PAGE, _PAGES = 500, 20
_TAIL = 20
_FREELY = 2  # so many tasks of a node are looked at as often as one
_LONGEST_S = 3.0
_TOLD_S = 2.0  # between two looks at a log
_UNKNOWN = 3  # so often in a row must a node say that it has no such task
_SKEW_S = 2.0
_PERCENT = re.compile(r"\((\d{1,3}(?:\.\d+)?)\s?%\)")


class Tasks:
    """The tasks of one cluster. at_once: how many of a node's are looked at at once."""

    def __init__(self, client: Client, *, pace: Pace = CLOCK, at_once: int = 2) -> None:
        self._client = client
        self._pace = pace
        self._at_once = at_once
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._crowds: Counter[str] = Counter()

    async def end(self, upid: str, *, within_s: float, heard: Heard | None = None) -> TaskEnd:
        """How it ended, which may be badly: no exception for that. heard: of progress; asking for it costs requests, so only
        for tasks that are worth it. Raises PveSilent(sent=True) when that is not known after `within_s`: the task may still
        run, or its node is away; look at the VM itself. Raises PveRefused where we may not ask."""
        node = node_of(upid)
        self._crowds[node] += 1
        try:
            return await self._end(upid, within_s, heard)
        finally:
            self._crowds[node] -= 1

    async def _end(self, upid: str, within_s: float, heard: Heard | None) -> TaskEnd:
        node, until = node_of(upid), self._pace.now() + within_s
        waited_s, told_s, told, unknown, why = 0.0, 0.0, 0, 0, ""
        while True:
            pause_s = pause_after(waited_s, self._crowds[node])
            await self._pace.sleep(pause_s)
            waited_s += pause_s
            try:
                status = await self._status(upid, until - self._pace.now())
            except (PveRefused, PveSilent) as exc:
                unknown = unknown + 1 if _of(exc) is Fault.NO_SUCH_TASK else 0
                if unknown == _UNKNOWN:
                    raise _not_known(upid, str(exc)) from exc
                if not _passes(exc):
                    raise
                why = str(exc)
            else:
                unknown, why = 0, "it still runs"
                if status.get("status") == "stopped":
                    return await self._ended(upid, str(status.get("exitstatus") or "unexpected status"))
                if heard is not None and waited_s - told_s >= _TOLD_S:
                    told_s, told = waited_s, await self._tell(upid, told, heard)
            if self._pace.now() >= until:
                raise _not_known(upid, why)

    async def recent(self, node: str, vmid: int, kind: str, since: float) -> list[TaskSeen]:
        """Our tasks of one kind for one VM since an instant (epoch seconds, by our clock), running ones too, newest first.
        For a POST that may have been done. kind: "qmclone" (of the template's id), "qmstart" ... Raises PveRefused and
        PveSilent."""
        skews = self._client.clock_skew_s().values()
        there = since + min(skews, default=0.0) - _SKEW_S
        found = await self._client.get(
            f"/nodes/{quote(node, safe='')}/tasks",
            vmid=vmid,
            typefilter=kind,
            since=max(0, int(there)),
            source="all",
            limit=_PAGE,
        )
        seen = [_seen(each) for each in found or () if each.get("upid")]
        wanted = [each for each in seen if each.kind == kind and each.vmid == vmid and each.started_at >= int(there)]
        return sorted(wanted, key=lambda each: each.started_at, reverse=True)

    async def log(self, upid: str, lines: int = _TAIL) -> tuple[str, ...]:
        """Its last lines; none where they cannot be had."""
        said: list[str] = []
        with suppress(PveRefused, PveSilent):
            for _ in range(_PAGES):
                page = await self._page(upid, len(said))
                said += page
                if len(page) < _PAGE:
                    break
        return tuple(said[-lines:])

    async def stop(self, upid: str) -> None:
        """Ask it to end; a clone cleans up after itself. Raises PveRefused and PveSilent."""
        await self._client.delete(_path(upid))

    async def _status(self, upid: str, left_s: float) -> Mapping[str, Any]:
        turn = self._turns.setdefault(node_of(upid), asyncio.Semaphore(self._at_once))
        async with turn:
            within_s = max(_LEAST_STATUS_S, min(_STATUS_S, left_s))
            found = await self._client.get(f"{_path(upid)}/status", within_s=within_s)
        return found if isinstance(found, Mapping) else {}

    async def _ended(self, upid: str, exitstatus: str) -> TaskEnd:
        end = TaskEnd.of(upid, exitstatus)
        if end.ok and not end.warnings:
            return end
        end = TaskEnd.of(upid, exitstatus, await self.log(upid))
        if end.ok:
            log.warning("a task ended with warnings upid=%s: %s", upid, " | ".join(end.log[-5:]))
        return end

    async def _tell(self, upid: str, told: int, heard: Heard) -> int:
        """Tell the newest line of the log; answers how many lines there are."""
        try:
            page = await self._page(upid, told)
        except (PveRefused, PveSilent):
            return told
        if page:
            shown = [match for line in page if (match := _PERCENT.search(line))]
            heard(min(100.0, float(shown[-1][1])) if shown else None, page[-1])
        return told + len(page)

    async def _page(self, upid: str, start: int) -> list[str]:
        found = await self._client.get(f"{_path(upid)}/log", start=start, limit=_PAGE)
        # Of a task that it does not know, a node says so in an object instead of a list.
        return [str(each.get("t") or "") for each in found] if isinstance(found, list) else []


def pause_after(waited_s: float, crowd: int = 1) -> float:
    """Seconds until the next look at a task that was waited for so long: most end soon, and each look costs the cluster.

    crowd: how many tasks of its node are waited for; each of them is looked at the less often.
    """
    alone_s = 0.5 if waited_s < 5.0 else 1.0 if waited_s < 20.0 else 2.0
    return max(alone_s, min(_LONGEST_S, alone_s * crowd / _FREELY))


def _not_known(upid: str, why: str) -> PveSilent:
    return PveSilent(f"task {upid}", True, why)


def _passes(exc: PveRefused | PveSilent) -> bool:
    """Whether to go on asking: the node may come back, and the daemon has troubles of its own."""
    if isinstance(exc, PveSilent):
        return True
    return exc.fault in {Fault.NO_SUCH_TASK, Fault.NODE_AWAY, Fault.BROKEN} or exc.status == 500


def _of(exc: PveRefused | PveSilent) -> Fault | None:
    return exc.fault if isinstance(exc, PveRefused) else None


def _path(upid: str) -> str:
    return f"/nodes/{quote(node_of(upid), safe='')}/tasks/{quote(upid, safe='')}"


def _seen(entry: Mapping[str, Any]) -> TaskSeen:
    upid, status, ident = str(entry["upid"]), str(entry.get("status") or ""), str(entry.get("id") or "")
    over = bool(entry.get("endtime")) or status not in {"", "RUNNING", "running"}
    return TaskSeen(
        upid=upid,
        kind=str(entry.get("type") or ""),
        vmid=int(ident) if ident.isdecimal() else None,
        node=str(entry.get("node") or node_of(upid)),
        started_at=float(entry.get("starttime") or 0),
        end=TaskEnd.of(upid, status or "unexpected status") if over else None,
    )
