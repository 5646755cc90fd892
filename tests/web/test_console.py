"""A course from nothing and a class that is run, in a real browser in front of the real product: a teacher, a colleague, and
students."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from web import axe
from web.steps import follow

from labspawner.hubid import kept_hub_id
from labspawner.testing.hub import end_all_of, free_ports
from labspawner.testing.waiting import eventually_sync

playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
pytestmark = [pytest.mark.web, pytest.mark.hub, pytest.mark.timeout(900)]

REPO = Path(__file__).parents[2]
PASSWORD = "open-sesame"
LONG_MS, LONG_S = 240_000, 60.0
PORTS_TRIED = 6
STUDENTS = [f"student{number}" for number in range(1, 31)]
HOST = {
    "name": "node1",
    "cpu": 64,
    "memory": "256GiB",
    "cards": [{"uuid": f"GPU-{number}", "memory": "24564MiB"} for number in range(2)],
}
CONFIG = f"""
from labspawner import wiring
c = get_config()
load_subconfig({str(REPO / "jupyterhub_config.py")!r})
c.Labspawner.providers = {{"gpu": {{"kind": "sim", "hosts": [{HOST!r}], "start_s": 0.3}}}}
c.DemoAuthenticator.allowed_users = {{"teacher", "zoe", "admin", *{STUDENTS!r}}}
c.JupyterHub.load_groups = {{"instructors": {{"users": ["teacher", "zoe"]}}}}
wiring.run_desktop(c)
wiring.run_console(c)
"""
Window = Callable[..., "playwright.Page"]


class Lab:
    """A running `labspawner up` with two simulated GPUs, and no course."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""
        self._command = [sys.executable, "-c", "from labspawner.cli import main; main()"]
        self._where = ["--config", str(folder / "config.py"), "--data-dir", str(folder / "data")]
        self.logged_in: dict[str, Any] = {}  # cookies by user, so that each logs in once
        self._hub_port, self._proxy_port = 0, 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it says that it is ready; on another port where somebody was quicker to take this one."""
        for _ in range(PORTS_TRIED):
            port, self._hub_port, self._proxy_port = free_ports(3)
            self.url = f"http://127.0.0.1:{port}"
            with (self.folder / "up.log").open("w") as log:
                self._process = subprocess.Popen(
                    [*self._command, "up", "--port", str(port), *self._where],
                    env=self._environment(), stdout=log, stderr=log, cwd=self.folder,
                )  # fmt: skip
            if eventually_sync(self._is_up_or_beaten, deadline_s=90, what="labspawner up is ready") == "up":
                return
        pytest.fail(f"{PORTS_TRIED} ports were taken, one after another")

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "LABSPAWNER_DEMO_PASSWORD": PASSWORD,
            "LABSPAWNER_COURSES_DIR": str(self.folder / "courses"),
            "LABSPAWNER_HUB_PORT": str(self._hub_port),
            "LABSPAWNER_PROXY_API_PORT": str(self._proxy_port),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def _is_up_or_beaten(self) -> str:
        """`up`, or `beaten` where its port went to somebody else; empty while neither is so."""
        printed = (self.folder / "up.log").read_text()
        if self._process is not None and self._process.poll() is not None:
            if re.search(r"Port \d+ on 127\.0\.0\.1 is taken", printed):
                return "beaten"
            pytest.fail(f"labspawner up ended with {self._process.returncode}:\n{printed}")
        return "up" if re.search(r"password: ", printed) else ""

    def stop(self) -> None:
        """End it and all that its servers left."""
        if self._process is None:
            return
        self._process.terminate()
        self._process.wait(timeout=240)
        command = [*self._command, "down", "--yes", *self._where]
        subprocess.run(command, env=self._environment(), cwd=self.folder, check=True, timeout=240)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One hub for all tests of this file; each makes courses of its own. Nothing of it is left."""
    folder = tmp_path_factory.mktemp("console-lab")
    (folder / "courses").mkdir()
    hub_id = kept_hub_id(folder / "data")
    (folder / "config.py").write_text(CONFIG, encoding="utf-8")
    running = Lab(folder)
    try:
        running.start()
        yield running
    finally:
        running.stop()
        end_all_of(hub_id)


