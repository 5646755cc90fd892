"""What the spawn page shows one user: their courses, what is free, and what they picked last time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Protocol

from labspawner.availability import Answer, Blocked, Picture, Viewer
from labspawner.availability.offers import Offer, Question, last_choice, preset, questions_of
from labspawner.availability.wording import card_state
from labspawner.courses import Course, Option, Profile, Snapshot, is_staff, resolve_profile
from labspawner.courses.choice import UNLISTED_SUFFIX
from labspawner.courses.models import STAFF_GROUP
from labspawner.lifecycle.admission import Room
from labspawner.model import Feature
from labspawner.pages.form import render_spawn_form
from labspawner.pages.views import Choice, CourseGroup, ProfileCard, SelectField, SpawnPage, TextField, chips_for
from labspawner.providers.contract import Keeping
from labspawner.sentences import Sentence


class Desk(Protocol):
    """What the page asks of the hub's `Availability`."""

    async def look(self) -> Picture: ...
    def offers_by_course(
        self, snapshot: Snapshot, viewer: Viewer, now: datetime
    ) -> list[tuple[Course, list[Offer]]]: ...
    async def rooms_for(self, picture: Picture, questions: Sequence[Question]) -> Mapping[Question, Room | None]: ...
    def judge(self, offer: Offer, rooms: Mapping[Question, Room | None], viewer: Viewer, now: datetime) -> Answer: ...


async def render(
    desk: Desk,
    providers: Mapping[str, object],
    viewer: Viewer,
    *,
    language: str,
    now: datetime | None = None,
    asked: Mapping[str, object] | None = None,
) -> str:
    """The HTML inside the spawn form. providers: those that the hub has, by name.

    asked: the choice that a link names, which goes before the last one; of any shape. now: an instant with a time zone;
    the present if left out.
    """
    now = now or datetime.now(timezone.utc)
    linked = last_choice(asked)[0]
    viewer = replace(viewer, last=asked) if linked is not None else viewer
    picture = await desk.look()
    snapshot = picture.snapshot
    courses = desk.offers_by_course(snapshot, viewer, now)
    offers = [offer for _, offered in courses for offer in offered]
    rooms = await desk.rooms_for(picture, questions_of(offers))
    answers = {offer.key: desk.judge(offer, rooms, viewer, now) for offer in offers}
    picked = last_choice(viewer.last)[0]
    page = SpawnPage(
        user_name=viewer.user,
        courses=tuple(
            _group(course, offered, answers, providers, now, draft=course.course in picture.drafts)
            for course, offered in courses
        ),
        preselected=_preselected(picked, offers, answers),
        not_offered=linked is not None and not any(linked in {offer.key, offer.profile.slug} for offer in offers),
        broken=_problems(snapshot, viewer.groups, viewer.admin),
    )
    return render_spawn_form(page, language)


def _preselected(picked: str | None, offers: Iterable[Offer], answers: Mapping[str, Answer]) -> str | None:
    """The last choice, by its full or short name, else the first course's default: of those that can be started."""
    startable = {
        offer.key: offer.profile for offer in offers if answers[offer.key].startable or answers[offer.key].joinable
    }
    last = (key for key, profile in startable.items() if picked in {key, profile.slug})
    default = (key for key, profile in startable.items() if profile.default)
    return next(last, None) or next(default, None)


def _problems(snapshot: Snapshot, groups: Collection[str], admin: bool) -> tuple[str, ...]:
    """Broken courses, for those who can mend one: of files administrators and any course's staff, of what is written in
    the console its own staff. The file without its folder, which is only the log's to tell.
    """
    staff = admin or any(is_staff(course, groups, admin) for course in snapshot.courses())
    found = []
    for problem in snapshot.problems:
        slug = problem.file.removeprefix(WRITTEN) if problem.file.startswith(WRITTEN) else None
        if staff if slug is None else admin or STAFF_GROUP.format(slug=slug) in groups:
            where = f"{problem.file if slug else Path(problem.file).name}:{problem.line}:{problem.column}"
            found.append(Sentence("{where}: {problem}", where=where, problem=problem.message))
    return tuple(found)


WRITTEN = "console/"
"""Before the name of a course that is written in the console, where a file's name would stand."""


# -- what is shown -----------------------------------------------------------------------------------------------------


