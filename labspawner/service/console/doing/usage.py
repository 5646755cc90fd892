"""How much of the lab a course used, week by week."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone

from labspawner.courses import Course
from labspawner.service.console.house import House
from labspawner.service.console.rights import Caller, Verb
from labspawner.store import Usage

MOST_WEEKS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class UserHours:
    """What one person held. gpu_hours: hours with a slice, whatever its size."""

    user: str
    hours: float
    gpu_hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Week:
    """Seven days from a Monday, in UTC. users: the largest first."""

    begins: date
    hours: float
    gpu_hours: float
    people: int
    users: tuple[UserHours, ...]


async def by_week(house: House, caller: Caller, slug: str, *, weeks: int = 8) -> list[Week]:
    """The last weeks, the running one last. A lease that was parked and resumed counts from its last ready only."""
    await house.require_course(caller, Verb.READ, slug)
    await house.read_files()
    gpu = _with_gpu(await house.course(slug))
    now = house.now()
    monday = datetime.combine(now.date() - timedelta(days=now.weekday()), datetime.min.time(), tzinfo=timezone.utc)
    count = min(max(weeks, 1), MOST_WEEKS)
    edges = [monday + timedelta(weeks=number) for number in range(1 - count, 2)]
    found = await house.store.usage_between(house.settings.hub_id, edges, course=slug)
    return [_week(since, uses, gpu) for since, uses in zip(edges, found, strict=False)]  # the last edge begins no week


def _week(since: datetime, uses: Sequence[Usage], gpu: Mapping[str, bool]) -> Week:
    hours: dict[str, float] = defaultdict(float)
    gpu_hours: dict[str, float] = defaultdict(float)
    for use in uses:
        hours[use.user] += use.seconds / 3600
        if gpu.get(use.profile, False):
            gpu_hours[use.user] += use.seconds / 3600
    users = tuple(
        UserHours(user=user, hours=round(hours[user], 2), gpu_hours=round(gpu_hours[user], 2))
        for user in sorted(hours, key=lambda name: (-hours[name], name))
    )
    return Week(
        begins=since.date(),
        hours=round(sum(hours.values()), 2),
        gpu_hours=round(sum(gpu_hours.values()), 2),
        people=len(users),
        users=users,
    )


def _with_gpu(course: Course | None) -> dict[str, bool]:
    """Which profiles, as they are now, ask for a slice first."""
    if course is None:
        return {}
    return {course.key(profile): profile.variants[0].gpu is not None for profile in course.profiles}
