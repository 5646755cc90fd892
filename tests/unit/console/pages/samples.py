"""Every page of the instructor with something on it: what tests render, and what is looked at in a browser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

from labspawner.pages.i18n import translate
from labspawner.sentences import Sentence, plain
from labspawner.service.console import views
from labspawner.service.console.pages import gallery, wall
from labspawner.service.console.pages.render import Frame, part_for_many, render
from labspawner.service.console.sharing import Memo

EVIL = """"><script>alert(1)</script><img src=x onerror=alert(2)>'"""
NOW = datetime(2026, 11, 22, 10, 5, tzinfo=timezone.utc)
GIB = 1024**3
CARD = 24_564 * 1024**2
HOSTS = (
    gallery.Host(name="local", kind="local"),
    gallery.Host(name="gpu", kind="kubernetes", cards=(CARD, CARD)),
    gallery.Host(name="vms", kind="proxmox"),
)
NAMES = (
    "张伟",
    "student-with-a-very-long-name-that-does-not-end@mail.university.example",
    "محمد",
    "zoë",
    "🦊fox",
    "o'neil",
)
TEXT = """# Deep learning, autumn
course: dl101
title: {en: Deep Learning Intro, zh-CN: 深度学习导论}
timezone: Asia/Shanghai
profiles:
  - slug: gpu
    title: {en: PyTorch on a GPU slice, zh-CN: PyTorch（GPU 切片）}
    variants:
      - {provider: gpu, cpu: 2, memory: 6GiB, gpu: {memory: 6GiB, cores: 25%}}
    idle: {after: 45m, gpu_after: 20m, warn: [10m, 2m], action: stop}
    limits: {max_age: 4h, per_user: 1}
"""
MAY = views.Can(write=True, roster=True, start=True, stop=True, extend=True, message=True, reset=True, visit=True)


def a_frame(language: str = "en", **changes: Any) -> Frame:
    return Frame(
        **{"language": language, "user": "teacher", "uri": "/services/labspawner/", "xsrf": "token", **changes}
    )


def a_course(evil: str = "", **changes: Any) -> views.CourseView:
    values: dict[str, Any] = {
        "slug": "dl101",
        "title": {"en": f"Deep Learning Intro{evil}", "zh-CN": f"深度学习导论{evil}"},
        "summary": {"en": f"PyTorch with a private GPU slice.{evil}", "zh-CN": "带独立 GPU 切片的 PyTorch 环境。"},
        "published": views.Published.PUBLISHED,
        "etag": '"r7"',
        "revision": 7,
        "changed_by": f"teacher{evil}",
        "changed_at": NOW - timedelta(hours=3),
        "can": MAY,
        "profiles": 2,
        "students": 30,
        "running": 12,
    }
    return views.CourseView(**{**values, **changes})


def a_file_course(evil: str = "") -> views.CourseView:
    """One that stands in a file of a git work tree."""
    origin = views.Origin(
        file="dl101.yaml", commit="1a2b3c4", subject=f"more memory{evil}", author="A. Teacher", at=NOW, changed=True
    )
    return a_course(evil, published=views.Published.FILE, origin=origin)


def a_hub_course(evil: str = "") -> views.CourseView:
    """One that stands in the hub's configuration."""
    return a_course(evil, published=views.Published.HUB, origin=views.Origin(file="c.KubeSpawner.profile_list"))


def a_profile(evil: str = "") -> views.ProfileRow:
    return views.ProfileRow(
        slug="gpu",
        title={"en": f"PyTorch on a GPU slice{evil}", "zh-CN": f"PyTorch（GPU 切片）{evil}"},
        summary={"en": f"For the weekly exercises.{evil}", "zh-CN": "用于每周练习。"},
        icon="🧠",
        chips=(Sentence("GPU {memory}", memory="6 GiB"), Sentence("{count} CPU", count="2")),
        providers=("gpu",),
        default=True,
        seats=plain("24 students x 6 GiB need 7 cards; you have 4: 12 seats"),
        seats_tone=views.Tone.SOON,
        permalink="/hub/spawn?profile=dl101/gpu",
    )