@pytest.fixture
def window(chromium: playwright.Browser, lab: Lab) -> Iterator[Window]:
    """A new window per call, of somebody who has logged in: `window(user, language, width, scripts=...)`. A script that
    stumbles fails the test."""
    contexts, stumbled = [], []
    playwright.expect.set_options(timeout=LONG_MS)

    def opened(user: str, language: str = "en", width: int = 1280, *, scripts: bool = True) -> playwright.Page:
        context = chromium.new_context(
            base_url=lab.url, locale=language, viewport={"width": width, "height": 900}, java_script_enabled=scripts,
            permissions=["clipboard-read", "clipboard-write"], storage_state=lab.logged_in.get(user),
        )  # fmt: skip
        contexts.append(context)
        context.set_default_timeout(LONG_MS)
        page = context.new_page()
        page.on("pageerror", lambda error: stumbled.append(str(error)))
        page.goto("/hub/home")
        if user not in lab.logged_in:
            page.fill("#username_input", user)
            page.fill("#password_input", PASSWORD)
            page.click("#login_submit")
            page.wait_for_url("**/hub/home")
            lab.logged_in[user] = context.storage_state()
        return page

    yield opened
    for context in contexts:
        context.close()
    assert stumbled == []


def a_course(page: playwright.Page, slug: str, students: list[str], *, published: bool = True) -> str:
    """A course that somebody makes in the form; where it is."""
    page.goto("/services/labspawner/courses/new")
    page.fill("#title_en", f"Course {slug}")
    page.fill("#slug", slug)
    page.fill("#roster", "\n".join(students))
    page.check("#start-notebook")
    page.click("#create")
    page.wait_for_url(f"**/courses/{slug}/**")
    if published:
        follow(page, page.locator("#publish"))
        playwright.expect(page.locator("#course-state")).to_have_text(re.compile("Published|已发布"))
    return f"/services/labspawner/courses/{slug}/"


def fits(page: playwright.Page) -> bool:
    """Whether nothing has to be pushed sideways to be seen."""
    wide: bool = page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    return wide


def state_of(page: playwright.Page, user: str) -> str:
    """What the class wall says of a student."""
    return page.locator(f"#wall-rows tr[data-user='{user}']").get_attribute("data-state") or ""


def test_a_new_instructor_makes_a_course_by_the_steps_of_the_docs_and_a_student_works_in_it(window, screenshots):
    page = window("teacher")
    follow(page, page.locator("#nav-courses"))
    follow(page, page.get_by_role("link", name="New course"))
    page.get_by_label("Name", exact=True).fill("Deep Learning Intro")
    page.get_by_label("Name in Chinese").fill("深度学习导论")
    page.get_by_label("User names").fill("\n".join(STUDENTS))
    playwright.expect(page.get_by_text("30 lines")).to_be_visible()
    page.get_by_label("GPU slice").check()
    page.screenshot(path=str(screenshots / "console-1-new.png"), full_page=True)
    follow(page, page.get_by_role("button", name="Create the course"))
    playwright.expect(page.locator("#wall-rows tr")).to_have_count(30)

    follow(page, page.get_by_role("link", name="Profiles"))
    follow(page, page.get_by_role("link", name="Edit"))
    playwright.expect(page.locator("#seats")).to_contain_text("30 students")
    page.get_by_label("GPU memory").first.fill("5.9GiB")
    playwright.expect(page.locator("#text")).to_have_value(re.compile(r"memory: 5\.9GiB"))
    playwright.expect(page.locator("#seats")).to_contain_text("5.9 GiB")
    follow(page, page.get_by_role("button", name="Save"))
    playwright.expect(page.locator("#done")).to_contain_text("Saved.")
    page.screenshot(path=str(screenshots / "console-2-edit.png"), full_page=True)

    follow(page, page.get_by_role("link", name="Try it as a student"))
    playwright.expect(page.locator("[name=profile]:checked")).to_have_value("deep-learning-intro/slice")
    page.go_back()
    follow(page, page.get_by_role("button", name="Publish"))
    playwright.expect(page.locator("#course-state")).to_have_text("Published")
    follow(page, page.get_by_role("link", name="Links"))
    page.evaluate("window.setTimeout = () => 0")  # the word stays until somebody has looked
    page.locator("[data-copy=link-slice]").click()
    playwright.expect(page.locator("[data-copy=link-slice]")).to_have_text("Copied")
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.input_value("#link-slice")

    wall = window("teacher")
    wall.goto("/services/labspawner/courses/deep-learning-intro/")
    playwright.expect(wall.locator("#wall-rows tr")).to_have_count(30)
    student = window("student7")
    student.goto(link)
    playwright.expect(student.locator("[name=profile]:checked")).to_have_value("deep-learning-intro/slice")
    student.locator("#spawn_form .lab-startbar [type=submit]").click()
    playwright.expect(wall.locator("tr[data-user=student7]")).to_have_attribute(
        "data-state", "running", timeout=LONG_MS
    )
    playwright.expect(wall.locator("#wall-counts")).to_contain_text("1 of 30 running")
    wall.screenshot(path=str(screenshots / "console-3-wall.png"), full_page=True)