def _group(
    course: Course,
    offered: Iterable[Offer],
    answers: Mapping[str, Answer],
    providers: Mapping[str, object],
    now: datetime,
    *,
    draft: bool,
) -> CourseGroup:
    return CourseGroup(
        slug=course.course,
        title=course.title,
        summary=course.summary or {},
        cards=tuple(_card(offer, answers[offer.key], providers, now, draft=draft) for offer in offered),
    )


def _card(offer: Offer, answer: Answer, providers: Mapping[str, object], now: datetime, *, draft: bool) -> ProfileCard:
    course, profile = offer.course, offer.profile
    shown = offer.variants[0] if offer.variants else resolve_profile(profile, offer.answers, 0)
    provider = providers.get(shown.provider)
    state = card_state(answer, now)
    return ProfileCard(
        course=course.course,
        slug=profile.slug,
        title=profile.title,
        summary=profile.summary or {},
        icon=profile.icon or "",
        chips=chips_for(
            shown.resources,
            idle_after=profile.idle.after,
            max_age=profile.limits.max_age,
            keeps_files=not isinstance(provider, Keeping) or provider.keeps_files(shown.settings),
            hibernates=profile.idle.action == "hibernate" and Feature.HIBERNATE in getattr(provider, "features", ()),
        ),
        availability=state.availability,
        disabled=_why_not(offer, answer, state.availability.text),
        notes=_notes(offer, draft) if offer.staff else (),
        options=tuple(_field(course, profile, name, option, offer.answers) for name, option in profile.options.items()),
        options_open=offer.answers != preset(profile, {}),
        go=state.go.value,
        go_label=state.go.label,
        elsewhere=state.elsewhere,
    )


def _why_not(offer: Offer, answer: Answer, said: Sentence) -> Sentence | None:
    """Why the card cannot be chosen; None where it can."""
    if answer.startable or answer.joinable:
        return None
    reason = answer.blocked_by[0]
    if reason is Blocked.NO_GPU_HERE:
        return Sentence("This profile needs a GPU, and the provider {provider} has none.", provider=offer.cardless[0])
    if reason is Blocked.PROVIDER_MISSING and offer.staff:
        return Sentence(
            "The hub has no provider {provider}. Name another in the course file, or ask your administrator to add it.",
            provider=", ".join(offer.missing),
        )
    return _ADVICE.get(reason, said)


_ADVICE = {
    Blocked.PROVIDER_MISSING: Sentence("This profile needs a provider that is not set up here. Tell your instructor."),
    Blocked.PER_USER_LIMIT: Sentence("Stop one of your servers of this profile first."),
    Blocked.NEVER_FITS: Sentence("Pick another profile, and tell your instructor."),
}


def _notes(offer: Offer, draft: bool) -> tuple[Sentence, ...]:
    """What staff should know beside what students see."""
    notes = [Sentence("A draft: students do not see it.")] if draft else []
    if offer.opens is not None:
        opens = f"{offer.opens:%Y-%m-%d %H:%M} ({offer.opens.tzinfo})"
        notes.append(Sentence("Closed for students now; opens {when}.", when=opens))
    if offer.variants and offer.missing:
        notes.append(
            Sentence(
                "The hub has no provider {provider}: that variant is passed over.", provider=", ".join(offer.missing)
            )
        )
    return tuple(notes)


def _field(course: Course, profile: Profile, name: str, option: Option, answers: Mapping[str, str]) -> SelectField:
    choices = tuple(
        Choice(value=key, label=choice.title, selected=answers.get(name) == key)
        for key, choice in option.choices.items()
    )
    return SelectField(
        course=course.course,
        slug=profile.slug,
        option=name,
        label=option.title,
        summary=option.summary or {},
        choices=choices,
        typed=_text_field(option, answers.get(name + UNLISTED_SUFFIX)),
    )


def _text_field(option: Option, value: str | None) -> TextField | None:
    unlisted = option.unlisted_choice
    if not unlisted.enabled:
        return None
    entry = unlisted.display_name_in_choices
    return TextField(
        label=unlisted.title or (entry if option.choices else option.title),
        entry=entry,
        hint=unlisted.validation_message or {},
        pattern=unlisted.validation_regex,
        value=value or "",
        selected=value is not None,
    )