def rows(evil: str = "", count: int = 24) -> list[views.WallRow]:
    meter = views.Meter(words=Sentence("{size} memory", size="5.1 of 6 GiB"), percent=85, tone=views.Tone.SOON)
    running = {
        "activity": views.Activity.RUNNING,
        "profile": {"en": f"PyTorch on a GPU slice{evil}", "zh-CN": f"PyTorch{evil}"},
        "provider": "gpu",
        "host": "node1",
        "use": (meter,),
        "last_activity": NOW - timedelta(minutes=4),
        "verdict": plain(f"a cell runs: train.ipynb{evil}"),
        "verdict_tone": views.Tone.OK,
        "ends_at": NOW + timedelta(hours=2),
        "badge": Sentence("{slice}, tested", slice=Sentence("GPU slice {size}", size="6 GiB")),
        "badge_tone": views.Tone.OK,
    }
    made = []
    for number in range(count):
        name = NAMES[number] + evil if number < len(NAMES) else f"student{number:03}"
        kind = number % 6
        if kind in {0, 1, 3}:
            made.append(views.WallRow(user=name, **running))
        elif kind == 2:
            made.append(
                views.WallRow(
                    user=name,
                    activity=views.Activity.WAITING,
                    note=Sentence("Everything is in use. You are number {place} in line.", place=3),
                    profile=running["profile"],
                    provider="gpu",
                )
            )
        elif kind == 4:
            made.append(
                views.WallRow(
                    user=name,
                    notice=Sentence("idle for {idle}; this profile's limit is {limit}", idle="46 min", limit="45 min"),
                )
            )
        else:
            made.append(views.WallRow(user=name))
    return made


def a_job(evil: str = "", **changes: Any) -> views.JobView:
    started = [
        views.Step(user=f"student{n:02}{evil}", words=Sentence("Running"), tone=views.Tone.OK, done=True)
        for n in range(4)
    ]
    refused = views.Step(user="zoë", words=Sentence("In line"), tone=views.Tone.URGENT, done=True)
    steps = (*started, refused, views.Step(user="last", words=Sentence("In line")))
    values: dict[str, Any] = {
        "id": "j1",
        "verb": "start",
        "title": Sentence("Starting servers"),
        "state": Sentence("Running"),
        "tone": views.Tone.SOON,
        "total": 30,
        "done": 11,
        "failed": 1,
        "by": f"teacher{evil}",
        "at": NOW,
        "steps": steps,
    }
    return views.JobView(**{**values, **changes})


def editor(evil: str = "") -> dict[str, Any]:
    form = {
        "title.en": f"PyTorch{evil}",
        "title.zh-CN": "PyTorch（GPU 切片）",
        "variants.0.provider": "gpu",
        "variants.0.cpu": "2",
        "variants.0.memory": "6GiB",
        "variants.0.gpu.memory": "6GiB",
        "variants.0.gpu.cores": "25%",
        "idle.after": "45m",
        "idle.warn": "10m, 2m",
        "idle.action": "stop",
        "limits.max_age": "4h",
        "hours.0.days": "mon,wed",
        "hours.0.from": "10:00",
        "hours.0.to": "12:00",
        "timezone": "Asia/Shanghai",
        "options.0.was": "size",
        "options.0.name": "size",
        "options.0.title.en": f"How much memory?{evil}",
        "options.0.default": "0",
        "options.0.choices.0.was": "small",
        "options.0.choices.0.name": "small",
        "options.0.choices.0.title.zh-CN": f"小{evil}",
        "options.0.choices.1.was": "large",
        "options.0.choices.1.name": "large",
        "options.0.choices.1.set.memory": "8GiB",
    }
    days = [
        ("mon", "Mon"),
        ("tue", "Tue"),
        ("wed", "Wed"),
        ("thu", "Thu"),
        ("fri", "Fri"),
        ("sat", "Sat"),
        ("sun", "Sun"),
    ]
    return {
        "profile": a_profile(evil),
        "form": form,
        "wrong": {"idle.after": plain(f"45 has no unit{evil}")},
        "text": TEXT + f"# {evil}\n",
        "readable": True,
        "variants": 2,
        "hours": 2,
        "questions": [3, 2],
        "days": days,
        "providers": [("local", "local"), ("gpu", "gpu")],
        **lint(evil),
    }


def lint(evil: str = "") -> dict[str, Any]:
    return {
        "problems": [
            views.ProblemView(line=8, column=20, message=f"the hub has no provider 'gpuu': did you mean 'gpu'?{evil}")
        ],
        "seats": [
            SimpleNamespace(
                tone=views.Tone.SOON,
                words=plain("24 students x 6 GiB need 7 cards; you have 4: 12 seats; 5.9 GiB would give 16"),
            )
        ],
        "students": 30,
        "lint_url": "/services/labspawner/courses/dl101/lint",
        "comment": f"more memory{evil}",
        "trouble": None,
        "unsaved": False,
    }


