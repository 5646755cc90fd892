"""In a real JupyterLab: the warning before a server stops, Extend, and what is saved before the end.

A Jupyter server with our extension found through its environment, a hub double that says what a labspawner hub says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hubdouble import HubDouble, a_hub
from jupyterserver import BASE, SECRET, JupyterServer, a_jupyter_server
from web.steps import write

from labspawner.testing.waiting import eventually_sync

playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
pytest.importorskip("jupyterlab", reason="jupyterlab is not installed")
pytestmark = [pytest.mark.web, pytest.mark.timeout(900)]

TOAST = ".Toastify__toast"
# Some toasts go by themselves after seconds, and a slow test may look later.
KEEPS_TOASTS = """
window.keptToasts = [];
new MutationObserver(() => document.querySelectorAll(".Toastify__toast").forEach(toast => {
  if (!window.keptToasts.includes(toast.textContent)) window.keptToasts.push(toast.textContent);
})).observe(document, {childList: true, subtree: true, characterData: true});
"""
LONG_MS = 400_000
MARKS_S = (600.0, 120.0)


@pytest.fixture(scope="module")
def hub() -> Iterator[HubDouble]:
    with a_hub() as double:
        yield double


@pytest.fixture(scope="module")
def lab(hub: HubDouble, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    with a_jupyter_server(tmp_path_factory.mktemp("lab"), hub_url=hub.url, app="jupyterlab") as server:
        yield server


@pytest.fixture
def open_file(chromium, lab, hub):
    """Open a text file in JupyterLab, in a browser of the given language, and wait until it can be edited."""
    contexts = []

    def open_in(locale: str = "en-US", *, server: JupyterServer = lab) -> playwright.Page:
        hub.end_in(None)
        hub.refuse, hub.left_today, hub.cause = False, 3, "idle"
        (server.home / "notes.txt").write_text("first\n")
        context = chromium.new_context(locale=locale, viewport={"width": 1200, "height": 750})
        context.set_default_timeout(LONG_MS)
        context.add_init_script(KEEPS_TOASTS)
        contexts.append(context)
        page = context.new_page()
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(error.stack or str(error)))
        page.goto(f"{server.url}{BASE}lab/tree/notes.txt?reset&token={SECRET}")
        page.wait_for_selector(".cm-content", timeout=LONG_MS)
        page.locator(".cm-content").click()
        return page

    yield open_in
    for context in contexts:
        context.close()


def toast(page, text: str = ""):
    return page.locator(TOAST).filter(has_text=text).first


def was_told(page, text: str) -> None:
    """Wait until the page has shown a toast with these words, however short."""
    page.wait_for_function("text => window.keptToasts.some(said => said.includes(text))", arg=text, timeout=LONG_MS)


def asked_again(page, times: int) -> None:
    """Wait until the page has had so many more answers of its server."""
    for _ in range(times):
        with page.expect_response(re.compile(r"/labspawner/status"), timeout=LONG_MS):
            pass


def on_disk(server: JupyterServer) -> str:
    return (server.home / "notes.txt").read_text()


def look(page, name: str, request) -> None:
    """A picture for people; where `--basetemp` is kept it can be looked at."""
    folder = Path(request.config._tmp_path_factory.getbasetemp()) / "pictures"
    folder.mkdir(exist_ok=True)
    page.screenshot(path=str(folder / f"{name}.png"), animations="disabled")


def test_a_warning_says_when_and_why_and_extend_reaches_the_hub(open_file, hub, request):
    page = open_file()
    before = len(hub.all("extend"))

    hub.end_in(415, MARKS_S)  # "in 7 min", or in 6 where the page hears of it late
    toast(page, "Your server stops at").wait_for(timeout=LONG_MS)
    said = toast(page).inner_text()
    look(page, "warning", request)
    page.get_by_role("button", name="Extend by 30 min (3 left)").click()
    was_told(page, "Extended: your server now stops at")
    look(page, "extended", request)

    assert re.search(r"stops at \d\d:\d\d \(in [67] min\): idle for 18 min; this profile's limit is 20 min\.", said)
    assert len(hub.all("extend")) == before + 1
    assert hub.left_today == 2
    assert not [problem for problem in page.problems if "@labspawner" in problem]  # JupyterLab's own are not ours
    page.wait_for_function("!document.body.innerText.includes('Your server stops at')")


def test_a_warning_goes_when_the_server_is_used_again(open_file, hub):
    page = open_file()
    hub.end_in(400, MARKS_S)
    toast(page, "Your server stops at").wait_for(timeout=LONG_MS)

    hub.end_in(1800, MARKS_S)

    toast(page, "Your server stops at").wait_for(state="hidden", timeout=LONG_MS)


def test_at_the_last_mark_what_is_open_is_saved_by_itself(open_file, hub, lab, request):
    page = open_file()
    write(page, "second")
    eventually_sync(lambda: "notes.txt" in hub.reports()[-1]["unsaved"], 40, "the hub hears of unsaved work")

    hub.end_in(110, MARKS_S)

    toast(page, "Your server stops at").wait_for(timeout=LONG_MS)
    was_told(page, "Your documents are saved.")
    look(page, "saved", request)
    eventually_sync(lambda: on_disk(lab) == "first\nsecond", 10, "the file on disk has what was written")


def test_what_is_written_after_the_last_mark_is_saved_before_the_end(open_file, hub, lab):
    page = open_file()
    hub.end_in(110, MARKS_S)
    toast(page, "Your server stops at").wait_for(timeout=LONG_MS)

    write(page, "third")
    hub.end_in(40, MARKS_S)

    eventually_sync(lambda: on_disk(lab) == "first\nthird", 40, "the file on disk has what was written")


def test_save_all_saves_at_the_first_mark_too(open_file, hub, lab):
    page = open_file()
    write(page, "by hand")
    hub.end_in(400, MARKS_S)

    page.get_by_role("button", name="Save all").click(timeout=LONG_MS)

    eventually_sync(lambda: on_disk(lab) == "first\nby hand", 20, "the file on disk has what was written")


def test_each_mark_warns_once_and_nothing_is_offered_when_no_extension_is_left(open_file, hub):
    page = open_file()
    hub.left_today = 0
    hub.end_in(400, MARKS_S)
    toast(page, "Your server stops at").wait_for(timeout=LONG_MS)
    said = toast(page).inner_text()
    page.get_by_role("button", name="Save all").click()
    toast(page, "Your server stops at").wait_for(state="hidden", timeout=LONG_MS)
    asked_again(page, 3)
    assert toast(page, "Your server stops at").count() == 0

    hub.end_in(110, MARKS_S)
    toast(page, "Your server stops at").wait_for(timeout=LONG_MS)

    assert "It cannot be extended any more today." in said
    assert page.get_by_role("button", name=re.compile("Extend")).count() == 0


def test_what_the_hub_refuses_is_shown_in_its_words(open_file, hub):
    page = open_file()
    hub.refuse = True
    hub.end_in(400, MARKS_S)

    page.get_by_role("button", name=re.compile("Extend by")).click(timeout=LONG_MS)

    toast(page, "No more extensions today").wait_for(timeout=LONG_MS)


def test_a_chinese_browser_is_warned_in_chinese(open_file, hub, request):
    page = open_file("zh-CN")

    hub.end_in(400, MARKS_S)

    toast(page, "您的服务器将于").wait_for(timeout=LONG_MS)
    look(page, "chinese", request)
    assert "已闲置 18 分钟" in toast(page).inner_text()
    assert page.get_by_role("button", name="延长 30 分钟（剩 3 次）").is_visible()


def test_the_status_bar_counts_down_and_says_what_is_held(open_file, hub, request):
    page = open_file()
    bar = page.locator(".labspawner-bar")

    hub.end_in(719, MARKS_S)  # for as long as can be it is twelve
    playwright.expect(bar).to_have_text("Stops in 12 min unless used", timeout=LONG_MS)
    playwright.expect(bar).to_be_visible()
    look(page, "bar", request)
    hub.hear("hold", {"seconds": 7200})

    playwright.expect(bar).to_have_text(re.compile(r"Kept until \d\d:\d\d"), timeout=LONG_MS)
    hub.hear("hold", {"seconds": 0})


def test_after_the_end_the_page_says_why_and_nothing_else(open_file, hub, tmp_path, request):
    with a_jupyter_server(tmp_path, hub_url=hub.url, app="jupyterlab") as server:
        page = open_file(server=server)
        hub.end_in(110, MARKS_S)
        toast(page, "Your server stops at").wait_for(timeout=LONG_MS)
        hub.end_in(0, MARKS_S)

        def heard() -> bool:
            answer = server.client().call("GET", f"{BASE}labspawner/status").json()["answer"]
            return answer is not None and answer["verdict"] == "cull"

        eventually_sync(heard, 40, "the server has heard of its end")
        asked_again(page, 2)

    page.locator(".jp-Dialog").wait_for(timeout=LONG_MS)
    look(page, "ended", request)

    dialogs = page.locator(".jp-Dialog").all_inner_texts()
    assert len(dialogs) == 1
    assert "Your server has stopped" in dialogs[0]
    assert "idle for 18 min" in dialogs[0]


def test_where_no_labspawner_hub_started_the_server_nothing_is_asked(chromium, tmp_path):
    with a_jupyter_server(
        tmp_path, hub_url="", app="jupyterlab", extra={"LABSPAWNER_LEASE_ID": "", "JUPYTERHUB_API_TOKEN": ""}
    ) as server:
        page = chromium.new_page()
        page.set_default_timeout(LONG_MS)
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{server.url}{BASE}lab?reset&token={SECRET}")
        page.wait_for_selector(".jp-LauncherCard", timeout=LONG_MS)
        page.close()

        assert any("@labspawner/lab/static/plugins.js" in url for url in asked)
        assert not any(f"{BASE}labspawner/" in url for url in asked)
        assert "not started by a labspawner hub" in server.log()
