"""Records as what pages show: pure, but for nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from labspawner.courses import Problem as Flaw
from labspawner.courses import Profile, resolve_profile
from labspawner.courses.diffing import Line
from labspawner.courses.seats import Seats, in_words
from labspawner.pages.i18n import pick
from labspawner.pages.views import chips_for
from labspawner.sentences import Sentence, plain
from labspawner.service.console import views
from labspawner.service.console.doing.records import WRITTEN
from labspawner.service.console.rights import Caller, CourseGroups, Standing, Verb, may

ROLES: Mapping[Standing, Sentence] = {
    Standing.ADMIN: Sentence("Administrator"),
    Standing.INSTRUCTOR: Sentence("Instructor"),
    Standing.ASSISTANT: Sentence("Assistant"),
    Standing.NONE: Sentence("By a token"),
}
_KINDS = {" ": "same", "+": "added", "-": "removed", "…": "gap"}


def can_of(caller: Caller, groups: CourseGroups) -> views.Can:
    """What `caller` may do with the course of these groups."""
    allowed = {verb: may(caller, verb, groups) for verb in Verb if verb not in {Verb.CREATE, Verb.ADMIN}}
    return views.Can(
        write=allowed[Verb.WRITE],
        roster=allowed[Verb.ROSTER],
        start=allowed[Verb.START],
        stop=allowed[Verb.STOP],
        extend=allowed[Verb.EXTEND],
        message=allowed[Verb.MESSAGE],
        reset=allowed[Verb.RESET],
        visit=allowed[Verb.VISIT],
    )


def course_view(
    record: Any, caller: Caller, groups: CourseGroups, *, students: int | None = None, running: int | None = None
) -> views.CourseView:
    """A course as its pages' head, and as a card. record: `doing.courses.CourseRecord`."""
    commit = record.commit
    origin = None
    if record.origin != WRITTEN:
        origin = views.Origin(
            file=record.file,
            commit=commit.short if commit else "",
            subject=commit.subject if commit else "",
            author=commit.author if commit else "",
            at=commit.at if commit else None,
            changed=commit.changed if commit else False,
        )
    return views.CourseView(
        slug=record.slug,
        title=record.title,
        summary=record.summary or {},
        published=views.Published(record.origin if origin else record.state),
        etag=record.etag or "",
        revision=record.revision or 0,
        changed_by="" if origin else record.changed_by,
        changed_at=None if origin else record.changed_at,
        origin=origin,
        role=ROLES[record.standing],
        can=can_of(caller, groups),
        profiles=len(record.course.profiles) if record.course else 0,
        students=students,
        running=running,
        problems=len(record.flaws),
    )


def problem_views(flaws: Iterable[Flaw]) -> list[views.ProblemView]:
    """What is wrong with a text, in the order of its lines."""
    found = [
        views.ProblemView(message=flaw.message, line=flaw.line, column=flaw.column, path=flaw.path) for flaw in flaws
    ]
    return sorted(found, key=lambda one: (one.line, one.column))


def seat_lines(found: Iterable[tuple[str, Sequence[Seats | None]]], *, named: bool = True) -> list[views.Meter]:
    """What a class would need, a line for each way to run each profile that can be counted. named: the lines name the profile
    where there are several."""
    profiles = list(found)
    lines = []
    for slug, ways in profiles:
        for number, one in enumerate(ways, 1):
            if one is None:
                continue
            said = in_words(one)
            if len(ways) > 1:
                said = Sentence("way {number}: {verdict}", number=number, verdict=said)
            if named and len(profiles) > 1:
                said = Sentence("{profile}: {verdict}", profile=slug, verdict=said)
            tone = views.Tone.OK if one.enough else views.Tone.URGENT if one.places == 0 else views.Tone.SOON
            lines.append(views.Meter(words=said, tone=tone))
    return lines


def profile_row(profile: Profile, *, permalink: str, seats: Sequence[Seats | None] = ()) -> views.ProfileRow:
    """One profile as a student's card shows it, with how many of them fit."""
    defaults = {name: option.default_choice for name, option in profile.options.items() if option.default_choice}
    first = resolve_profile(profile, defaults, 0)
    line = seat_lines([(profile.slug, seats[:1])])
    return views.ProfileRow(
        slug=profile.slug,
        title=texts(profile.title),
        summary=texts(profile.summary),
        icon=profile.icon or "",
        chips=chips_for(
            first.resources,
            idle_after=profile.idle.after,
            max_age=profile.limits.max_age,
            keeps_files=True,
            hibernates=profile.idle.action == "hibernate",
        ),
        providers=tuple(dict.fromkeys(variant.provider for variant in profile.variants)),
        default=profile.default,
        seats=line[0].words if line else None,
        seats_tone=line[0].tone if line else views.Tone.OFF,
        permalink=permalink,
    )


def texts(text: object) -> Mapping[str, str]:
    """A text of a course file by language; one that is in no language counts as English."""
    if isinstance(text, Mapping):
        return {str(language): str(words) for language, words in text.items()}
    return {"en": str(text)} if text else {}


def diff_lines(lines: Iterable[Line]) -> list[views.DiffLine]:
    """A comparison, line by line."""
    return [views.DiffLine(kind=_KINDS[line.kind], text=line.text, old=line.old, new=line.new) for line in lines]


def change_lines(changes: Sequence[Any], most: int = 12) -> list[Sentence]:
    """A comparison by meaning, in a few sentences. changes: `diffing.Change`."""
    said = []
    for change in changes[:most]:
        where = " › ".join(change.where)
        if change.before is None:
            said.append(Sentence("{where}: {after}, new", where=where, after=change.after))
        elif change.after is None:
            said.append(Sentence("{where}: {before}, removed", where=where, before=change.before))
        else:
            said.append(
                Sentence("{where}: {before}, now {after}", where=where, before=change.before, after=change.after)
            )
    if len(changes) > most:
        said.append(Sentence("and {count} more", count=len(changes) - most))
    return said


def said(data: object, language: str) -> Sentence | None:
    """What the hub said in all languages, in this one; None for nothing."""
    words = pick(texts(data), language)
    return plain(words) if words else None


def instant_of(data: object) -> datetime | None:
    """An instant as the hub writes it; None for nothing, and for what is none."""
    try:
        return datetime.fromisoformat(str(data).replace("Z", "+00:00")) if data else None
    except ValueError:
        return None