def revisions(evil: str = "") -> list[views.RevisionRow]:
    return [
        views.RevisionRow(
            revision=n, by="teacher", at=NOW - timedelta(days=7 - n), comment=f"change {n}{evil}", current=n == 7
        )
        for n in range(7, 0, -1)
    ]


def diff(evil: str = "") -> list[views.DiffLine]:
    return [
        views.DiffLine(kind="same", text="course: dl101", old=1, new=1),
        views.DiffLine(kind="removed", text="    memory: 4GiB", old=2),
        views.DiffLine(kind="added", text=f"    memory: 6GiB{evil}", new=2),
        views.DiffLine(kind="gap", text=""),
        views.DiffLine(kind="same", text="limits: {max_age: 4h}", old=9, new=9),
    ]


def people(evil: str = "") -> list[views.Member]:
    return [
        views.Member(
            user=name + evil, role="member", source="csv", added_by="teacher", added_at=NOW, known=name != "zoë"
        )
        for name in (*NAMES, *(f"student{n:02}" for n in range(24)))
    ]


def wall_values(evil: str = "", **changes: Any) -> dict[str, Any]:
    seats = rows(evil)
    found = wall.arranged(seats, wall.Shown())
    return {
        "fresh_url": "/fresh",
        "events_url": "/events",
        "seats": found,
        "counts": wall.counts(seats),
        "total": len(seats),
        "shown": wall.Shown(),
        "running": 12,
        "waiting": 4,
        "jobs": [a_job(evil)],
        "verbs": wall.verbs(MAY),
        "trouble": None,
        "scripted": False,
        **changes,
    }


