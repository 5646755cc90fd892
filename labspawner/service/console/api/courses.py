"""Courses: what there is, their text, their revisions, and what a text would come to."""

from __future__ import annotations

from typing import Any

from labspawner.courses.editing import NotEditable, profile_as_form
from labspawner.courses.loader import Problem as LoaderFlaw
from labspawner.courses.seats import in_words
from labspawner.pages import i18n
from labspawner.sentences import Sentence
from labspawner.service.console import words
from labspawner.service.console.api import models
from labspawner.service.console.api.base import ApiHandler
from labspawner.service.console.api.route import Operation, Route
from labspawner.service.console.doing import courses
from labspawner.service.console.doing.courses import Lint
from labspawner.service.console.doing.records import CourseRecord
from labspawner.service.console.problems import Invalid, Missing
from labspawner.service.console.rights import READ, SELF, WRITE

YAML = "application/yaml"


class CourseHandler(ApiHandler):
    """What the handlers below share."""

    def give_course(self, record: CourseRecord, *, status: int = 200) -> None:
        self.give(course_model(record, self.language), status=status, etag=record.etag)


class CoursesHandler(CourseHandler):
    """All courses of the caller."""

    async def get(self) -> None:
        found = await courses.mine(self.house, self.caller)
        self.give(models.Courses(courses=[models.CourseSummary(**_summary(record)) for record in found]))

    async def post(self) -> None:
        sent = self.body(models.NewCourse)
        self.give_course(
            await courses.create(self.house, self.caller, sent.slug, sent.text, comment=sent.comment), status=201
        )


class OneCourseHandler(CourseHandler):
    """One course."""

    async def get(self, slug: str) -> None:
        self.give_course(await courses.get(self.house, self.caller, slug))

    async def put(self, slug: str) -> None:
        based_on, sent = self.if_match, self.body(models.CourseText)
        saved = await courses.save(self.house, self.caller, slug, sent.text, if_match=based_on, comment=sent.comment)
        self.give_course(saved)

    async def patch(self, slug: str) -> None:
        based_on, sent = self.if_match, self.body(models.CourseState)
        self.give_course(await courses.set_state(self.house, self.caller, slug, sent.state, if_match=based_on))


class YamlHandler(CourseHandler):
    """A course as YAML, to keep and to send back."""

    async def get(self, slug: str) -> None:
        record = await courses.get(self.house, self.caller, slug)
        self.set_header("Content-Type", f"{YAML}; charset=UTF-8")
        self.set_header("Content-Disposition", f'attachment; filename="{record.slug}.yaml"')
        if record.etag:
            self.set_header("ETag", f'"{record.etag}"')
        self.finish(record.text)

    async def put(self, slug: str) -> None:
        based_on, text = self.if_match, self.text_body(YAML, "text/yaml", "text/plain")
        self.give_course(await courses.save(self.house, self.caller, slug, text, if_match=based_on))


class DuplicateHandler(CourseHandler):
    """A new course with another's profiles."""

    async def post(self, slug: str) -> None:
        sent = self.body(models.Duplicate)
        self.give_course(await courses.duplicate(self.house, self.caller, slug, sent.slug), status=201)


class LintHandler(CourseHandler):
    """What would be wrong with a text, and how many seats it gives. Changes nothing."""

    async def post(self, slug: str) -> None:
        sent = self.body(models.ToLint)
        self.give(self._told(await courses.lint(self.house, self.caller, slug, sent.text, students=sent.students)))

    def _told(self, lint: Lint) -> models.Lint:
        seats = [
            models.SeatsOf(
                profile=profile,
                variant=number,
                places=found.places if found else None,
                needed=found.needed if found else None,
                text=self.say(in_words(found)) if found else None,
            )
            for profile, variants in lint.seats
            for number, found in enumerate(variants, start=1)
        ]
        return models.Lint(
            ok=lint.course is not None, flaws=[flaw_model(flaw, self.language) for flaw in lint.flaws], seats=seats
        )


class ProfilesHandler(CourseHandler):
    """The profiles of a course as their forms show them."""

    async def get(self, slug: str) -> None:
        record = await courses.get(self.house, self.caller, slug)
        found = [profile.slug for profile in record.course.profiles] if record.course else []
        self.give(models.Profiles(profiles=[self._listed(record, each) for each in found]))

    def _listed(self, record: CourseRecord, profile: str) -> models.Profile:
        """One profile of the list; one that has no form hides none of the others."""
        try:
            return _profile(record, profile)
        except Invalid as exc:
            return models.Profile(**_about(record, profile), form={}, yaml_only=self.say(exc.message))


class ProfileHandler(CourseHandler):
    """One profile of a course."""

    async def get(self, slug: str, profile: str) -> None:
        record = await courses.get(self.house, self.caller, slug)
        self.give(_profile(record, profile), etag=record.etag)

    async def put(self, slug: str, profile: str) -> None:
        based_on, sent = self.if_match, self.body(models.ProfileForm)
        saved = await courses.save_profile(
            self.house, self.caller, slug, profile, sent.form, if_match=based_on, comment=sent.comment
        )
        self.give_course(saved)


