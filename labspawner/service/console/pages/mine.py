"""My courses, and the way to a new one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from labspawner.courses import editing
from labspawner.courses.editing import NotEditable
from labspawner.courses.porting import import_profile_list
from labspawner.courses.yamltree import Unreadable, read_tree
from labspawner.model import CourseRole, Json
from labspawner.sentences import Sentence, plain
from labspawner.service.console.doing import courses, rosters
from labspawner.service.console.house import House
from labspawner.service.console.pages.gallery import Host, StartingPoint, gallery
from labspawner.service.console.pages.kept import DONE, InstructorPage
from labspawner.service.console.pages.naming import is_slug, slug_of
from labspawner.service.console.pages.shown import course_view
from labspawner.service.console.problems import Exists, Invalid, Problem
from labspawner.service.console.rights import Verb, may, usual_groups
from labspawner.service.console.views import CourseView, Published

NO_TITLE = Sentence("Write a name, in one of the two languages.")
BAD_SLUG = Sentence("Write a short name of a-z, 0-9 and single dashes, for example {example}.")
HUB_AWAY = Sentence("The hub does not answer just now, so you do not see what runs. Courses can be changed meanwhile.")
PICK = Sentence("Pick what they start with.")
NAME_TEMPLATE = Sentence("Write the template that the machines are cloned from.")


class MinePage(InstructorPage):
    """Everything that the reader teaches, and for somebody new the first step."""

    async def get(self) -> None:
        cards: list[CourseView] = []
        archived: list[CourseView] = []
        running = await running_now(self.house)
        for record in await courses.mine(self.house, self.caller):
            people = await self.house.store.rosters.of(record.slug)
            students = sum(person.role is CourseRole.MEMBER for person in people)
            view = course_view(
                record, self.caller, self.house.groups(record.slug),
                students=students or None, running=None if running is None else running[record.slug],
            )  # fmt: skip
            (archived if view.published is Published.ARCHIVED else cards).append(view)
        await self.show(
            "courses.html",
            cards=cards,
            archived=archived,
            may_create=may(self.caller, Verb.CREATE, rules=self.house.rules),
            trouble=None if running is not None else HUB_AWAY,
            done=DONE.get(self.get_query_argument("done", "")),
        )


class NewPage(InstructorPage):
    """A course in one form: its name, its students, and what they start with."""

    async def get(self) -> None:
        self.require(Verb.CREATE)
        points = await starting_points(self.house)
        first = next((point.key for point in points if not point.missing), "")
        await self.show("new.html", form={"start": first}, wrong={}, gallery=points, trouble=None)

    async def post(self) -> None:
        self.require(Verb.CREATE)
        form, points = self.sent(), await starting_points(self.house)
        titles = titles_of(form)
        taken = {record.slug for record in await courses.mine(self.house, self.caller)}
        slug = self.line("slug") or slug_of(titles, taken)
        wrong = _wrong(form, titles, slug, points)
        if wrong:
            await self._again(form, wrong, points)
            return
        point = next(one for one in points if one.key == form["start"])
        try:
            text = course_text(slug, titles, [profile_of(point, form, taken=())])
            await courses.create(self.house, self.caller, slug, text)
        except Exists as exc:
            await self._again(form, {"slug": exc.message}, points)
            return
        except NotEditable as exc:
            await self._again(form, {}, points, trouble=exc.message)
            return
        except Invalid as exc:
            said = {"slug": _first_flaw(exc)} if _is_name(exc) else {}
            await self._again(form, said, points, trouble=None if said else _first_flaw(exc))
            return
        if form.get("roster", "").strip():
            # The hub made them instructor of it a moment ago; it is asked again with the next request.
            own = usual_groups(slug).staff
            self.caller = replace(self.caller, groups=self.caller.groups.union(own))
            await self._people(slug, form["roster"])
        else:
            self.to(slug, done="created")

    async def _people(self, slug: str, roster: str) -> None:
        """The students, at once where nothing is doubtful; else the page that shows what would change."""
        try:
            preview = await rosters.preview(self.house, self.caller, slug, roster)
            if not preview.refused:
                await rosters.replace(self.house, self.caller, slug, roster, role="member", etag=preview.etag)
                self.to(slug, done="created")
                return
        except Problem:  # the course is there; its people are another page's work, where the reason is read
            pass
        record = await courses.get(self.house, self.caller, slug)
        from labspawner.service.console.pages.people import show_preview  # noqa: PLC0415 - they lead to one another

        await show_preview(self, record, {"roster": roster, "role": "member", "mode": "add"})

    async def _again(
        self, form: Mapping[str, str], wrong: Mapping[str, Sentence], points: tuple[StartingPoint, ...],
        trouble: Sentence | None = None,
    ) -> None:  # fmt: skip
        self.set_status(422)
        said = trouble or Sentence("Something is missing; it is said beside each field. What you typed is kept.")
        await self.show("new.html", form=form, wrong=wrong, gallery=points, trouble=said)


class ImportPage(InstructorPage):
    """A course out of a file that somebody has: our YAML, or KubeSpawner's `profile_list`."""

    async def post(self) -> None:
        self.require(Verb.CREATE)
        text, slug = self.text("text"), self.line("slug2")
        try:
            text, slug = as_own_course(text, slug)
            await courses.create(self.house, self.caller, slug, text)
        except NotEditable as exc:
            await self._again(exc.message)
        except Exists as exc:
            await self._again(exc.message, "slug2")
        except Invalid as exc:
            await self._again(_first_flaw(exc))
        else:
            self.to(slug, done="created")

    async def _again(self, said: Sentence, field: str = "text") -> None:
        self.set_status(422)
        points = await starting_points(self.house)
        wrong = {"text": said, field: said} if field != "text" else {"text": said}
        await self.show("new.html", form=self.sent(), wrong=wrong, gallery=points, trouble=None)


