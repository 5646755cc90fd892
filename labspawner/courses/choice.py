"""What a user asked for, checked: the one validator for the form and the REST API."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from labspawner.courses import patterns
from labspawner.courses.catalog import Snapshot
from labspawner.courses.fields import in_language, shown
from labspawner.courses.models import Course, Option, Profile
from labspawner.errors import BadChoice
from labspawner.sentences import Sentence

VARIANT = "variant"
UNLISTED = "unlisted-choice"
UNLISTED_SUFFIX = f"--{UNLISTED}"


@dataclass(frozen=True, slots=True)
class Choice:
    """A profile this user may start, and an answer to each of its options.

    options: option to choice; for a typed answer, `<option>--unlisted-choice` to the text. Defaults are filled in.
    variant: the one that was picked, from 0; the others are tried as the profile says.
    """

    profile_key: str
    course: Course
    profile: Profile
    options: dict[str, str] = field(default_factory=dict)
    variant: int = 0

    def to_user_options(self) -> dict[str, Any]:
        """The canonical shape, to be stored; `parse_choice` reads it back as the same choice."""
        canonical: dict[str, Any] = {"profile": self.profile_key, "options": dict(self.options)}
        if self.variant:
            canonical[VARIANT] = self.variant + 1
        return canonical


def parse_choice(
    user_options: object, snapshot: Snapshot, groups: Collection[str], admin: bool, now: datetime
) -> Choice:
    """Read what a user asked for, in our shape or in KubeSpawner's flat one, and check that they may have it now.

    user_options: any JSON. None or {} picks the profile of a user who has only one.
    Raises BadChoice (400) or NotAllowed (403), nothing else.
    """
    asked, answers, variant = _shape(user_options)
    key = _profile_key(asked, snapshot, groups, admin)
    course, profile = snapshot.require(key, groups, admin, now)
    if variant is None and VARIANT in answers and VARIANT not in profile.options:  # the flat shape
        variant = answers[VARIANT]
        answers = {name: value for name, value in answers.items() if name != VARIANT}
    return Choice(key, course, profile, _options(profile, answers), _variant(profile, variant))


def _variant(profile: Profile, asked: object) -> int:
    """Which variant was picked, from 0; asked: counted from 1, as people count, or nothing."""
    if asked is None or asked == "":
        return 0
    number = int(asked) if isinstance(asked, str) and asked.isascii() and asked.isdigit() and len(asked) < 4 else asked
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= len(profile.variants):
        raise BadChoice(
            Sentence(
                "{value} is no way to run this profile. Send a number from 1 to {last}, or leave it out.",
                value=shown(asked),
                last=len(profile.variants),
            )
        )
    if number > 1 and profile.fallback == "never":
        raise BadChoice(Sentence("This profile is run in its first way only. Leave the variant out."))
    return number - 1


def _shape(user_options: object) -> tuple[object, Mapping[Any, object], object]:
    """The profile asked for (None: not said), the answers and the variant (None: not said), from either shape."""
    if user_options is None:
        return None, {}, None
    if not isinstance(user_options, Mapping):
        raise BadChoice(
            Sentence(
                'The choice is {value}. Send an object like {{"profile": "course/profile"}}.', value=shown(user_options)
            )
        )
    asked = user_options.get("profile")
    rest = {key: value for key, value in user_options.items() if key != "profile"}
    if "options" not in rest:
        return asked, rest, None
    answers, variant = rest.pop("options"), rest.pop(VARIANT, None)
    if answers is None:
        answers = {}
    if not isinstance(answers, Mapping):
        raise BadChoice(Sentence("The options are {value}. Send an object, or leave them out.", value=shown(answers)))
    if rest:
        raise BadChoice(_no_option(next(iter(rest))))
    return asked, answers, variant


def _profile_key(asked: object, snapshot: Snapshot, groups: Collection[str], admin: bool) -> str:
    """The full name of the profile; whether the user may have it is not decided here."""
    if isinstance(asked, str) and "/" in asked:
        return asked
    visible = [(course, profile) for course, profiles in snapshot.visible_to(groups, admin) for profile in profiles]
    if asked is None or asked == "":
        if len(visible) == 1:
            return visible[0][0].key(visible[0][1])
        if not visible:
            raise BadChoice(Sentence("You are not in any course yet. Ask your instructor to add you."))
        raise BadChoice(Sentence("Pick a profile first."))
    if not isinstance(asked, str):
        raise BadChoice(Sentence("The profile is {value}. Send its name as text.", value=shown(asked)))
    matching = [course.key(profile) for course, profile in visible if profile.slug == asked]
    if not matching:
        raise BadChoice(Sentence("You have no profile {profile}. Pick one from the list.", profile=shown(asked)))
    if len(matching) > 1:
        raise BadChoice(
            Sentence(
                "More than one of your courses has a profile {profile}. Send one of: {keys}.",
                profile=shown(asked),
                keys=", ".join(matching[:10]),
            )
        )
    return matching[0]


def _options(profile: Profile, answers: Mapping[Any, object]) -> dict[str, str]:
    """An answer to each option; what was not said is the default."""
    for name in answers:
        if not isinstance(name, str) or name.removesuffix(UNLISTED_SUFFIX) not in profile.options:
            raise BadChoice(_no_option(name))
    chosen: dict[str, str] = {}
    for name, option in profile.options.items():
        typed, picked = answers.get(name + UNLISTED_SUFFIX), answers.get(name)
        if typed is not None and typed != "":
            chosen[name + UNLISTED_SUFFIX] = _typed(name, option, typed)
        elif picked == UNLISTED and option.unlisted_choice.enabled:
            raise BadChoice(Sentence("Type a value for {option}, or choose another answer.", option=shown(name)))
        elif picked is not None and picked != "":
            chosen[name] = _picked(name, option, picked)
        elif option.default_choice is not None:
            chosen[name] = option.default_choice
    return chosen


def _picked(name: str, option: Option, value: object) -> str:
    if isinstance(value, str) and value in option.choices:
        return value
    raise BadChoice(
        Sentence(
            "{value} is not a choice for {option}. Choose one of: {choices}.",
            value=shown(value),
            option=shown(name),
            choices=", ".join(list(option.choices)[:20]),
        )
    )


def _typed(name: str, option: Option, value: object) -> str:
    unlisted = option.unlisted_choice
    if not unlisted.enabled:
        raise BadChoice(Sentence("{option} takes only the choices that are listed.", option=shown(name)))
    if not isinstance(value, str):
        raise BadChoice(Sentence("{option} is {value}. Send text.", option=shown(name), value=shown(value)))
    if not value.isprintable() or not patterns.matches(unlisted.validation_regex, value):
        why = unlisted.validation_message
        raise BadChoice(
            Sentence(
                "{value} does not fit {option}: {why}",
                value=shown(value),
                option=shown(name),
                why=in_language(why, "en") if why else f"it must match {unlisted.validation_regex}",
            )
        )
    return value


def _no_option(name: object) -> Sentence:
    return Sentence("This profile has no option {option}. Leave it out.", option=shown(name))


def field_name(course: str, profile: str, option: str) -> str:
    """The name of an option's `<select>` in our form; the text field for a typed answer adds `--unlisted-choice`."""
    return f"option--{course}--{profile}--{option}"


