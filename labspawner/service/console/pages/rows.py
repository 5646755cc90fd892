"""What the hub says of a class as the rows of its wall; jobs as their panels. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from labspawner import store as stored
from labspawner.sentences import Sentence
from labspawner.service.console.doing.jobs import JobRecord
from labspawner.service.console.doing.wall import Place
from labspawner.service.console.pages.shown import instant_of, sentence_of, texts
from labspawner.service.console.views import Activity, JobView, Meter, Step, Tone, WallRow
from labspawner.units import human_bytes

_PHASES = {
    "queued": Activity.WAITING,
    "launching": Activity.STARTING,
    "ready": Activity.RUNNING,
    "stopping": Activity.STOPPING,
    "parked": Activity.PARKED,
}
_SOON_PERCENT, _URGENT_PERCENT = 80, 95

JOB_TITLES: Mapping[str, Sentence] = {
    "start": Sentence("Starting servers"),
    "stop": Sentence("Stopping servers"),
    "extend": Sentence("Extending servers"),
    "message": Sentence("Sending a message"),
    "reset": Sentence("Resetting servers"),
}
JOB_STATES: Mapping[str, tuple[Sentence, Tone]] = {
    "running": (Sentence("is being done"), Tone.SOON),
    "done": (Sentence("done"), Tone.OK),
    "cancelled": (Sentence("cancelled"), Tone.OFF),
}
CANCELLING = (Sentence("is being cancelled"), Tone.SOON)
_STEPS: Mapping[str, tuple[Sentence, Tone, bool]] = {
    "waiting": (Sentence("not yet"), Tone.OFF, False),
    "started": (Sentence("is being done"), Tone.SOON, False),
    "ok": (Sentence("done"), Tone.OK, True),
    "failed": (Sentence("did not work"), Tone.URGENT, True),
    "skipped": (Sentence("left out"), Tone.OFF, True),
}
BADGES: Mapping[str, tuple[Sentence, Tone]] = {
    "passed": (Sentence("Slice tested"), Tone.OK),
    "failed": (Sentence("Slice not protected"), Tone.URGENT),
    "untested": (Sentence("Slice not tested"), Tone.OFF),
}


def wall_rows(places: Iterable[Place]) -> list[WallRow]:
    """One row per server, and one for whoever has none; staff only while they run something."""
    return [_row(place, place.row or {}) for place in places if place.row or place.role == "member"]


def _row(place: Place, row: Mapping[str, Any]) -> WallRow:
    activity = _PHASES.get(str(row.get("phase") or ""), Activity.OFF)
    badge, badge_tone = BADGES.get(str(row.get("badge") or ""), (None, Tone.OFF))
    verdict = row.get("verdict")
    return WallRow(
        user=place.user,
        server=str(row.get("server") or ""),
        activity=activity,
        note=sentence_of(row.get("stage")),
        profile=texts(row.get("title") or row.get("profile") or {}),
        provider=str(row.get("provider") or "") if activity is not Activity.OFF else "",
        host=str(row.get("host") or ""),
        use=tuple(_meters(row)),
        last_activity=instant_of(row.get("last_activity")),
        verdict=sentence_of(verdict.get("reason") if isinstance(verdict, Mapping) else verdict),
        verdict_tone=_verdict_tone(verdict),
        ends_at=instant_of(row.get("ends_at")),
        badge=badge,
        badge_tone=badge_tone,
        notice=sentence_of((place.notice or {}).get("sentence") or row.get("notice")),
    )


def _verdict_tone(verdict: object) -> Tone:
    kind = str(verdict.get("kind", "")) if isinstance(verdict, Mapping) else ""
    return {"active": Tone.OK, "busy": Tone.OK, "idle": Tone.SOON, "cull": Tone.URGENT}.get(kind, Tone.OFF)


def _meters(row: Mapping[str, Any]) -> Iterable[Meter]:
    """GPU memory first, then memory: as a share of what the server holds."""
    use = row.get("use")
    if not isinstance(use, Mapping):
        return
    for key, words in (("gpu", Sentence("GPU {used} of {limit}")), ("memory", Sentence("{used} of {limit}"))):
        one = use.get(key)
        if not isinstance(one, Mapping):
            continue
        used, limit = one.get("used_bytes"), one.get("limit_bytes")
        if not isinstance(used, int):
            continue
        if not isinstance(limit, int) or limit <= 0:
            yield Meter(words=Sentence("{size} memory", size=human_bytes(used)))
            continue
        percent = min(100, round(100 * used / limit))
        tone = Tone.URGENT if percent >= _URGENT_PERCENT else Tone.SOON if percent >= _SOON_PERCENT else Tone.OK
        yield Meter(
            words=Sentence(words.template, used=human_bytes(used), limit=human_bytes(limit)), percent=percent, tone=tone
        )


def job_view(job: JobRecord) -> JobView:
    """A class action as its panel."""
    state, tone = CANCELLING if job.cancelling else JOB_STATES[job.state]
    over = job.state != "running"
    if over and job.failed:
        tone = Tone.URGENT
    return JobView(
        id=job.id,
        verb=job.verb,
        title=JOB_TITLES.get(job.verb, Sentence("Class action")),
        state=state,
        tone=tone,
        total=job.total,
        done=job.done,
        failed=job.failed,
        by=job.actor,
        at=job.begun_at,
        over=over,
        steps=tuple(_step(step) for step in job.steps),
    )


def _step(step: stored.Step) -> Step:
    words, tone, done = _STEPS[step.state.value]
    return Step(user=step.user, words=step.sentence or words, tone=tone, done=done)
