"""Whole stories of culling by evidence: a real hub and proxy, the local provider, JupyterLab, and a real Chromium.

Limits are seconds here. Whatever a story prepares is prepared under a hold that is given up when the story begins, so that
a slow machine only makes it take longer. When something happened is read from what the product wrote down then: a decision,
the time of a file. What is shown for a few seconds only is kept by the page itself until a test asks for it.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, TypeVar

import pytest
from web import steps

from labspawner.culling.words import span
from labspawner.model import Activity, Decision, Evidence
from labspawner.proxies import proxy_command, reach_sockets
from labspawner.store import Store
from labspawner.testing.days import at_noon
from labspawner.testing.hub import RealHub, free_ports
from labspawner.testing.waiting import eventually_sync
from labspawner.testing.web import Client

playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
pytest.importorskip("jupyterlab", reason="jupyterlab is not installed")
pytestmark = [pytest.mark.web, pytest.mark.hub, pytest.mark.timeout(900)]

# `warned` leaves a slow student the better part of a minute. Others wait for their end in silence.
COURSE = """
course: py101
title: {en: Python Basics, zh-CN: Python 程序设计基础}
profiles:
  - slug: warned
    title: {en: Python notebook, zh-CN: Python 笔记本}
    variants: [{provider: local}]
    idle: {after: 80s, warn: [70s, 30s], extend: {step: 1m, per_day: 2}, action: stop}
  - slug: silent
    title: {en: Python notebook, zh-CN: Python 笔记本}
    variants: [{provider: local}]
    idle: {after: 8s, action: stop}
"""
T = TypeVar("T")
SILENT = timedelta(seconds=8)
WARNED, FIRST_MARK, LAST_MARK, STEP = (timedelta(seconds=seconds) for seconds in (80, 70, 30, 60))
HELD_S = 3600
CONFIG = """
import pathlib
c.JupyterHub.proxy_class = "configurable-http-proxy"
c.ConfigurableHTTPProxy.command = {command!r}
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{port}"
c.Spawner.cmd = ["jupyterhub-singleuser"]
c.Spawner.args = ["--allow-root"]

def _keep_token(spawner):
    draft = pathlib.Path("draft." + spawner.user.name)
    draft.write_text(spawner.api_token)
    draft.rename("token." + spawner.user.name)