class DuplicatePage(InstructorPage):
    """The same profiles under another name, as a draft; also the way to go on here with a course of a file."""

    async def get(self, slug: str) -> None:
        self.require(Verb.CREATE)
        record = await self.record(slug)
        await self.show_course("duplicate.html", record, "", form={"slug": f"{slug[:34]}-copy"}, wrong={}, trouble=None)

    async def post(self, slug: str) -> None:
        self.require(Verb.CREATE)
        record = await self.record(slug)
        new = self.line("slug")
        wrong = None if is_slug(new) else Sentence(BAD_SLUG.template, example=f"{slug[:34]}-2")
        if wrong is None:
            try:
                await courses.duplicate(self.house, self.caller, slug, new)
            except NotEditable as exc:
                wrong = exc.message
            except Exists as exc:
                wrong = exc.message
            except Invalid as exc:
                wrong = _first_flaw(exc)
            else:
                self.to(new, done="created")
                return
        self.set_status(422)
        await self.show_course("duplicate.html", record, "", form={"slug": new}, wrong={"slug": wrong}, trouble=None)


_KNOWN: WeakKeyDictionary[House, tuple[float, Counter[str] | None]] = WeakKeyDictionary()
_KNOWN_FOR_S = 5.0


async def running_now(house: House) -> Counter[str] | None:
    """How many servers of each course ran at most some seconds ago; None where the hub does not say."""
    now = asyncio.get_running_loop().time()
    at, found = _KNOWN.get(house, (float("-inf"), None))
    if found is None or now - at >= _KNOWN_FOR_S:
        if found is not None:
            _KNOWN[house] = now, found  # who asks meanwhile is told what is known, and asks nobody
        try:
            state = await house.hub.ask("state")
        except Problem:
            _KNOWN.pop(house, None)
            return None
        found = Counter(str(row.get("course")) for row in state.get("servers", ()) if row.get("phase") == "ready")
        _KNOWN[house] = now, found
    return found