def course_model(record: CourseRecord, language: str) -> models.Course:
    """A course with its text, as programs get it."""
    commit = record.commit
    return models.Course(
        **_summary(record),
        text=record.text,
        flaws=[flaw_model(flaw, language) for flaw in record.flaws],
        file=record.file,
        commit=models.Commit(
            hash=commit.hash, at=commit.at, subject=commit.subject, author=commit.author, changed=commit.changed
        )
        if commit
        else None,
    )


def flaw_model(flaw: LoaderFlaw, language: str) -> models.Flaw:
    """A flaw in the reader's language."""
    message = i18n.translate(flaw.message, language)
    return models.Flaw(path=flaw.path, message=message, line=flaw.line, column=flaw.column)


def _summary(record: CourseRecord) -> dict[str, object]:
    return {
        "slug": record.slug,
        "title": dict(record.title),
        "summary": dict(record.summary),
        "origin": record.origin,
        "state": record.state,
        "standing": record.standing.value,
        "etag": record.etag,
        "revision": record.revision,
        "changed_by": record.changed_by,
        "changed_at": record.changed_at,
        "profiles": [profile.slug for profile in record.course.profiles] if record.course else [],
        "problems": len(record.flaws),
        "shadowed": record.shadowed,
    }


def _profile(record: CourseRecord, slug: str) -> models.Profile:
    """One profile with its form. Raises Missing, and Invalid for one that no form can show."""
    about = _about(record, slug)
    try:
        form = profile_as_form(record.text, slug)
    except NotEditable as exc:
        raise Invalid(exc.message) from exc
    return models.Profile(**about, form=form)


def _about(record: CourseRecord, slug: str) -> dict[str, Any]:
    """What is said of a profile beside its form. Raises Missing."""
    course = record.course
    found = next((each for each in course.profiles if each.slug == slug), None) if course else None
    if course is None or found is None:
        raise Missing(Sentence(words.NO_PROFILE.template, profile=slug))
    return {"slug": slug, "key": course.key(found), "title": dict(found.title)}


ROUTES = (
    Route(
        path="courses",
        handler=CoursesHandler,
        operations={
            "get": Operation(
                name="listCourses", about="The courses that the caller may see.", scope=READ, gives=models.Courses
            ),
            "post": Operation(
                name="createCourse",
                about="Make a course, as a draft, with the caller as its first instructor.",
                scope=SELF,
                takes=models.NewCourse,
                gives=models.Course,
                status=201,
                etag=True,
                refuses=(409, 422),
            ),
        },
    ),
    Route(
        path="courses/{slug}",
        handler=OneCourseHandler,
        operations={
            "get": Operation(
                name="readCourse", about="One course with its text.", scope=READ, gives=models.Course, etag=True
            ),
            "put": Operation(
                name="saveCourse",
                about="Write the course's new text.",
                scope=WRITE,
                takes=models.CourseText,
                gives=models.Course,
                guarded=True,
                etag=True,
                refuses=(409, 422),
            ),
            "patch": Operation(
                name="setCourseState",
                about="Publish the course, take it back to a draft, or archive it.",
                scope=WRITE,
                takes=models.CourseState,
                gives=models.Course,
                guarded=True,
                etag=True,
                refuses=(409, 422),
            ),
        },
    ),
    Route(
        path="courses/{slug}/yaml",
        handler=YamlHandler,
        operations={
            "get": Operation(
                name="exportCourse", about="The course's text as a file.", scope=READ, gives_type=YAML, etag=True
            ),
            "put": Operation(
                name="importCourse",
                about="Write the course's new text from a file.",
                scope=WRITE,
                takes_type=YAML,
                gives=models.Course,
                guarded=True,
                etag=True,
                refuses=(409, 422),
            ),
        },
    ),
    Route(
        path="courses/{slug}/duplicate",
        handler=DuplicateHandler,
        operations={
            "post": Operation(
                name="duplicateCourse",
                about="Make a new course with this one's profiles; its people do not come along.",
                scope=READ,
                takes=models.Duplicate,
                gives=models.Course,
                status=201,
                etag=True,
                refuses=(409, 422),
            )
        },
    ),
    Route(
        path="courses/{slug}/lint",
        handler=LintHandler,
        operations={
            "post": Operation(
                name="lintCourse",
                about="What would be wrong with a text, and how many seats it gives. Changes nothing.",
                scope=READ,
                takes=models.ToLint,
                gives=models.Lint,
                refuses=(422,),
            )
        },
    ),
    Route(
        path="courses/{slug}/profiles",
        handler=ProfilesHandler,
        operations={
            "get": Operation(
                name="listProfiles", about="The profiles as their forms show them.", scope=READ, gives=models.Profiles
            )
        },
    ),
    Route(
        path="courses/{slug}/profiles/{profile}",
        handler=ProfileHandler,
        operations={
            "get": Operation(
                name="readProfile", about="One profile as its form.", scope=READ, gives=models.Profile, etag=True
            ),
            "put": Operation(
                name="saveProfile",
                about="Change one profile; the rest of the course's text stays as it is.",
                scope=WRITE,
                takes=models.ProfileForm,
                gives=models.Course,
                guarded=True,
                etag=True,
                refuses=(409, 422),
            ),
        },
    ),
)
