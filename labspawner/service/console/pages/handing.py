"""Links for students, and what the course used."""

from __future__ import annotations

from collections.abc import Mapping

from labspawner.service.console import views
from labspawner.service.console.doing import links, usage
from labspawner.service.console.pages.kept import InstructorPage
from labspawner.service.console.pages.shown import profile_row
from labspawner.service.console.pages.tables import as_csv
from labspawner.service.console.problems import Invalid

_WEEKS = 8
_PULL = ("profile", "repo", "branch", "path")
_FIELDS: Mapping[str, str] = {links.NO_BRANCH: "branch", links.NO_PATH: "path"}


class LinksPage(InstructorPage):
    """Addresses to hand out: one per profile, and one that brings the files of a lesson."""

    async def get(self, slug: str) -> None:
        record = await self.record(slug)
        course = record.course
        rows = []
        for profile in course.profiles if course else ():
            path = await links.permalink(self.house, self.caller, slug, profile.slug)
            rows.append(profile_row(profile, permalink=self._whole(path)))
        form = {name: self.get_query_argument(name, "").strip()[:600] for name in _PULL}
        wrong, pulled = {}, ""
        if form["repo"]:
            known = {row.slug for row in rows}
            profile_slug = form["profile"] if form["profile"] in known else next(iter(sorted(known)), "")
            try:
                path = await links.nbgitpuller(
                    self.house, self.caller, slug, profile_slug,
                    repo=form["repo"], branch=form["branch"], path=form["path"],
                )  # fmt: skip
                pulled = self._whole(path)
            except Invalid as exc:
                wrong[_FIELDS.get(exc.message, "repo")] = exc.message
        await self.show_course("links.html", record, "links", rows=rows, form=form, wrong=wrong, pulled=pulled)

    def _whole(self, path: str) -> str:
        """With the host that the reader uses: it is pasted elsewhere."""
        return f"{self.request.protocol}://{self.request.host}{path}"


class UsagePage(InstructorPage):
    """Hours and GPU hours by week."""

    async def get(self, slug: str) -> None:
        record = await self.record(slug)
        weeks = await self.weeks(slug)
        longest = max((max(week.hours, week.gpu_hours) for week in weeks), default=0.0) or 1.0
        await self.show_course("usage.html", record, "usage", weeks=weeks, longest=longest)

    async def weeks(self, slug: str) -> list[views.Week]:
        """Newest first; weeks before the first use are left out."""
        found = await usage.by_week(self.house, self.caller, slug, weeks=_WEEKS)
        weeks = [
            views.Week(
                day=week.begins.isoformat(),
                people=week.people,
                hours=week.hours,
                gpu_hours=week.gpu_hours,
                users=tuple((one.user, one.hours, one.gpu_hours) for one in week.users),
            )
            for week in sorted(found, key=lambda one: one.begins, reverse=True)
        ]
        while weeks and not weeks[-1].people:
            weeks.pop()
        return weeks


class UsageFile(UsagePage):
    """The same by person, as CSV."""

    async def get(self, slug: str) -> None:
        await self.record(slug)
        rows = [
            [week.day, user, f"{hours:.2f}", f"{gpu_hours:.2f}"]
            for week in await self.weeks(slug)
            for user, hours, gpu_hours in week.users
        ]
        self.set_header("Content-Type", "text/csv; charset=UTF-8")
        self.set_header("Content-Disposition", f'attachment; filename="{slug}-usage.csv"')
        self.finish(as_csv(["week", "user", "hours", "gpu_hours"], rows))
