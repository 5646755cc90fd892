"""The administrators' pages in a real browser, in front of a hub that answers from a table: they fit, they can be read in
both languages and by a screen reader, they follow what happens, and their buttons do what they say."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from unit.console.admin_samples import NOW, everything, examination, servers
from unit.console.standin import HUB_ID, Console, a_console
from web import axe
from web.steps import follow

from labspawner.model import Decision, Handle, Lease, LeaseId, Phase
from labspawner.sentences import Sentence
from labspawner.store import AuditEntry
from labspawner.testing.waiting import eventually_sync

playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
pytestmark = [pytest.mark.web, pytest.mark.timeout(900)]

PAGES = {
    "capacity": "admin/",
    "leases": "admin/leases",
    "lease": "admin/leases/l-gpu-1",
    "lines": "admin/lines",
    "decisions": "admin/decisions",
    "audit": "admin/audit",
    "doctor": "admin/doctor",
}
VIEWS = (("en", 1280, "light"), ("zh-CN", 390, "dark"))
Look = Callable[..., "playwright.Page"]


async def put_on_record(console: Console) -> None:
    """A lease with decisions, and an audit log of two pages."""
    server = servers()[1]
    lease = LeaseId(server["lease"])
    handle = Handle(lease_id=lease, provider="gpu", data={"pod": "jupyter-li-na", "node": "node1"})
    await console.house.store.add(
        Lease(
            id=lease, hub_id=HUB_ID, user=server["user"], server_name="", provider="gpu", profile=server["profile"],
            phase=Phase.READY, created_at=NOW, phase_at=NOW, handle=handle,
        )
    )  # fmt: skip
    reason = Sentence("idle for {idle}; this profile's limit is {limit}", idle="46 min", limit="45 min")
    decision = Decision(
        lease_id=lease,
        user=server["user"],
        server_name="",
        verdict="cull",
        reason=reason,
        evidence={"idle_s": 2760},
        at=NOW,
    )
    await console.house.store.add_decisions([decision])
    entry = AuditEntry(at=NOW, actor="teacher", actor_ip="10.0.0.9", verb="act.stop", course="dl101", subject="li.na",
                       detail={"reason": "the class is over"})  # fmt: skip
    await console.house.store.audit.add(*[entry] * 60)


@contextmanager
def in_a_thread(folder: Path) -> Iterator[Console]:
    """The console on an event loop of its own: Playwright keeps one running in this thread."""
    ready, box = threading.Event(), {}

    async def run() -> None:
        async with a_console(folder, everything()) as console:
            await put_on_record(console)
            box.update(console=console, loop=asyncio.get_running_loop(), over=asyncio.Event())
            ready.set()
            await box["over"].wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    eventually_sync(lambda: ready.is_set() or not thread.is_alive(), 60.0, "the console runs")
    try:
        yield box["console"]
    finally:
        if "loop" in box:
            box["loop"].call_soon_threadsafe(box["over"].set)
        thread.join()


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """One console for all looks; a test that changes what the hub answers puts it back."""
    with in_a_thread(tmp_path_factory.mktemp("admin")) as running:
        yield running


@pytest.fixture(scope="module")
def look(chromium: playwright.Browser, console: Console) -> Iterator[Look]:
    """`look(path, language, width, theme)`: the page of an administrator, in a window that is kept per look."""
    windows: dict[tuple[object, ...], playwright.Page] = {}

    def opened(path: str, language: str = "en", width: int = 1280, theme: str = "light") -> playwright.Page:
        key = (language, width, theme)
        if key not in windows:
            context = chromium.new_context(
                base_url=console.base,
                locale=language,
                viewport={"width": width, "height": 800},
                color_scheme=theme,
                bypass_csp=True,  # for axe alone; that nothing stands inside the pages is a test of its own
                extra_http_headers={"Authorization": "token token-of-admin"},
            )
            context.set_default_timeout(240_000)
            page = windows[key] = context.new_page()
            page.stumbled = []
            page.on("pageerror", lambda error: page.stumbled.append(str(error)))
        page = windows[key]
        page.stumbled.clear()
        page.goto(console.base + path)
        return page

    yield opened
    for page in windows.values():
        page.context.close()


@pytest.fixture
def answers(console: Console) -> Iterator[dict[str, Any]]:
    """What the hub answers, for a test to change."""
    yield console.hub.answers
    console.hub.answers.clear()
    console.hub.answers.update(everything())
    console.hub.told.clear()


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_page_fits_shuts_nobody_out_and_stumbles_over_nothing(look, name, screenshots):
    for language, width, theme in VIEWS:
        page = look(PAGES[name], language, width, theme)

        page.screenshot(path=str(screenshots / f"console-admin-{name}.{language}.{width}.png"), full_page=True)
        assert page.get_attribute("html", "lang") == language
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert page.stumbled == []
        assert axe.faults(page) == []


def test_every_way_between_the_pages_is_reached_by_keyboard(look):
    page = look("admin/")

    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#main"
    page.get_by_role("link", name="Audit log").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/admin/audit")

    assert page.locator("a[aria-current=page]").inner_text() == "Audit log"


def test_the_map_follows_what_happens_and_keeps_what_is_open(look, answers):
    page = look("admin/leases")
    assert page.locator("tbody tr").count() == len(servers())

    answers["state"] = {**answers["state"], "servers": servers()[:2]}

    eventually_sync(lambda: page.locator("tbody tr").count() == 2, 60.0, "the list is shorter")
    assert page.stumbled == []


def test_a_hub_that_goes_away_is_said_and_forgotten_when_it_is_back(look, console, answers):
    page = look("admin/lines")

    console.hub.away = True
    try:
        eventually_sync(lambda: page.locator("#con-trouble").is_visible(), 60.0, "the page says so")
    finally:
        console.hub.away = False

    eventually_sync(lambda: not page.locator("#con-trouble").is_visible(), 60.0, "the page has forgotten it")


def test_a_server_is_ended_with_a_reason_and_the_list_says_so(look, console, answers):
    page = look("admin/leases?q=li.na")

    page.get_by_role("link", name="li.na").click()
    page.get_by_label("Reason").fill("The exam begins.")
    page.get_by_role("button", name="End this server").click()
    page.wait_for_url("**/admin/leases?done=*")

    assert page.locator("#done").inner_text() == "The server of li.na is being ended. Its student reads your reason."
    ((path, wish),) = console.hub.told
    assert (path, wish["verb"], wish["lease"], wish["args"]) == (
        "act",
        "stop",
        "l-gpu-1",
        {"reason": "The exam begins."},
    )


def test_the_browser_asks_for_a_reason_before_anything_is_sent(look, console, answers):
    page = look("admin/leases/l-gpu-1")

    page.get_by_role("button", name="End this server").click()

    assert page.evaluate("document.activeElement.id") == "reason"
    assert console.hub.told == []


def test_doctor_is_asked_and_the_page_follows_it_to_the_end(look, console, answers):
    answers["doctor"] = examination(running=True)
    page = look("admin/doctor")

    page.get_by_role("button", name="Examine now").click()
    page.locator("progress").wait_for()
    answers["doctor"] = examination()

    eventually_sync(lambda: "Some servers will not start." in page.locator("#live").inner_text(), 60.0, "it is over")
    assert [path for path, _ in console.hub.told] == ["doctor"]


def test_the_audit_log_is_searched_and_paged_without_a_script(chromium, console):
    context = chromium.new_context(
        base_url=console.base, java_script_enabled=False, extra_http_headers={"Authorization": "token token-of-admin"}
    )
    context.set_default_timeout(240_000)
    try:
        page = context.new_page()
        page.goto(f"{console.base}admin/audit")
        page.get_by_label("Who", exact=True).fill("teacher")
        follow(page, page.get_by_role("button", name="Search"))
        follow(page, page.get_by_role("link", name="Older entries"))

        assert page.locator("#audit tbody tr").count() == 10
        assert page.get_by_label("Who", exact=True).input_value() == "teacher"
    finally:
        context.close()
