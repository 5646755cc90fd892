"""A machine's desktop in a real browser, on the cluster's double: what it draws is seen, what is typed arrives, and who
looks is asked for and shown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from web import steps

from labspawner.hubid import kept_hub_id
from labspawner.service.desktop import novnc
from labspawner.testing.hub import end_all_of, free_ports, keep_ports
from labspawner.testing.pve import PveDouble
from labspawner.testing.pve.console import BACKGROUND, Screen
from labspawner.testing.waiting import eventually_sync

playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
pytestmark = [pytest.mark.web, pytest.mark.hub, pytest.mark.timeout(900)]

REPO = Path(__file__).parents[2]
PASSWORD = "open-sesame"
LONG_MS, LONG_S = 240_000, 60.0
COURSE = """
course: dl101
title: {{en: Machines, zh-CN: 虚拟机}}
profiles:
  - slug: desk
    title: {{en: Windows desktop, zh-CN: Windows 桌面}}
    variants: [{{provider: proxmox, template: "{template}", cpu: 1, memory: 256MiB, settings: {{jupyter: false}}}}]
    idle: {{after: 2h, action: stop}}
"""
CONFIG = """
from labspawner import wiring
c = get_config()
load_subconfig({product!r})
c.Labspawner.providers = {{"proxmox": {provider!r}}}
wiring.run_desktop(c)
"""
# The colour of the picture where the double draws nothing: of a canvas that noVNC has scaled.
CORNER = """
() => {
  const canvas = document.querySelector("#screen canvas");
  if (!canvas || !canvas.width) return null;
  return [...canvas.getContext("2d").getImageData(1, 1, 1, 1).data].slice(0, 3);
}
"""


class Lab:
    """A running `labspawner up`, and the cluster behind it."""

    def __init__(self, folder: Path, pve: PveDouble) -> None:
        self.folder, self.pve = folder, pve
        self._port, self._hub_port, self._proxy_port = free_ports(3)
        keep_ports(folder / "data")
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it says that it is ready."""
        environment = {
            **os.environ,
            "LABSPAWNER_DEMO_PASSWORD": PASSWORD,
            "LABSPAWNER_COURSES_DIR": str(self.folder / "courses"),
            "LABSPAWNER_HUB_PORT": str(self._hub_port),
            "LABSPAWNER_PROXY_API_PORT": str(self._proxy_port),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        where = ["--port", str(self._port), "--config", str(self.folder / "config.py")]
        command = [sys.executable, "-c", "from labspawner.cli import main; main()", "up", *where]
        with (self.folder / "up.log").open("w") as log:
            self._process = subprocess.Popen(
                [*command, "--data-dir", str(self.folder / "data")],
                env=environment, stdout=log, stderr=log, cwd=self.folder,
            )  # fmt: skip
        eventually_sync(self._is_up, deadline_s=90, what="labspawner up says that it is ready")

    def _is_up(self) -> bool:
        printed = (self.folder / "up.log").read_text()
        if self._process is not None and self._process.poll() is not None:
            pytest.fail(f"labspawner up ended with {self._process.returncode}:\n{printed}")
        return bool(re.search(r"password: ", printed))

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=240)

    def restart(self) -> None:
        """As an administrator does it; servers go on."""
        self.stop()
        self.start()

    def screen(self) -> Screen:
        """Of the one student's machine that there is."""
        (vm,) = [vm for vm in self.pve.vms() if not vm.template]
        found: Screen = self.pve.screens.screen(vm.vmid)
        return found

    def pace(self, pace: float) -> None:
        """As fast as the double can, or as slow as people are."""
        self.pve.call(lambda inside: inside.clock.set_pace(pace))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The product with machines; nothing of it is left afterwards."""
    if novnc.find() is None:
        pytest.skip("noVNC is not installed (npm install --global @novnc/novnc, or apt-get install novnc)")
    folder = tmp_path_factory.mktemp("desktop-lab")
    with PveDouble(nodes=("pve1",)) as pve:
        provider = {
            "endpoints": pve.url, "token": pve.token, "ca_file": str(pve.ca_file), "pool": pve.pool,
            "addresses": {"default": pve.address_pool}, "storage_reserve": "1MiB", "node_reserve": "1MiB",
            "pace": pve.pace,
        }  # fmt: skip
        (folder / "courses").mkdir()
        (folder / "courses" / "dl101.yaml").write_text(COURSE.format(template=pve.template), encoding="utf-8")
        product = str(REPO / "jupyterhub_config.py")
        hub_id = kept_hub_id(folder / "data")
        text = CONFIG.format(product=product, provider=provider)
        (folder / "config.py").write_text(text, encoding="utf-8")
        running = Lab(folder, pve)
        try:
            running.start()
            yield running
        finally:
            running.stop()
            end_all_of(hub_id)


@pytest.fixture
def window(chromium: playwright.Browser, lab: Lab) -> Iterator[Callable[..., playwright.Page]]:
    """A new window per call, of somebody who has logged in: `window(user, language, width)`."""
    contexts = []

    def opened(user: str, language: str = "en", width: int = 1280) -> playwright.Page:
        context = chromium.new_context(base_url=lab.url, locale=language, viewport={"width": width, "height": 800})
        contexts.append(context)
        context.set_default_timeout(LONG_MS)
        page = context.new_page()
        page.goto("/hub/login")
        page.fill("#username_input", user)
        page.fill("#password_input", PASSWORD)
        page.click("#login_submit")
        page.wait_for_url(lambda url: "/login" not in url)
        return page

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture
def look(screenshots: Path) -> Callable[[playwright.Page, str], None]:
    """Takes a picture of a page."""
    return lambda page, name: page.screenshot(path=str(screenshots / f"desktop-{name}.png")) and None


def drawn(page: playwright.Page) -> bool:
    return page.evaluate(CORNER) == list(BACKGROUND)


def connected(page: playwright.Page) -> None:
    """Wait for the picture. A page that came too late for its first ticket comes again by itself."""
    page.locator("#desk[data-look=connected]").wait_for()
    eventually_sync(lambda: drawn(page), LONG_S, "the machine's picture is drawn")


def test_a_desktop_is_seen_used_lost_and_shared(
    window: Callable[..., playwright.Page], lab: Lab, look: Callable[[playwright.Page, str], None]
) -> None:
    student = window("student1")
    student.goto("/hub/spawn/student1")
    student.locator("input[name=profile][value='dl101/desk']").check()
    student.click("#lab-start")

    # A server that is nothing but a desktop opens as one.
    student.wait_for_url("**/services/desktop/student1/")
    lab.pace(1.0)
    connected(student)
    look(student, "connected")

    # What is typed arrives, by key and by the page's own tools.
    screen = lab.screen()
    student.locator("#screen canvas").click()
    student.keyboard.type("Hi")
    eventually_sync(lambda: screen.typed == "Hi", LONG_S, "the keys arrive")
    student.click("#clip-toggle")
    student.fill("#clip-text", " you")
    look(student, "clipboard")
    student.click("#clip-type")
    eventually_sync(lambda: screen.typed == "Hi you", LONG_S, "what is typed for us arrives")
    student.fill("#clip-text", "copied")
    student.click("#clip-send")
    eventually_sync(lambda: screen.cut_texts[-1:] == ["copied"], LONG_S, "the clipboard arrives")
    student.click("#clip-toggle")
    student.click("#keys")
    eventually_sync(lambda: (True, 0xFFFF) in screen.keys, LONG_S, "Ctrl+Alt+Del arrives")

    # A connection that is lost comes again, by a new console.
    before = screen.connections
    screen.drop()
    eventually_sync(lambda: screen.connections > before, LONG_S, "the page comes again")
    connected(student)

    # Keys lead out of the screen, for who has no mouse.
    student.locator("#screen canvas").focus()
    student.keyboard.press("Control+Alt+Shift")
    assert student.evaluate("document.activeElement.id") == "clip-toggle"

    # A hub that restarts takes the picture away and brings it back, without a click.
    before = screen.connections
    lab.restart()
    eventually_sync(lambda: screen.connections > before, LONG_S, "the page comes again to the new hub")
    connected(student)

    # Nobody else looks, unless the owner agrees.
    other = window("student2")
    assert other.goto("/services/desktop/student1/").status == 403
    look(other, "refused")
    teacher = window("teacher", "zh-CN")
    assert teacher.goto("/services/desktop/student1/").status == 403
    look(teacher, "ask-zh")
    student.click("#share-toggle")
    student.click("#share-give")
    student.locator("#share-take").wait_for()
    teacher.reload()
    connected(teacher)
    student.locator("#guests", has_text="teacher").wait_for()
    look(student, "shared")
    look(teacher, "guest-zh")
    student.click("#share-take")
    teacher.locator("#card-words", has_text="所有者不再共享此屏幕").wait_for()
    look(teacher, "withdrawn-zh")
    student.locator("#guests").wait_for(state="hidden")
    eventually_sync(lambda: drawn(student), LONG_S, "the owner still sees the picture")

    # On a phone, and from the card of the hub's page.
    phone = window("student1", "zh-CN", 390)
    phone.goto("/hub/home")
    look(phone, "home-zh-390")
    phone.goto(phone.locator("#lab-desktop").get_attribute("href"))
    connected(phone)
    look(phone, "connected-zh-390")
    student.locator("#card-words", has_text="another window").wait_for()
    look(student, "taken-over")

    # Off is said, with the way back on.
    lab.pace(1000.0)
    student.goto("/hub/home")
    look(student, "home")
    steps.stop(student)
    phone.locator("#start").wait_for()
    look(phone, "off-zh-390")
    assert phone.locator("#start").get_attribute("href") == "/hub/spawn/student1"
    eventually_sync(lambda: screen.open == 0, LONG_S, "no console is left open")
