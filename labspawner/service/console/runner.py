"""Class actions go on here, one student after another, whoever closes which page.

Every step is a row before it is done and after it was done. A process that dies leaves rows; the next one goes on with those
that are not final. The hub is asked only for what is safe to repeat, and decides for each step whether its actor may.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from labspawner.errors import LabError
from labspawner.sentences import Sentence
from labspawner.service.console.doing.acts import ask
from labspawner.service.console.house import House
from labspawner.service.console.problems import Away, Problem
from labspawner.store import AuditEntry, Job, JobState, Step, StepState

log = logging.getLogger(__name__)

AT_ONCE = 4
"""Acts under way in the hub, of all jobs together: it answers everybody else meanwhile."""
PATIENCE_S = 600.0
"""How long one step is tried again while the hub is away, or says that it is asked too much."""
RESUMED_FOR = timedelta(minutes=15)
"""A job that is older when this process starts is not resumed: who stopped a class on Monday does not mean Wednesday's."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0

TOO_LATE = Sentence("The console was away meanwhile, so this was not done. Begin it again if it is still wanted.")
NOT_DONE = Sentence("The hub did not answer for {minutes} minutes, so this was given up.")
CANCELLED = Sentence("This was cancelled before its turn.")
BROKEN = Sentence("Something went wrong on our side. Try again; if it happens twice, tell your administrator.")
_NOTHING_TO_DO = frozenset({404})


class Runner:
    """Runs the jobs of one hub. pause: waits; a test need not."""

    def __init__(
        self,
        house: House,
        *,
        at_once: int = AT_ONCE,
        patience_s: float = PATIENCE_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._house = house
        self._turns = asyncio.Semaphore(at_once)
        self._at_once = at_once
        self._patience_s = patience_s
        self._monotonic = monotonic
        self._running: dict[str, asyncio.Task[None]] = {}
        self._cancelled: set[str] = set()

    async def resume(self) -> None:
        """Go on with what an earlier process left. Raises LabError."""
        now = self._house.now()
        for job in await self._house.store.jobs.unfinished():
            if now - job.created_at > RESUMED_FOR:
                log.warning("job too old to be resumed job=%s verb=%s course=%s", job.id, job.verb, job.course)
                await self._house.store.jobs.finish(job.id, JobState.DONE, now=now, sentence=TOO_LATE)
                continue
            log.info("job resumed job=%s verb=%s course=%s by=%s", job.id, job.verb, job.course, job.actor)
            self.run(job)

    def run(self, job: Job) -> None:
        """Do this job's steps from now on; nothing where that is under way already."""
        if job.id in self._running:
            return
        if job.cancelled_by is not None:
            self._cancelled.add(job.id)
        task = asyncio.get_running_loop().create_task(self._run(job), name=f"job {job.id}")
        self._running[job.id] = task
        task.add_done_callback(lambda _done: self._running.pop(job.id, None))

    def cancel(self, job_id: str) -> None:
        """Begin no further step of this job; those under way are finished."""
        self._cancelled.add(job_id)

    async def close(self) -> None:
        """Let go of all jobs; the next process goes on with them."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, job: Job) -> None:
        jobs = self._house.store.jobs
        pause = _FIRST_PAUSE_S
        while True:
            try:
                waiting = await jobs.steps(job.id, states=[StepState.WAITING, StepState.STARTED])
                await self._steps(job, waiting)
                cancelled = job.id in self._cancelled
                state = JobState.CANCELLED if cancelled else JobState.DONE
                await jobs.finish(job.id, state, now=self._house.now(), sentence=CANCELLED if cancelled else None)
            except LabError as exc:
                log.warning("job waits for the records job=%s: %s", job.id, exc)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            else:
                log.info("job over job=%s state=%s", job.id, state.value)
                self._cancelled.discard(job.id)
                self._house.events.job_changed(job.course)
                return

    async def _steps(self, job: Job, waiting: list[Step]) -> None:
        """The steps in their order, a few at once."""
        left = iter(waiting)

        async def one_after_another() -> None:
            for step in left:
                if job.id in self._cancelled:
                    return
                async with self._turns:
                    await self._step(job, step)

        tasks = [asyncio.ensure_future(one_after_another()) for _ in range(self._at_once)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _step(self, job: Job, step: Step) -> None:
        jobs, now = self._house.store.jobs, self._house.now
        if not await jobs.step(job.id, step.place, StepState.STARTED, now=now()):
            return
        self._house.events.job_changed(job.course)
        state, sentence, kind = await self._done(job, step)
        audit = AuditEntry(
            at=now(),
            actor=job.actor,
            verb=f"act.{job.verb}",
            course=job.course,
            subject=step.user,
            object=step.server,
            detail={"job": job.id},
            result=kind,
        )
        await jobs.step(job.id, step.place, state, now=now(), sentence=sentence, audit=audit)
        self._house.events.job_changed(job.course)

    async def _done(self, job: Job, step: Step) -> tuple[StepState, Sentence, str]:
        """What came of one step: its state, the sentence for it, and the kind for the audit log."""
        until, pause = self._monotonic() + self._patience_s, _FIRST_PAUSE_S
        wish = _wish(job, step)
        while True:
            try:
                return StepState.OK, await ask(self._house, wish), "ok"
            except Problem as exc:
                if exc.status in _NOTHING_TO_DO:
                    return StepState.SKIPPED, exc.message, exc.kind
                if not isinstance(exc, Away) and exc.status not in {409, 429, 503}:
                    return StepState.FAILED, exc.message, exc.kind
                pause = max(pause, float(exc.members.get("retry_after_s", 0.0)))
                if exc.status == 409 and pause > 4 * _FIRST_PAUSE_S:
                    return StepState.FAILED, exc.message, exc.kind
                if self._monotonic() + pause > until:
                    minutes = max(1, round(self._patience_s / 60))
                    given_up = Sentence(NOT_DONE.template, minutes=minutes) if isinstance(exc, Away) else exc.message
                    return StepState.FAILED, given_up, exc.kind
            except Exception:
                log.exception("a step of job=%s failed user=%s", job.id, step.user)
                return StepState.FAILED, BROKEN, "broken"
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)


def _wish(job: Job, step: Step) -> dict[str, Any]:
    service = job.actor.startswith("service:")
    return {
        "actor": job.actor.removeprefix("service:"),
        "service": service,
        "verb": job.verb,
        "user": step.user,
        "server": step.server,
        "course": job.course,
        "args": dict(job.args),
        "before": job.created_at.isoformat(),
    }
