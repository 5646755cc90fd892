"""What the spawn page shows one user: their courses, what is free, and what they picked last time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Protocol

from labspawner.courses import (
    Catalog,
    Course,
    Option,
    Profile,
    ResolvedVariant,
    Snapshot,
    is_staff,
    next_opening,
    open_at,
    resolve_profile,
)
from labspawner.courses.catalog import Visible
from labspawner.courses.choice import UNLISTED, UNLISTED_SUFFIX
from labspawner.courses.patterns import MAX_VALUE
from labspawner.model import Feature, Resources
from labspawner.pages.form import render_spawn_form
from labspawner.pages.views import (
    Availability,
    Choice,
    CourseGroup,
    ProfileCard,
    SelectField,
    SpawnPage,
    TextField,
    chips_for,
)
from labspawner.providers.contract import Keeping
from labspawner.sentences import Sentence

log = logging.getLogger(__name__)

Question = tuple[str, Resources]


class Places(Protocol):
    """What the page asks of the engine. providers: those that the hub has, by name."""

    @property
    def providers(self) -> Mapping[str, object]: ...
    async def free_places(self, provider: str, resources: Resources) -> int | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offer:
    """A profile as one user sees it.

    answers: what is preset for its options. closed: until when students cannot start it, in words. variants: those
    that a start would try and whose provider the hub has. missing: providers that it names and the hub has not.
    cardless: those that it needs a GPU of, and that have none.
    """

    course: Course
    profile: Profile
    staff: bool
    closed: str | None
    answers: Mapping[str, str]
    variants: tuple[ResolvedVariant, ...]
    missing: tuple[str, ...]
    cardless: tuple[str, ...] = ()

    @property
    def pointless(self) -> bool:
        """It is for machines with a GPU, and there is none: nothing that a student could do, or tell anybody."""
        return not self.variants and not self.missing and bool(self.cardless) and not self.staff

    @property
    def startable(self) -> bool:
        return bool(self.variants) and (self.staff or self.closed is None)

    @property
    def questions(self) -> list[Question]:
        """What the providers have to be asked, to say how much is free."""
        return [(variant.provider, variant.resources) for variant in self.variants] if self.startable else []


async def render(
    catalog: Catalog,
    engine: Places,
    *,
    user_name: str,
    groups: Collection[str],
    admin: bool,
    last: object,
    language: str,
    now: datetime | None = None,
) -> str:
    """The HTML inside the spawn form. last: the user options of the last start, of any shape, or None.

    now: an instant with a time zone; the present if left out.
    """
    snapshot = catalog.snapshot
    picked, answers = _last_choice(last)
    courses = _offered(
        snapshot.visible_to(groups, admin),
        engine.providers,
        cardless=_without_cards(engine.providers),
        staff_of=lambda course: is_staff(course, groups, admin),
        answers_to=lambda course, profile: answers if picked in {course.key(profile), profile.slug} else {},
        now=now or datetime.now(timezone.utc),
    )
    offers = [offer for _, offered in courses for offer in offered]
    free = await _free_places(engine, offers)
    page = SpawnPage(
        user_name=user_name,
        courses=tuple(_group(course, offered, free, engine.providers) for course, offered in courses),
        preselected=_preselected(picked, offers),
        broken=_problems(snapshot, groups, admin),
    )
    return render_spawn_form(page, language)


def _last_choice(last: object) -> tuple[str | None, Mapping[str, object]]:
    """Saved options may be anything that was ever sent; what cannot be read is no choice."""
    if not isinstance(last, Mapping) or not isinstance(last.get("profile"), str):
        return None, {}
    options = last.get("options", last)
    return last["profile"], options if isinstance(options, Mapping) else {}


def _preselected(picked: str | None, offers: Iterable[_Offer]) -> str | None:
    """The last choice, by its full or short name, else the first course's default: of those that can be started."""
    startable = {offer.course.key(offer.profile): offer.profile for offer in offers if offer.startable}
    last = (key for key, profile in startable.items() if picked in {key, profile.slug})
    default = (key for key, profile in startable.items() if profile.default)
    return next(last, None) or next(default, None)


def _problems(snapshot: Snapshot, groups: Collection[str], admin: bool) -> tuple[str, ...]:
    """Broken course files, for those who can mend one: administrators and any course's staff.

    The file without its folder, which is only the log's to tell.
    """
    if not admin and not any(is_staff(course, groups, admin) for course in snapshot.courses()):
        return ()
    return tuple(
        f"{Path(problem.file).name}:{problem.line}:{problem.column}: {problem.message}" for problem in snapshot.problems
    )


# -- what is offered ---------------------------------------------------------------------------------------------------


def _offered(
    visible: Visible,
    providers: Collection[str],
    *,
    cardless: Collection[str],
    staff_of: Callable[[Course], bool],
    answers_to: Callable[[Course, Profile], Mapping[str, object]],
    now: datetime,
) -> list[tuple[Course, list[_Offer]]]:
    """All that this user may see, by course. answers_to: the last answers to the options of a profile, unchecked.
    cardless: the providers that have no GPU."""
    return [
        (
            course,
            [
                offer
                for profile in profiles
                if not (
                    offer := _offer(
                        course,
                        profile,
                        staff=staff_of(course),
                        answers=answers_to(course, profile),
                        providers=providers,
                        cardless=cardless,
                        now=now,
                    )
                ).pointless
            ],
        )
        for course, profiles in visible
    ]


