"""What the spawn page shows one user: their courses, what is free, and what they picked last time."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timezone

from labspawner.courses import Catalog, Course, Profile, is_staff, next_opening, open_at, resolve_profile
from labspawner.lifecycle import Engine
from labspawner.pages.form import render_spawn_form
from labspawner.pages.views import (
    Availability,
    Choice,
    CourseGroup,
    ProfileCard,
    SelectField,
    SpawnPage,
    chips_for,
)
from labspawner.sentences import Sentence


async def render(
    catalog: Catalog,
    engine: Engine,
    *,
    user_name: str,
    groups: Collection[str],
    admin: bool,
    last: object,
    language: str,
) -> str:
    """The HTML inside the spawn form. last: the user options of the last start, of any shape, or None."""
    picked, answers = _last_choice(last)
    now = datetime.now(timezone.utc)
    courses = []
    for course, profiles in catalog.visible_to(groups, admin):
        staff = is_staff(course, groups, admin)
        cards = [
            await _card(
                engine, course, profile, staff=staff, now=now, answers=answers if picked == course.key(profile) else {}
            )
            for profile in profiles
        ]
        courses.append(CourseGroup(slug=course.course, title=course.title, cards=tuple(cards)))
    page = SpawnPage(
        user_name=user_name,
        courses=tuple(courses),
        preselected=picked or _default_key(catalog, groups, admin),
        broken=_problems(catalog, groups, admin),
    )
    return render_spawn_form(page, language)


def _last_choice(last: object) -> tuple[str | None, Mapping[str, object]]:
    """Saved options may be anything that was ever sent; what cannot be read is no choice."""
    if not isinstance(last, Mapping) or not isinstance(last.get("profile"), str):
        return None, {}
    options = last.get("options", last)
    return last["profile"], options if isinstance(options, Mapping) else {}


def _default_key(catalog: Catalog, groups: Collection[str], admin: bool) -> str | None:
    for course, profiles in catalog.visible_to(groups, admin):
        for profile in profiles:
            if profile.default:
                return course.key(profile)
    return None


def _problems(catalog: Catalog, groups: Collection[str], admin: bool) -> tuple[str, ...]:
    """Broken course files, for those who can mend one: administrators and any course's staff."""
    staff = admin or any(is_staff(course, groups, admin) for course in catalog.courses())
    return tuple(str(problem) for problem in catalog.problems) if staff else ()


async def _card(
    engine: Engine, course: Course, profile: Profile, *, staff: bool, now: datetime, answers: Mapping[str, object]
) -> ProfileCard:
    first = resolve_profile(profile, {}, 0)
    closed = _closed(profile, now) if not staff else None
    available = (
        Availability.closed() if closed else Availability.of(await engine.free_places(first.provider, first.resources))
    )
    return ProfileCard(
        course=course.course,
        slug=profile.slug,
        title=profile.title,
        summary=profile.summary or {},
        chips=chips_for(first.resources, idle_after=profile.idle.after, max_age=profile.limits.max_age),
        availability=available,
        disabled=closed,
        options=_fields(course, profile, answers),
    )


def _closed(profile: Profile, now: datetime) -> Sentence | None:
    if open_at(profile, now):
        return None
    opens = next_opening(profile, now)
    if opens is None:
        return Sentence("Closed now.")
    return Sentence("Closed now; opens {when}.", when=f"{opens:%Y-%m-%d %H:%M}")


def _fields(course: Course, profile: Profile, answers: Mapping[str, object]) -> tuple[SelectField, ...]:
    fields = []
    for name, option in profile.options.items():
        answer = answers.get(name, option.default_choice)
        choices = [
            Choice(value=key, label=choice.title, selected=key == answer) for key, choice in option.choices.items()
        ]
        if option.unlisted_choice.enabled and not option.choices:
            continue
        fields.append(
            SelectField(
                course=course.course, slug=profile.slug, option=name, label=option.title, choices=tuple(choices)
            )
        )
    return tuple(fields)
