"""What the instructor's pages share: the course that they are about, what was just done, and care for what was typed."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

from labspawner.pages.handlers import is_local_path
from labspawner.sentences import Sentence
from labspawner.service.console import words
from labspawner.service.console.base import ConsoleHandler
from labspawner.service.console.doing import courses
from labspawner.service.console.doing.records import CourseRecord
from labspawner.service.console.pages.base import PageHandler
from labspawner.service.console.pages.render import render
from labspawner.service.console.pages.shown import course_view
from labspawner.service.console.problems import Away, LogIn, Problem, title_of
from labspawner.service.console.rights import Verb
from labspawner.service.console.views import CourseView

DONE = {
    "created": Sentence("The course is made. Try its profile yourself, then publish it."),
    "saved": Sentence("Saved. It counts from the next start on; servers that run keep what they were started with."),
    "published": Sentence("Published: students see the course now."),
    "draft": Sentence("A draft again: only staff see it."),
    "archived": Sentence("Archived. You find it at the end of your courses."),
    "rolled-back": Sentence("The older text is in force again, as a new revision."),
    "people": Sentence("The list of people is changed."),
    "removed": Sentence("Removed."),
    "cancelled": Sentence("It is being cancelled; what has begun is finished."),
    "same": Sentence("Nothing was changed, so nothing was saved."),
}
"""What a page says after a form was sent, by the word in its address: nothing else can be put there."""


class InstructorPage(PageHandler):
    """A page of the instructor. What somebody typed is given back to them where it cannot be taken. live: a script asks."""

    live = False

    # -- what was sent ---------------------------------------------------------------------------------------------

    def text(self, name: str) -> str:
        """What was typed into a field, with plain line ends; empty where it was not sent."""
        return self.get_body_argument(name, "", strip=False).replace("\r\n", "\n").replace("\r", "\n")

    def line(self, name: str) -> str:
        """The same of a field of one line, without blanks around it."""
        return " ".join(self.text(name).split())

    def sent(self) -> dict[str, str]:
        """All fields; of one that was sent several times (tick boxes) all values, with commas between."""
        return {
            name: ",".join(self.get_body_arguments(name, strip=False)).replace("\r\n", "\n")
            for name in self.request.body_arguments
        }

    def number(self, name: str, *, least: int, most: int, otherwise: int) -> int:
        """A number that was sent or asked for, within its bounds."""
        try:
            return min(most, max(least, int(self.get_argument(name, ""))))
        except ValueError:
            return otherwise

    # -- the course ------------------------------------------------------------------------------------------------

    async def record(self, slug: str, verb: Verb = Verb.READ) -> CourseRecord:
        """The course, for somebody who may do this with it. Raises Missing and Refused."""
        self.require(verb, slug)
        return await courses.get(self.house, self.caller, slug)

    def view(self, record: CourseRecord) -> CourseView:
        return course_view(record, self.caller, self.house.groups(record.slug))

    async def show_course(self, template: str, record: CourseRecord, tab: str, **values: Any) -> None:
        """A page of one course. tab: which of its ways is this one."""
        said = DONE.get(self.get_query_argument("done", ""))
        await self.show(template, **{"course": self.view(record), "tab": tab, "done": said, **values})

    def to(self, slug: str, *rest: str, done: str = "") -> None:
        """Go on to a page of the course, which says what was done."""
        place = self.frame().url("courses", slug, *(rest or ("",))).removeprefix(self.house.prefix)
        self.go(f"{place}?done={done}" if done else place)

    # -- nothing typed is lost -------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Read what was sent also while the hub does not answer, to give it back."""
        try:
            await super().prepare()
        except Away as away:
            if self.request.method != "POST" or self.live:
                raise
            self._keep(away)

    def _nobody(self) -> None:
        """Read what was sent even from somebody whose log-in has ended, to give it back."""
        if self.request.method != "POST" or self.live:
            super()._nobody()
        else:
            self._keep(LogIn(words.LOG_IN))

    def _keep(self, problem: Problem) -> None:
        """Answer with the problem after the body was read, and do nothing else."""

        def keep(*_: str) -> None:
            self._take_body()
            raise problem

        setattr(self, "post", keep)  # noqa: B010 - a method for this request alone

    def write_problem(self, problem: Problem) -> None:
        if self.request.method != "POST":
            super().write_problem(problem)
        elif (why := _why_kept(problem)) and self.request.body_arguments and self._from_our_page():
            self._give_back(why)
        elif back := self._came_from():
            title = title_of(problem.status)
            self._write(
                "error.html", status=problem.status, title=title, message=problem.message, again=False, back=back
            )
        else:
            super().write_problem(problem)

    def _give_back(self, why: str) -> None:
        """The form as it was sent, to send it again."""
        fields = [
            (name, value.decode("utf-8", "replace").replace("\r\n", "\n"))
            for name, values in self.request.body_arguments.items()
            if name != "_xsrf"
            for value in values
        ]
        self._write("expired.html", fields=fields, action=self.request.path or self.house.prefix, why=why)

    def _write(self, template: str, **values: Any) -> None:
        body = render(self.frame(), template, **values).encode()
        self.set_header("Content-Type", "text/html; charset=UTF-8")
        self.set_header("Content-Length", str(len(body)))
        self.write(body)

    def _came_from(self) -> str:
        """The page of ours that a form stood on; empty where no such page says so."""
        parts = urlsplit(self.request.headers.get("Referer", ""))
        ours = parts.netloc.lower() in self.house.hosts(self.request.host)
        return parts.path if ours and is_local_path(parts.path, self.house.prefix) else ""

    def _from_our_page(self) -> bool:
        """Whether a browser says that a page of this host sent it: nobody else's text is shown as somebody's own."""
        origin = self.request.headers.get("Origin", "")
        ours = urlsplit(origin).netloc.lower() in self.house.hosts(self.request.host) if origin else False
        return ours and self.request.headers.get("Sec-Fetch-Site", "same-origin") == "same-origin"


def _why_kept(problem: Problem) -> str:
    """Why something was not taken that may be sent again as it is: `out`, `old` or `away`; empty where it is not so."""
    if problem.status >= 500:
        return "away"
    return {"log-in": "out", "forged": "old"}.get(problem.kind, "")


class LiveAnswer(InstructorPage):
    """What a page's script asks for. Errors are JSON, and nobody is sent to the log-in."""

    live = True

    def _nobody(self) -> None:
        raise LogIn(words.LOG_IN)

    def write_problem(self, problem: Problem) -> None:
        ConsoleHandler.write_problem(self, problem)

    def tell(self, **answer: Any) -> None:
        """Answer JSON that nobody keeps."""
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(answer))

    def html(self, template: str, **values: Any) -> str:
        """A part of a page, rendered and escaped."""
        return render(self.frame(), template, **values)