def test_a_class_action_goes_on_with_its_page_closed(window, screenshots):
    page = window("teacher")
    place = a_course(page, "closed", STUDENTS[8:18])  # one of the first works elsewhere
    page.check("#all")
    playwright.expect(page.locator("#chosen")).to_have_text("10 chosen")
    page.get_by_role("button", name="Start...").click()
    dialog = page.locator("dialog[open]")
    playwright.expect(dialog).to_contain_text("Start a server for 10 students?")
    page.screenshot(path=str(screenshots / "console-4-confirm.png"))
    dialog.locator("#do-it").click()
    page.wait_for_url("**/jobs/**")
    job = page.url
    page.close()

    later = window("teacher")
    later.goto(job)

    playwright.expect(later.locator(".con-job")).to_contain_text("10 of 10 done")
    later.goto(place)
    playwright.expect(later.locator("#wall-counts")).to_contain_text("10 of 10 running")


def test_what_is_ticked_and_typed_stays_while_the_wall_follows_the_class(window):
    page = window("teacher")
    a_course(page, "ticked", ["student20", "student21", "student22"])
    page.check("[name=who][value=student21]")
    page.fill("#q", "student2")
    other = window("teacher")
    other.goto("/services/labspawner/courses/ticked/")
    other.check("[name=who][value=student20]")
    other.get_by_role("button", name="Start...").click()
    other.locator("dialog[open] #do-it").click()
    other.wait_for_url("**/jobs/**")

    playwright.expect(page.locator("tr[data-user=student20]")).to_have_attribute(
        "data-state", "running", timeout=LONG_MS
    )

    assert page.is_checked("[name=who][value=student21]")
    assert not page.is_checked("[name=who][value=student20]")
    assert page.input_value("#q") == "student2"
    page.get_by_role("button", name="Stop...").click()
    playwright.expect(page.locator("dialog[open]")).to_contain_text("There is nobody to do this for")
    page.keyboard.press("Escape")
    page.check("[name=who][value=student20]")
    page.get_by_role("button", name="Stop...").click()
    playwright.expect(page.locator("dialog[open]")).to_contain_text("Stop one server?")
    playwright.expect(page.locator("dialog[open]")).to_contain_text("What is not saved is lost")


def test_two_instructors_who_save_at_once_lose_not_a_word(window, screenshots):
    teacher = window("teacher")
    place = a_course(teacher, "both", ["student1"])
    teacher.goto(f"{place}roster")
    teacher.fill("#roster", "zoe")
    teacher.select_option("#role", "instructor")
    teacher.click("#preview")
    teacher.click("#apply")
    playwright.expect(teacher.locator("#member-zoe")).to_contain_text("Instructor")
    zoe = window("zoe")
    for page in (teacher, zoe):
        page.goto(f"{place}yaml")
    zoe.fill("#text", zoe.input_value("#text").replace("2GiB", "3GiB"))
    zoe.click("#save")
    playwright.expect(zoe.locator("#done")).to_contain_text("Saved.")

    teacher.fill("#text", teacher.input_value("#text") + "# words of the teacher\n")
    teacher.click("#save")

    playwright.expect(teacher.locator("#conflict")).to_contain_text("zoe saved this course")
    teacher.screenshot(path=str(screenshots / "console-5-conflict.png"), full_page=True)
    assert "# words of the teacher" in teacher.input_value("#text")
    teacher.fill("#text", teacher.input_value("#text").replace("2GiB", "3GiB"))
    teacher.click("#save")
    playwright.expect(teacher.locator("#done")).to_contain_text("Saved.")
    final = teacher.input_value("#text")
    assert "# words of the teacher" in final
    assert "3GiB" in final


def test_problems_are_said_while_one_types_and_lead_to_their_line(window):
    page = window("teacher")
    place = a_course(page, "typing", [])
    page.goto(f"{place}profiles/notebook/edit")
    text = page.input_value("#text")

    page.fill("#text", text.replace("2GiB", "2"))

    playwright.expect(page.locator("#problems li")).to_have_count(1)
    playwright.expect(page.locator("#problems")).to_contain_text("2 has no unit")
    page.locator("#problems a").click()
    line = text[: text.index("2GiB")].count("\n")
    start = page.evaluate("document.getElementById('text').selectionStart")
    assert page.input_value("#text")[:start].count("\n") == line
    page.fill("#text", text.replace("2GiB", "7GiB"))
    playwright.expect(page.locator("[name='variants.0.memory']")).to_have_value("7GiB")
    playwright.expect(page.locator("#problems li")).to_have_count(0)
    page.locator("[name='variants.0.memory']").fill("8GiB")
    playwright.expect(page.locator("#text")).to_have_value(re.compile("8GiB"))
    page.keyboard.press("Control+s")
    playwright.expect(page.locator("#done")).to_contain_text("Saved.")