def pages(evil: str = "") -> Mapping[str, tuple[str, dict[str, Any]]]:
    """Every page by a name: its template and its values. evil: stands in every text that somebody can write."""
    course = a_course(evil)
    inside: dict[str, Any] = {"course": course, "done": None}
    points = gallery.gallery(HOSTS)
    blank: dict[str, Any] = {
        "form": {"start": "slice", "title_en": evil, "roster": evil},
        "wrong": {},
        "gallery": points,
    }
    heavy = ((f"zoe{evil}", 3.5, 1.0),)
    about = {"title.en": evil, "timezone": evil}
    two = [a_profile(evil), replace(a_profile(evil), slug="cpu")]
    confirm = wall.confirmation(wall.verb("stop"), rows(evil)[:5])
    return {
        "courses": (
            "courses.html",
            {
                "cards": [
                    course,
                    a_course(evil, slug="py101", published=views.Published.DRAFT, running=0),
                    a_course(evil, slug="old", published=views.Published.FILE, running=None, problems=1),
                ],
                "archived": [a_course(evil, slug="past", published=views.Published.ARCHIVED)],
                "may_create": True,
                "trouble": None,
                "done": None,
            },
        ),
        "first": ("courses.html", {"cards": [], "archived": [], "may_create": True, "trouble": None, "done": None}),
        "nothing": ("courses.html", {"cards": [], "archived": [], "may_create": False, "trouble": None, "done": None}),
        "new": ("new.html", {**blank, "trouble": None}),
        "new-wrong": (
            "new.html",
            {**blank, "trouble": plain(f"no{evil}"), "wrong": {"slug": Sentence("Too long"), "text": plain("x")}},
        ),
        "wall": ("wall.html", {**inside, "tab": "wall", **wall_values(evil)}),
        "wall-empty": ("wall.html", {**inside, "tab": "wall", **wall_values(evil, total=0, seats=[], jobs=[])}),
        "confirm": (
            "confirm.html",
            {**inside, "tab": "wall", **confirm, "form": {}, "wrong": {}, "profiles": []},
        ),
        "visit": (
            "visit.html",
            {
                **inside,
                "tab": "wall",
                "user": f"zoe{evil}",
                "key": f"zoe{evil}",
                "visit": SimpleNamespace(state="open", sentence=plain(evil or "请稍候"), until=NOW, path="/user/zoe/"),
            },
        ),
        "job": ("job.html", {**inside, "tab": "wall", "job": a_job(evil), "fresh_url": "/f", "events_url": "/e"}),
        "profiles": (
            "profiles.html",
            {
                **inside,
                "tab": "profiles",
                "rows": two,
                "about": about,
                **blank,
                **lint(evil),
            },
        ),
        "edit": ("edit.html", {**inside, "tab": "profiles", **editor(evil)}),
        "yaml": ("yaml.html", {**inside, "tab": "yaml", "text": TEXT + evil, **lint(evil)}),
        "file": (
            "yaml.html",
            {
                **inside,
                "tab": "yaml",
                "text": TEXT + evil,
                **lint(evil),
                "course": a_file_course(evil),
            },
        ),
        "file-profiles": (
            "profiles.html",
            {
                **inside,
                "tab": "profiles",
                "rows": two,
                "about": {},
                **blank,
                **lint(evil),
                "course": a_file_course(evil),
            },
        ),
        "hub-profiles": (
            "profiles.html",
            {
                **inside,
                "tab": "profiles",
                "rows": two,
                "about": {},
                **blank,
                **lint(evil),
                "course": a_hub_course(evil),
            },
        ),
        "conflict": (
            "conflict.html",
            {
                **inside,
                "tab": "yaml",
                "mine": TEXT + evil,
                "theirs": diff(evil),
                "base": diff(evil),
                "by": f"zoe{evil}",
                "at": NOW,
                **lint(evil),
            },
        ),
        "history": (
            "history.html",
            {
                **inside,
                "tab": "history",
                "revisions": revisions(evil),
                "shown": revisions(evil)[1],
                "against": 5,
                "diff": diff(evil),
                "summary": [],
                "before": None,
                "older": 1,
            },
        ),
        "roster": (
            "roster.html",
            {
                **inside,
                "tab": "roster",
                "staff": [views.Member(user="teacher", role="instructor", source="group")],
                "members": people(evil),
                "managed": None,
                "form": {},
                "wrong": {},
                "trouble": None,
            },
        ),
        "roster-preview": (
            "roster_preview.html",
            {
                **inside,
                "tab": "roster",
                "form": {"roster": evil},
                "preview": views.RosterPreview(
                    added=("a", f"b{evil}"),
                    kept=("c",),
                    removed=("d",),
                    refused=(views.RefusedLine(line=3, text=f"x y{evil}", reason=plain("no name")),),
                ),
            },
        ),
        "links": (
            "links.html",
            {
                **inside,
                "tab": "links",
                "rows": [a_profile(evil)],
                "form": {"repo": evil},
                "wrong": {},
                "pulled": "/hub/x?" + evil,
            },
        ),
        "usage": (
            "usage.html",
            {
                **inside,
                "tab": "usage",
                "longest": 80.0,
                "weeks": [
                    views.Week(
                        day=f"2026-11-{day:02}",
                        people=28,
                        users=heavy,
                        hours=80.0 - day,
                        gpu_hours=20.5 + day,
                    )
                    for day in (16, 9, 2)
                ],
            },
        ),
        "duplicate": ("duplicate.html", {**inside, "tab": "", "form": {"slug": evil}, "wrong": {}, "trouble": None}),
        "archive": ("archive.html", {**inside, "tab": ""}),
        "expired": (
            "expired.html",
            {"fields": [("text", TEXT + evil), ("if_match", evil)], "action": "/x", "why": "out"},
        ),
        "error": (
            "error.html",
            {"status": 403, "title": "This is not yours to open", "message": plain(evil or "No."), "again": True},
        ),
    }


def page(name: str, language: str = "en", evil: str = "") -> str:
    template, values = pages(evil)[name]
    return rendered(a_frame(language), template, **values)


def rendered(frame: Frame, template: str, **values: Any) -> str:
    """A page whose long lists are made first, as their handlers do it."""
    if template == "wall.html":
        seats = values.pop("seats")
        states = {activity: translate(activity.words, frame.language) for activity in views.Activity}
        given = {"seats": seats, "can": values["course"].can, "states": states, "visit_url": "/visit"}
        values["rows"] = part_for_many(frame, "wall_rows.html", Memo(), "", lambda: given)
    elif template == "roster.html":
        may_remove = values["may_remove"] = values["course"].can.roster and not values["managed"]
        for name in ("staff", "members"):
            listed = {"people": values[name], "may_remove": may_remove}
            rows = part_for_many(frame, "roster_rows.html", Memo(), name, lambda listed=listed: listed)
            values[name] = {"count": len(listed["people"]), "rows": rows}
    return render(frame, template, **values)
