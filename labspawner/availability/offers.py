"""Which profiles a user is offered, and what a start of each would ask of the providers. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from labspawner.courses import Course, Profile, ResolvedVariant, next_opening, open_at, resolve_profile
from labspawner.courses.catalog import Visible
from labspawner.courses.choice import UNLISTED, UNLISTED_SUFFIX
from labspawner.courses.patterns import MAX_VALUE
from labspawner.model import Resources

Question = tuple[str, Resources]
"""What a provider is asked: how many servers with these resources it has room for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A profile as one user sees it.

    answers: what is preset for its options. opens: when it opens for students; None: it is open. variants: those that a
    start would try and whose provider the hub has. others: those that a student may pick instead. missing: providers
    that it names and the hub has not. cardless: those that it needs a GPU of, and that have none.
    """

    course: Course
    profile: Profile
    staff: bool
    opens: datetime | None
    answers: Mapping[str, str]
    variants: tuple[ResolvedVariant, ...]
    others: tuple[ResolvedVariant, ...] = ()
    missing: tuple[str, ...]
    cardless: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return self.course.key(self.profile)

    @property
    def pointless(self) -> bool:
        """It is for machines with a GPU, and there is none: nothing that a student could do, or tell anybody."""
        return not self.variants and not self.others and not self.missing and bool(self.cardless) and not self.staff

    @property
    def startable(self) -> bool:
        """Whether the viewer may start it now, if there is room."""
        return bool(self.variants) and (self.staff or self.opens is None)

    @property
    def questions(self) -> list[Question]:
        """What the providers have to be asked, to say how much is free."""
        if not self.staff and self.opens is not None:
            return []
        return [(variant.provider, variant.resources) for variant in (*self.variants, *self.others)]


def offered(
    visible: Visible,
    providers: Collection[str],
    *,
    cardless: Collection[str],
    staff_of: Callable[[Course], bool],
    answers_to: Callable[[Course, Profile], Mapping[str, object]],
    now: datetime,
) -> list[tuple[Course, list[Offer]]]:
    """All that a user may see, by course. answers_to: the last answers to the options of a profile, unchecked.
    cardless: the providers that have no GPU."""
    return [
        (
            course,
            [
                offer
                for profile in profiles
                if not (
                    offer := an_offer(
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


def an_offer(
    course: Course,
    profile: Profile,
    *,
    staff: bool,
    now: datetime,
    answers: Mapping[str, object],
    providers: Collection[str],
    cardless: Collection[str] = (),
) -> Offer:
    """One profile for one user; answers: to its options, of any shape."""
    chosen = preset(profile, answers)
    resolved = [
        resolve_profile(profile, chosen, index)
        for index, variant in enumerate(profile.variants)
        if variant.provider in providers
    ]
    useless = [one for one in resolved if one.resources.gpu is not None and one.provider in cardless]
    useful = [one for one in resolved if one not in useless]
    tried = len(profile.variants) if profile.fallback == "auto" else 1
    return Offer(
        course=course,
        profile=profile,
        staff=staff,
        opens=None if open_at(profile, now) else next_opening(profile, now),
        answers=chosen,
        variants=tuple(one for one in useful if one.index < tried),
        others=tuple(one for one in useful if one.index >= tried) if profile.fallback == "ask" else (),
        cardless=tuple(dict.fromkeys(one.provider for one in useless if one.index < tried)),
        missing=tuple(dict.fromkeys(item.provider for item in profile.variants if item.provider not in providers)),
    )


def without_cards(providers: Mapping[str, object]) -> frozenset[str]:
    """The providers that know that they have no GPU."""
    return frozenset(name for name, provider in providers.items() if getattr(provider, "has_gpus", None) is False)


def last_choice(last: object) -> tuple[str | None, Mapping[str, object]]:
    """Saved options may be anything that was ever sent; what cannot be read is no choice."""
    if not isinstance(last, Mapping) or not isinstance(last.get("profile"), str):
        return None, {}
    options = last.get("options", last)
    return last["profile"], options if isinstance(options, Mapping) else {}


def preset(profile: Profile, answers: Mapping[str, object]) -> dict[str, str]:
    """The last answers as far as they are answers still, else the defaults; in the shape of `courses.Choice.options`.

    A typed answer is kept even where it does not fit: the student who reads why wants to mend it.
    """
    chosen: dict[str, str] = {}
    for name, option in profile.options.items():
        typed, picked = answers.get(name + UNLISTED_SUFFIX), answers.get(name)
        if option.unlisted_choice.enabled and (typed or picked == UNLISTED):
            chosen[name + UNLISTED_SUFFIX] = _typed(typed)
        elif isinstance(picked, str) and picked in option.choices:
            chosen[name] = picked
        elif option.default_choice is not None:
            chosen[name] = option.default_choice
    return chosen


def _typed(text: object) -> str:
    """What goes into the text field again; nothing where no keyboard could have written it there."""
    return text if isinstance(text, str) and len(text) <= MAX_VALUE and text.isprintable() else ""


def questions_of(offers: Iterable[Offer]) -> list[Question]:
    """What has to be asked for all of these offers, none twice."""
    return list(dict.fromkeys(question for offer in offers for question in offer.questions))