def test_whoever_is_logged_out_while_writing_loses_nothing(window):
    page = window("teacher")
    place = a_course(page, "expired", [])
    page.goto(f"{place}yaml")
    written = page.input_value("#text") + "# an hour of work\n"
    page.fill("#text", written)
    playwright.expect(page.locator("#problems li")).to_have_count(0)
    kept = page.context.cookies()
    assert {one["name"] for one in kept if one["path"].startswith("/services/") and not one["httpOnly"]} <= {"_xsrf"}
    assert [one for one in kept if one["path"].startswith("/services/") and one["httpOnly"]]
    page.context.clear_cookies()

    page.click("#save")

    playwright.expect(page.locator("#expired")).to_contain_text("What you typed is kept")
    assert "# an hour of work" in page.input_value("textarea[name=text]")
    page.context.add_cookies(kept)
    page.click("#send-again")
    playwright.expect(page.locator("#expired[data-why=old]")).to_be_visible()  # looked at once more, with a new token
    page.click("#send-again")
    playwright.expect(page.locator("#done")).to_contain_text("Saved.")
    assert "# an hour of work" in page.input_value("#text")


def test_all_of_it_works_without_scripts(window):
    page = window("teacher", scripts=False)
    place = a_course(page, "plain", ["student25", "student26"])
    page.goto(f"{place}profiles/notebook/edit")
    page.fill("[name='variants.0.memory']", "3GiB")
    page.click("#save")
    playwright.expect(page.locator("#done")).to_contain_text("Saved.")
    page.goto(place)
    page.check("[name=who][value=student25]")
    page.get_by_role("button", name="Start...").click()
    playwright.expect(page.locator("#confirm")).to_contain_text("Start a server for one student?")
    page.click("#do-it")
    page.wait_for_url("**/jobs/**")

    def done() -> bool:
        page.reload()
        return "1 of 1 done" in page.inner_text(".con-job")

    eventually_sync(done, LONG_S, "the class action is done")
    page.goto(f"{place}history")
    playwright.expect(page.locator("tr.con-added")).to_contain_text("3GiB")


def test_a_chinese_instructor_runs_a_class_on_a_phone(window, screenshots):
    page = window("teacher", "zh-CN", 390)
    place = a_course(page, "phone", ["student28", "student29"])
    assert page.get_attribute("html", "lang") == "zh-CN"
    for place_name in ("", "profiles/", "profiles/notebook/edit", "roster", "links", "usage", "history", "yaml"):
        page.goto(f"{place}{place_name}")
        page.screenshot(
            path=str(screenshots / f"console-phone-{place_name.replace('/', '-') or 'wall'}.png"), full_page=True
        )
        assert fits(page), place_name
    page.goto(place)
    page.check("#all")
    page.get_by_role("button", name="启动……").click()
    page.locator("dialog[open] #do-it").click()
    page.wait_for_url("**/jobs/**")
    playwright.expect(page.locator(".con-job")).to_contain_text("已完成 2 / 2")


def test_a_student_sees_neither_the_console_nor_a_draft(window):
    teacher = window("teacher")
    place = a_course(teacher, "hidden", ["student30"], published=False)

    student = window("student30")

    assert student.locator("#nav-courses").count() == 0
    student.goto(place)
    playwright.expect(student.locator("[data-status='404']")).to_be_visible()
    student.goto("/hub/spawn")
    assert student.locator("[name=profile][value='hidden/notebook']").count() == 0


def test_the_keyboard_alone_is_enough_to_start_a_class(window):
    page = window("teacher")
    a_course(page, "keys", ["student27"])
    page.locator("#q").focus()
    page.keyboard.press("Tab")
    for _ in range(12):
        if page.evaluate("document.activeElement.id") == "all":
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Space")
    playwright.expect(page.locator("#chosen")).to_have_text("1 chosen")
    page.get_by_role("button", name="Start...").focus()
    page.keyboard.press("Enter")
    playwright.expect(page.locator("dialog[open]")).to_be_visible()
    assert page.evaluate("document.querySelector('dialog').contains(document.activeElement)")
    page.keyboard.press("Escape")
    playwright.expect(page.locator("dialog[open]")).to_have_count(0)


def test_the_real_wall_shuts_nobody_out(chromium, lab, window):
    page = window("teacher")
    place = a_course(page, "axe", ["student24"])
    cookies = page.context.cookies()
    context = chromium.new_context(base_url=lab.url, bypass_csp=True)
    try:
        context.set_default_timeout(LONG_MS)
        context.add_cookies(cookies)
        checked = context.new_page()
        checked.goto(place)
        assert axe.faults(checked) == []
    finally:
        context.close()