c.Spawner.pre_spawn_hook = _keep_token
"""
LONG_MS, LONG_S, AGAIN_S = 240_000, 60, 20.0
TOAST = ".Toastify__toast"
# Some toasts go by themselves after seconds, and a slow test may look later.
KEEPS_TOASTS = """
window.keptToasts = [];
new MutationObserver(() => document.querySelectorAll(".Toastify__toast").forEach(toast => {
  if (!window.keptToasts.includes(toast.textContent)) window.keptToasts.push(toast.textContent);
})).observe(document, {childList: true, subtree: true, characterData: true});
"""
QUIET_LAB = {
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},  # what is saved at the end is saved by us
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
}


class Hub(RealHub):
    """Playwright runs an event loop in this thread, so the store is read in another one."""

    def with_store(self, work: Callable[[Store], Awaitable[T]]) -> T:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(super().with_store, work).result()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealHub]:
    command, (port,) = proxy_command(), free_ports(1)
    hub = Hub(
        tmp_path_factory.mktemp("stories"),
        courses={"py101.yaml": COURSE},
        groups={"course-py101": ["writer", "reader", "trainer", "builder", "holder", "remover"]},
        providers={"local": {"min_free_disk": "1MiB", "unix_sockets": reach_sockets(command)}},
        # Reports so often that a warning is known with most of its time to go.
        settings={"culler_interval_s": 1, "usage_interval_s": 1, "report_every_s": 5},
        culler="on",
        config=CONFIG.format(command=command, port=port) + at_noon(),
    )
    try:
        hub.start()
        yield hub
    finally:
        hub.close()


class Story:
    """One student, one server, and the browser windows that they open."""

    def __init__(self, hub: RealHub, browser: Any, user: str, profile: str, locale: str) -> None:
        self.hub, self.user, self.locale = hub, user, locale
        self.base = f"http://127.0.0.1:{json.loads((hub.folder / 'spec.json').read_text())['proxy_port']}"
        self._browser = browser
        self._contexts: list[Any] = []
        assert hub.ask(user, {"profile": f"py101/{profile}"}).status in {201, 202}
        self.keep()
        hub.wait_ready(user)
        token = hub.api.call("POST", f"/hub/api/users/{user}/tokens", {"scopes": [f"access:servers!user={user}"]})
        self.files = Client(self.base, {"Authorization": f"token {token.json()['token']}"})
        for plugin, settings in QUIET_LAB.items():
            self.send(f"lab/api/settings/{plugin}", {"raw": json.dumps(settings)})

    def keep(self) -> None:
        """Hold the server before it is ready: a limit of seconds must not end what nobody has seen yet."""
        eventually_sync(
            lambda: self._server.call("POST", "/hub/labspawner/hold", {"seconds": HELD_S}).status == 200, LONG_S
        )

    @property
    def _server(self) -> Client:
        """Talks to the hub as the server does."""
        token = self.hub.folder / f"token.{self.user}"
        return Client(self.hub.base, {"Authorization": f"token {token.read_text() if token.exists() else ''}"})

    # -- what the student does -------------------------------------------------------------------------------------

    def browser(self) -> Any:
        """A page in a browser of its own, in which the student has logged in."""
        context = self._browser.new_context(
            base_url=self.base, locale=self.locale, viewport={"width": 1200, "height": 800}
        )
        context.set_default_timeout(LONG_MS)
        context.add_init_script(KEEPS_TOASTS)
        self._contexts.append(context)
        page = context.new_page()
        page.goto("/hub/login?next=/hub/home")
        page.fill("#username_input", self.user)
        page.fill("#password_input", self.hub.password)
        page.click("#login_submit")
        page.wait_for_url("**/hub/home")
        return page

    def lab(self, path: str = "") -> Any:
        """JupyterLab in a new browser, with a document open."""
        page = self.browser()
        page.goto(f"/user/{self.user}/lab{f'/tree/{path}' if path else ''}")
        page.locator("#jp-main-dock-panel").wait_for()
        return page

    def types(self, command: str, done: Callable[[], object]) -> Any:
        """A command in a terminal of a new JupyterLab, once it is `done`.

        A slow page moves the focus when its terminal is there already, and the keys are lost: so it is typed until then,
        each time on an empty line; to run it twice must be harmless.
        """
        page = self.lab()
        page.locator(".jp-LauncherCard", has_text="Terminal").first.click()
        typed_at = 0.0

        def typed() -> bool:
            nonlocal typed_at
            if done():
                return True
            if time.monotonic() - typed_at > AGAIN_S:
                page.locator(".jp-Terminal .xterm-helper-textarea").focus()
                page.keyboard.press("Control+c")  # half a command may have come, and still be running
                page.keyboard.press("Control+u")
                page.keyboard.type(f"{command}\n")
                typed_at = time.monotonic()
            return False

        eventually_sync(typed, LONG_S, f"{command} has worked")
        return page

    def put(self, path: str, content: str) -> None:
        """A text file in the home, as an upload makes it."""
        self.send(f"api/contents/{path}", {"type": "file", "format": "text", "content": content})

    def send(self, path: str, body: object) -> None:
        """Put something in the server."""
        status = self.files.call("PUT", f"/user/{self.user}/{path}", body).status
        assert status in {200, 201, 204}, status

    def hold(self, seconds: int) -> dict[str, Any]:
        answer = self._server.call("POST", "/hub/labspawner/hold", {"seconds": seconds})
        assert answer.status == 200, answer.text
        return dict(answer.json()["hold"])

    # -- what is known of it ---------------------------------------------------------------------------------------

    def begin(self, known: Callable[[Activity], bool]) -> datetime:
        """Give up the hold once the hub knows what the story rests on; the instant."""
        self.wait_until_known(known)
        self.hold(0)
        return utcnow()

    def wait_until_known(self, known: Callable[[Activity], bool]) -> None:
        self.hub.wait_reported(self.user, known)

    def known(self) -> Evidence:
        """What the hub knows of the server's use and of the student's wishes."""
        lease = self.hub.lease(self.user)
        return self.hub.with_store(lambda store: store.standings([lease.id]))[lease.id].evidence

    def watched(self) -> bool:
        """Whether the culler knows how the server is watched; what the hub knows is written for it seconds later."""
        lease = self.hub.lease(self.user)
        found = self.hub.with_store(lambda store: store.standings([lease.id])).get(lease.id)
        return found is not None and found.evidence.expected and found.evidence.host is not None

    def outlives(self, begin: datetime, length: timedelta) -> None:
        """The server runs, without a break, until `length` after `begin`."""
        lease = self.hub.lease(self.user)

        def outlived() -> bool:
            if not self.runs() or self.hub.lease(self.user).id != lease.id:
                raise RuntimeError(f"stopped after {span(utcnow() - begin)}: {self.hub.decisions()}")
            return utcnow() - begin > length

        eventually_sync(outlived, length.total_seconds() + LONG_S, "the server outlives it")

    def runs(self) -> bool:
        return "" in self.hub.servers(self.user)

    def wait_until_culled(self) -> str:
        self.hub.wait_gone(self.user, deadline_s=2 * LONG_S)
        return str(self.cull().reason)

    def cull(self) -> Decision:
        """The decision that ended the server."""
        return self.hub.cull_of(self.user)

    def close_all(self) -> None:
        """Close each tab, as a student who goes home."""
        for context in self._contexts:
            context.close()
        self._contexts.clear()

    def end(self) -> None:
        self.close_all()
        if self.runs():
            self.hub.stop_server(self.user)


@pytest.fixture
def story(hub: RealHub, chromium: Any) -> Iterator[Callable[..., Story]]:
    made: list[Story] = []

    def begun(user: str, profile: str, locale: str = "en-US") -> Story:
        made.append(Story(hub, chromium, user, profile, locale))
        return made[-1]

    yield begun
    for each in made:
        each.end()


def utcnow() -> datetime:
    return datetime.now(timezone.utc)


def used_since(instant: datetime) -> Callable[[Activity], bool]:
    return lambda report: report.last_activity is not None and report.last_activity > instant


def works(report: Activity) -> bool:
    return report.work_count > 0


def toast(page: Any, text: str) -> Any:
    return page.locator(TOAST).filter(has_text=text).first


def was_told(page: Any, text: str) -> None:
    """Wait until the page has shown a toast with these words, however short."""
    page.wait_for_function("text => window.keptToasts.some(said => said.includes(text))", arg=text, timeout=LONG_MS)


def write(page: Any, text: str) -> datetime:
    """Write at the end of the open document; when that began."""
    began = utcnow()
    steps.write(page, text)
    return began


def on_disk(hub: RealHub, user: str, path: str) -> str:
    file = hub.folder / "data" / "providers" / "local" / "homes" / user / path
    return file.read_text() if file.exists() else ""


def saved_at(hub: RealHub, user: str, path: str) -> datetime:
    file = hub.folder / "data" / "providers" / "local" / "homes" / user / path
    return datetime.fromtimestamp(file.stat().st_mtime, timezone.utc)


def look(page: Any, name: str, folder: Path) -> None:
    page.screenshot(path=str(folder / f"story-{name}.png"), animations="disabled")


def test_a_student_is_warned_extends_writes_leaves_and_reads_why(story, hub, screenshots):
    writer = story("writer", "warned")
    writer.put("essay.txt", "first\n")
    page = writer.lab("essay.txt")
    began = write(page, "second\n")
    writer.begin(used_since(began))

    # the warning, and one click on Extend
    toast(page, "Your server stops at").wait_for()
    said = toast(page, "Your server stops at").inner_text()
    look(page, "warned", screenshots)
    page.get_by_role("button", name="Extend by 1 min (2 left)").click()
    was_told(page, "Extended: your server now stops at")
    look(page, "extended", screenshots)

    assert re.search(r"stops at \d\d:\d\d \(in .*\): idle for .*; this profile's limit is 1 min 20 s", said)
    assert hub.lease("writer")
    if on_disk(hub, "writer", "essay.txt") != "first\n":  # saved at the last mark, not at the first
        assert saved_at(hub, "writer", "essay.txt") >= began + WARNED - LAST_MARK

    # the next warning comes after the longer time, and offers what is left
    write(page, "third")
    page.get_by_role("button", name="Extend by 1 min (1 left)").wait_for()
    assert utcnow() - began >= WARNED + STEP - FIRST_MARK

    # nothing is done: what is open is saved at the last mark, which is the last use, and then the server is stopped
    eventually_sync(
        lambda: on_disk(hub, "writer", "essay.txt") == "first\nsecond\nthird", 2 * LONG_S, "what is open is saved"
    )
    reason = writer.wait_until_culled()
    known = writer.cull().evidence
    used, extended = (datetime.fromisoformat(known[name]) for name in ("last_use", "extended_until"))
    assert extended >= began + WARNED + STEP
    assert saved_at(hub, "writer", "essay.txt") >= extended - LAST_MARK
    assert writer.cull().at >= used + WARNED
    assert re.match(r"idle for .*; this profile's limit is 1 min 20 s", reason)
    page.locator(".jp-Dialog").wait_for()
    look(page, "ended", screenshots)
    dialog = page.locator(".jp-Dialog").inner_text()
    assert "Your server has stopped" in dialog
    assert "idle for" in dialog
    writer.close_all()

    # at next login
    home = writer.browser()
    look(home, "home", screenshots)
    assert "idle for" in home.locator("#lab-servers").inner_text().lower()
    assert "Stopped by the rules of its profile" in home.locator("#lab-servers").inner_text()
    home.goto("/hub/spawn/writer")
    look(home, "spawn", screenshots)
    assert "idle for" in home.locator("body").inner_text().lower()


def test_a_forgotten_open_tab_is_warned_in_chinese_and_culled(story, hub, screenshots):
    reader = story("reader", "warned", "zh-CN")
    reader.put("paper.txt", "text\n")
    page = reader.lab("paper.txt")
    reader.begin(used_since(write(page, "note")))

    toast(page, "您的服务器将于").wait_for()
    look(page, "chinese", screenshots)
    said = toast(page, "您的服务器将于").inner_text()
    reader.wait_until_culled()
    page.locator(".jp-Dialog", has_text="您的服务器已停止").wait_for()

    assert "已空闲" in said
    assert reader.cull().evidence["open_pages"] == 1
    home = reader.browser()
    assert "已空闲" in home.locator("#lab-servers").inner_text()
    assert "页面一直打开" in home.locator("#lab-servers").inner_text()


def begin_cell(page):
    """Run the first cell, and see it run."""
    runs = page.locator(".jp-InputPrompt", has_text="[*]").first
    eventually_sync(lambda: steps.tried_cell(page, 0, runs), LONG_S, "the cell runs")


TRAINING = {
    "cells": [
        {
            "cell_type": "code",
            "id": "a1",
            "execution_count": None,
            "metadata": {},
            "outputs": [],
            "source": "import os, time\nwhile not os.path.exists('enough'):\n    time.sleep(0.2)",
        }
    ],
    "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}


def test_a_training_run_with_a_closed_tab_lives_through_three_times_its_limit(story, screenshots):
    trainer = story("trainer", "silent")
    trainer.put("train.ipynb", json.dumps(TRAINING))
    page = trainer.lab("train.ipynb")
    begin_cell(page)
    trainer.wait_until_known(works)
    trainer.close_all()

    begin = trainer.begin(works)
    trainer.outlives(begin, 3 * SILENT)
    home = trainer.browser()
    home.locator("#lab-servers", has_text="1 busy kernel since").wait_for()
    look(home, "training", screenshots)
    assert "in use: a cell of train.ipynb" in home.locator("#lab-servers").inner_text()
    ended = utcnow()
    trainer.put("enough", "")
    reason = trainer.wait_until_culled()

    assert trainer.cull().at - ended > SILENT
    assert re.match(r"idle for .*; this profile's limit is 8 s", reason), reason


def test_a_command_in_a_terminal_is_work_until_it_ends(story, screenshots):
    builder = story("builder", "silent")
    builder.types("{ echo > begun; tail -f /dev/null --pid=$$; }", lambda: on_disk(builder.hub, "builder", "begun"))
    builder.wait_until_known(works)
    builder.close_all()

    begin = builder.begin(works)
    builder.outlives(begin, 3 * SILENT)
    home = builder.browser()
    home.locator("#lab-servers", has_text="A terminal runs tail -f /dev/null").wait_for()
    look(home, "terminal", screenshots)
    (terminal,) = builder.files.call("GET", "/user/builder/api/terminals").json()
    builder.files.call("DELETE", f"/user/builder/api/terminals/{terminal['name']}")
    reason = builder.wait_until_culled()

    assert re.match(r"idle for .*; this profile's limit is 8 s", reason), reason


def test_hold_in_a_terminal_keeps_an_idle_server_and_no_longer(story, screenshots):
    holder = story("holder", "silent")
    page = holder.types(
        "test -e asked || { labspawner hold 2h > said.txt 2>&1 && touch asked; }",
        lambda: "until" in on_disk(holder.hub, "holder", "said.txt"),
    )
    held = utcnow()
    kept = holder.known().held_until
    assert kept > held + timedelta(seconds=HELD_S)  # longer than what the story was prepared under
    page.locator(".labspawner-bar", has_text="Kept until").wait_for()
    look(page, "held", screenshots)
    holder.close_all()

    holder.outlives(held, 3 * SILENT)
    home = holder.browser()
    home.locator("#lab-servers", has_text="you asked to keep it").wait_for()
    look(home, "home-held", screenshots)
    until = datetime.fromisoformat(holder.hold(5)["until"])  # the rest of it is given up
    reason = holder.wait_until_culled()

    assert holder.cull().at >= until
    assert re.match(r"idle for .*; this profile's limit is 8 s", reason), reason


def test_a_server_whose_student_removed_the_extension_is_judged_by_its_host_and_its_traffic(story, hub):
    remover = story("remover", "silent")
    off = json.dumps({"ServerApp": {"jpserver_extensions": {"labspawner.extension": False}}})
    config = ".jupyter/jupyter_server_config.json"
    remover.types(
        f"mkdir -p .jupyter; echo '{off}' > .jupyter/jupyter_server_config.json",
        lambda: on_disk(hub, "remover", config).strip() == off,
    )
    remover.close_all()
    hub.stop_server("remover")
    assert hub.ask("remover", {"profile": "py101/silent"}).status in {201, 202}
    remover.keep()
    hub.wait_ready("remover")
    eventually_sync(remover.watched, LONG_S, "the culler knows that it should report, and what its host sees")
    remover.hold(0)

    reason = remover.wait_until_culled()

    assert "it sends no reports; no traffic came and its host saw no work" in reason
    assert "reported_at" not in remover.cull().evidence
