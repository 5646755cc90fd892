"""What the hub says of a class as the rows of its wall; jobs as their panels. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from labspawner import store as stored
from labspawner.sentences import Sentence
from labspawner.service.console.doing.jobs import JobRecord
from labspawner.service.console.doing.wall import Place
from labspawner.service.console.pages.shown import instant_of, said, texts
from labspawner.service.console.pages.wall import natural
from labspawner.service.console.views import Activity, JobView, Meter, Step, Tone, WallRow
from labspawner.units import human_bytes, human_duration

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
_MARKS = {"good": Tone.OK, "bad": Tone.URGENT}
_VERDICTS = {"warn": Tone.SOON, "cull": Tone.URGENT}


def wall_rows(places: Iterable[Place], language: str) -> list[WallRow]:
    """One row per server, and one for whoever has none; staff only while they run something."""
    return [_row(place, place.row or {}, language) for place in places if place.row or place.role == "member"]


def _row(place: Place, row: Mapping[str, Any], language: str) -> WallRow:
    activity = _PHASES.get(str(row.get("phase") or ""), Activity.OFF)
    badge = row.get("badge") or {}
    here = activity is not Activity.OFF
    return WallRow(
        user=place.user,
        server=str(row.get("server") or ""),
        activity=activity,
        note=_waiting(row),
        profile=texts(row.get("profile_title") or row.get("profile") or {}),
        provider=str(row.get("provider") or "") if here else "",
        host=str(row.get("host") or "") if here else "",
        use=tuple(_meters(row)),
        last_activity=instant_of(row.get("last_activity")),
        verdict=said(row.get("reason"), language),
        verdict_tone=Tone.OK if row.get("busy") else _VERDICTS.get(str(row.get("verdict") or ""), Tone.OFF),
        ends_at=instant_of(row.get("ends_at")),
        badge=said(badge.get("text"), language),
        badge_tone=_MARKS.get(str(badge.get("mark") or ""), Tone.OFF),
        notice=said((place.notice or {}).get("reason"), language) if not row else None,
    )


def _waiting(row: Mapping[str, Any]) -> Sentence | None:
    """Where somebody stands in line, and for about how long."""
    place = row.get("place")
    if not isinstance(place, int):
        return None
    low, high = row.get("wait_low_s"), row.get("wait_high_s")
    if isinstance(low, int | float) and isinstance(high, int | float):
        return Sentence(
            "number {place} in line, about {low} to {high}",
            place=place,
            low=human_duration(_whole_minutes(low)),
            high=human_duration(_whole_minutes(high)),
        )
    return Sentence("number {place} in line", place=place)


def _whole_minutes(seconds: float) -> timedelta:
    return timedelta(minutes=max(1, round(seconds / 60)))


def _meters(row: Mapping[str, Any]) -> Iterable[Meter]:
    """GPU memory first, then memory: as a share of what the server holds."""
    use = row.get("use")
    if not isinstance(use, Mapping):
        return
    for key, words in (("gpu_memory", Sentence("GPU {used} of {limit}")), ("memory", Sentence("{used} of {limit}"))):
        used, limit = use.get(f"{key}_bytes"), use.get(f"{key}_limit_bytes")
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
        steps=tuple(_step(step) for step in sorted(job.steps, key=lambda step: natural(step.user))),
    )


def _step(step: stored.Step) -> Step:
    words, tone, done = _STEPS[step.state.value]
    return Step(user=step.user, words=step.sentence or words, tone=tone, done=done)