def _without_cards(providers: Mapping[str, object]) -> frozenset[str]:
    """The providers that know that they have no GPU."""
    return frozenset(name for name, provider in providers.items() if getattr(provider, "has_gpus", None) is False)


def _offer(
    course: Course,
    profile: Profile,
    *,
    staff: bool,
    now: datetime,
    answers: Mapping[str, object],
    providers: Collection[str],
    cardless: Collection[str] = (),
) -> _Offer:
    preset = _preset(profile, answers)
    tried = len(profile.variants) if profile.fallback == "auto" else 1
    resolved = [
        resolve_profile(profile, preset, index)
        for index in range(tried)
        if profile.variants[index].provider in providers
    ]
    useless = [one.provider for one in resolved if one.resources.gpu is not None and one.provider in cardless]
    return _Offer(
        course=course,
        profile=profile,
        staff=staff,
        closed=_opens(profile, now),
        answers=preset,
        variants=tuple(one for one in resolved if one.resources.gpu is None or one.provider not in cardless),
        cardless=tuple(dict.fromkeys(useless)),
        missing=tuple(dict.fromkeys(item.provider for item in profile.variants if item.provider not in providers)),
    )


def _opens(profile: Profile, now: datetime) -> str | None:
    """When a profile that is closed opens; None for one that is open."""
    opens = None if open_at(profile, now) else next_opening(profile, now)
    return f"{opens:%Y-%m-%d %H:%M} ({opens.tzinfo})" if opens else None


def _preset(profile: Profile, answers: Mapping[str, object]) -> dict[str, str]:
    """The last answers as far as they are answers still, else the defaults; in the shape of `courses.Choice.options`.

    A typed answer is kept even where it does not fit: the student who reads why wants to mend it.
    """
    preset: dict[str, str] = {}
    for name, option in profile.options.items():
        typed, picked = answers.get(name + UNLISTED_SUFFIX), answers.get(name)
        if option.unlisted_choice.enabled and (typed or picked == UNLISTED):
            preset[name + UNLISTED_SUFFIX] = _typed(typed)
        elif isinstance(picked, str) and picked in option.choices:
            preset[name] = picked
        elif option.default_choice is not None:
            preset[name] = option.default_choice
    return preset


def _typed(text: object) -> str:
    """What goes into the text field again; nothing where no keyboard could have written it there."""
    return text if isinstance(text, str) and len(text) <= MAX_VALUE and text.isprintable() else ""


# -- what is free ------------------------------------------------------------------------------------------------------


async def _free_places(engine: Places, offers: Iterable[_Offer]) -> dict[Question, int | None]:
    """What each provider answers: all are asked at once, and none twice the same."""
    questions = list(dict.fromkeys(question for offer in offers for question in offer.questions))
    # Python 3.10 has no TaskGroup; `_ask` raises nothing, so none is left behind.
    answers = await asyncio.gather(*(_ask(engine, *question) for question in questions))
    return dict(zip(questions, answers, strict=True))


async def _ask(engine: Places, provider: str, resources: Resources) -> int | None:
    """One provider's defect must not take the page of every course away."""
    try:
        return await engine.free_places(provider, resources)
    except Exception:
        log.exception("cannot tell what is free provider=%s; the page says so", provider)
        return None


def _availability(offer: _Offer, free: Mapping[Question, int | None]) -> Availability:
    if not offer.variants:
        return Availability.closed(Sentence("not set up here"))
    if not offer.startable:
        return Availability.closed()
    counts = [free[question] for question in offer.questions]
    known = [count for count in counts if count is not None]
    unsure = len(known) < len(counts) and not any(known)  # full here, and nobody knows there
    return Availability.of(None if unsure else max(known))


# -- what is shown -----------------------------------------------------------------------------------------------------


def _group(
    course: Course, offered: Iterable[_Offer], free: Mapping[Question, int | None], providers: Mapping[str, object]
) -> CourseGroup:
    return CourseGroup(
        slug=course.course,
        title=course.title,
        summary=course.summary or {},
        cards=tuple(_card(offer, free, providers) for offer in offered),
    )


def _card(offer: _Offer, free: Mapping[Question, int | None], providers: Mapping[str, object]) -> ProfileCard:
    course, profile = offer.course, offer.profile
    shown = offer.variants[0] if offer.variants else resolve_profile(profile, offer.answers, 0)
    provider = providers.get(shown.provider)
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
        availability=_availability(offer, free),
        disabled=_why_not(offer),
        notes=_notes(offer) if offer.staff else (),
        options=tuple(_field(course, profile, name, option, offer.answers) for name, option in profile.options.items()),
        options_open=offer.answers != _preset(profile, {}),
    )


def _why_not(offer: _Offer) -> Sentence | None:
    if not offer.variants and offer.cardless:
        return Sentence("This profile needs a GPU, and the provider {provider} has none.", provider=offer.cardless[0])
    if not offer.variants and offer.staff:
        return Sentence(
            "The hub has no provider {provider}. Name another in the course file, or ask your administrator to add it.",
            provider=", ".join(offer.missing),
        )
    if not offer.variants:
        return Sentence("This profile needs a provider that is not set up here. Tell your instructor.")
    if not offer.startable:
        return Sentence("Closed now; opens {when}.", when=offer.closed)
    return None


def _notes(offer: _Offer) -> tuple[Sentence, ...]:
    """What staff should know beside what students see."""
    notes = []
    if offer.closed is not None:
        notes.append(Sentence("Closed for students now; opens {when}.", when=offer.closed))
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