async def starting_points(house: House) -> tuple[StartingPoint, ...]:
    """The gallery of this hub. A hub that does not answer has no GPU that is known."""
    return gallery(await hosts_of(house))


async def hosts_of(house: House) -> list[Host]:
    """The providers, and the GPUs that they have."""
    known = await house.capacities()
    return [
        Host(
            name=name,
            kind=str(options.get("kind", name)),
            cards=tuple(card.memory_total_bytes for host in known[name].hosts for card in host.cards)
            if name in known
            else (),
        )
        for name, options in house.settings.providers.items()
    ]


def as_own_course(text: str, slug: str) -> tuple[str, str]:
    """The text of a course under a short name, and that name; a KubeSpawner `profile_list` becomes one of our courses. Raises
    NotEditable and Invalid."""
    try:
        data = read_tree(text).data
    except Unreadable as exc:
        raise Invalid(Sentence("line {line}: {message}", line=exc.mark.line, message=exc.message)) from exc
    if isinstance(data, dict) and isinstance(data.get("course"), str):
        return (editing.as_course(text, slug), slug) if slug else (text, data["course"])
    slug = slug or "kubespawner"
    found = import_profile_list(text, slug=slug, title={"en": slug})
    if not isinstance(found, str):
        raise Invalid(Sentence("line {line}: {message}", line=found[0].line, message=found[0].message), found)
    return found, slug


def titles_of(form: Mapping[str, str]) -> dict[str, str]:
    """What was typed as names, by language."""
    found = {"en": form.get("title_en", "").strip(), "zh-CN": form.get("title_zh", "").strip()}
    return {language: title for language, title in found.items() if title}


def profile_of(point: StartingPoint, form: Mapping[str, str], *, taken: tuple[str, ...]) -> dict[str, Json]:
    """A starting point as a profile of a course."""
    variants: Any = point.profile["variants"]
    if point.asks:
        template = form.get("template", "").strip()
        value: Json = int(template) if template.isdecimal() else template
        variants = [{**variant, "template": value} for variant in variants]
    titles: Any = titles_of(form) if taken else dict(point.titles)
    slug = slug_of(titles or point.titles, taken, point.key) if taken else point.key
    return {
        "slug": slug,
        "title": titles or dict(point.titles),
        "icon": point.icon,
        **point.profile,
        "variants": variants,
    }


def course_text(slug: str, titles: Mapping[str, str], profiles: list[dict[str, Json]]) -> str:
    """The YAML of a new course."""
    text = editing.new_course(slug, dict(titles))
    first = str(profiles[0]["slug"])
    text = editing.duplicate_profile(text, "notebook", first) if first != "notebook" else text
    text = editing.with_profile(text, first, profiles[0])
    text = editing.remove_profile(text, "notebook") if first != "notebook" else text
    for profile in profiles[1:]:
        text = editing.add_profile(text, profile)
    return text


def _wrong(
    form: Mapping[str, str], titles: Mapping[str, str], slug: str, points: tuple[StartingPoint, ...]
) -> dict[str, Sentence]:
    """What is wrong, by field."""
    wrong: dict[str, Sentence] = {}
    if not titles:
        wrong["title_en"] = NO_TITLE
    if not is_slug(slug):
        wrong["slug"] = Sentence(BAD_SLUG.template, example="dl101")
    point = next((one for one in points if one.key == form.get("start") and not one.missing), None)
    if point is None:
        wrong["start"] = PICK
    elif point.asks and not form.get("template", "").strip():
        wrong["template"] = NAME_TEMPLATE
    return wrong


def _is_name(exc: Invalid) -> bool:
    """Whether the short name is what is wrong."""
    return bool(exc.flaws) and exc.flaws[0].path == "course"


def _first_flaw(exc: Invalid) -> Sentence:
    if exc.flaws:
        flaw = exc.flaws[0]
        if _is_name(exc):
            return plain(flaw.message)
        return Sentence("line {line}: {message}", line=flaw.line, message=flaw.message)
    return exc.message