def options_from_form(form: Mapping[Any, Any]) -> dict[str, Any]:
    """The posted form, or the query of a link, in the canonical shape. Never raises; `parse_choice` checks it.

    Reads `profile`, our `option--<course>--<slug>--<option>` and KubeSpawner's `profile-option-<slug>--<option>`, of
    the chosen profile only: a form posts the fields of every card. `variant` is `<course>/<slug>:<number>`: a button of
    one card, which counts whatever else is marked.
    """
    asked = _first(form.get("profile"))
    picked, _, variant = _first(form.get(VARIANT)).rpartition(":")
    asked = picked or asked
    if not asked:
        return {}
    course, _, slug = asked.rpartition("/")
    prefixes = (field_name(course, slug, ""), f"profile-option-{slug}--", f"profile-option-{asked}--")
    answers = {
        name[len(prefix) :]: _first(values)
        for prefix in reversed(prefixes)
        for name, values in form.items()
        if isinstance(name, str) and name.startswith(prefix)
    }
    chosen: dict[str, Any] = {"profile": asked, "options": _without_hidden_text(answers)}
    return {**chosen, VARIANT: variant} if variant else chosen


def _first(values: object) -> str:
    """What a field holds: forms post lists."""
    value = values[0] if isinstance(values, (list, tuple)) and values else values
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else ""


def _without_hidden_text(answers: dict[str, str]) -> dict[str, str]:
    """The text field is posted whatever the list says: the list decides. Only "Other..." without a text stays as it is,
    for `parse_choice` to refuse: the default would not be what was meant."""
    kept: dict[str, str] = {}
    for name, value in answers.items():
        listed = answers.get(name.removesuffix(UNLISTED_SUFFIX), UNLISTED)
        if name.endswith(UNLISTED_SUFFIX):
            if listed == UNLISTED:
                kept[name] = value
        elif value != UNLISTED or not answers.get(name + UNLISTED_SUFFIX):
            kept[name] = value
    return kept
