"""A machine of one's own in a real browser, on the simulated cluster of `labspawner up --pve-sim`: from log-in to a cell in
the VM, its screen, hibernation, and the same machine again."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from web import steps

from labspawner import vmdemo
from labspawner.cli.pve_sim import course_file, settings_of
from labspawner.hubid import kept_hub_id
from labspawner.service.desktop import novnc
from labspawner.testing.hub import end_processes, free_ports, keep_ports
from labspawner.testing.pve import PveDouble
from labspawner.testing.pve.console import BACKGROUND
from labspawner.testing.pve.guest import Guests
from labspawner.testing.pve.world import Vm
from labspawner.testing.waiting import eventually_sync

playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
pytest.importorskip("jupyterlab", reason="jupyterlab is not installed")
pytestmark = [pytest.mark.web, pytest.mark.hub, pytest.mark.timeout(900)]

REPO = Path(__file__).parents[2]
PASSWORD = "open-sesame"
USER = "student1"
PACE = 20.0  # a boot of some ten seconds takes half a one; deadlines pass slower, for a machine that is busy
DEADLINE_PACE = 4.0
LONG_MS, LONG_S = 240_000, 120.0
CONFIG = """
c = get_config()
load_subconfig({product!r})
c.Labspawner.providers = {{}}
"""
# A file, and a program that does not end with its kernel, as those of a desktop do not.
CELL = """
import os, pathlib, subprocess
program = subprocess.Popen(["sleep", "86400"], start_new_session=True)
pathlib.Path("week3.txt").write_text("my results")
print("on", os.environ["JUPYTERHUB_SERVICE_URL"].split("/")[2].split(":")[0], "runs", program.pid)
""".strip()
STAGES = ("Making your virtual machine", "booting", "Handing over to JupyterLab", "Starting JupyterLab")
# Tells the test what the page says, each time that it says something else; however short that was.
# And it goes on listening to the stream however late that begins: one that only asks every second hears not all of it.
LISTEN = """
const STREAM_PATIENCE_MS = 1500, real = window.setTimeout;
window.setTimeout = (work, ms, ...more) => (ms === STREAM_PATIENCE_MS ? 0 : real(work, ms, ...more));
document.addEventListener("DOMContentLoaded", () => {
  const message = document.getElementById("progress-message");
  if (!message) return;
  const tell = () => window.said(message.textContent.trim());
  new MutationObserver(tell).observe(message, {childList: true, characterData: true, subtree: true});
  tell();
});
"""
# As a page of the server does it, with the XSRF cookie that it has.
PUT = """
async ([path, notebook]) => {
  const xsrf = document.cookie.match(/(?:^|; )_xsrf=([^;]*)/);
  const headers = {"Content-Type": "application/json", "X-XSRFToken": xsrf ? decodeURIComponent(xsrf[1]) : ""};
  const body = JSON.stringify({type: "notebook", format: "json", content: notebook});
  return (await fetch(path, {method: "PUT", headers, body})).status;
}
"""
# The colour of a machine's picture where the double draws nothing.
CORNER = """
() => {
  const canvas = document.querySelector("#screen canvas");
  if (!canvas || !canvas.width) return null;
  return [...canvas.getContext("2d").getImageData(1, 1, 1, 1).data].slice(0, 3);
}
"""


class Lab:
    """A running `labspawner up`, and the simulated cluster behind it."""

    def __init__(self, url: str, pve: PveDouble) -> None:
        self.url, self.pve = url, pve

    def vm(self) -> Vm:
        """The one student's machine that there is."""
        (found,) = [vm for vm in self.pve.vms() if not vm.template]
        return found


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The demo of `labspawner up --pve-sim`, with its cluster in this process, so that a test can hold it still."""
    folder = tmp_path_factory.mktemp("vm-lab")
    hub_id = kept_hub_id(folder / "data")
    try:
        with PveDouble(nodes=("pve1",), guests=Guests.real(), clock="real", pace=PACE) as pve:
            yield from _up(folder, pve)
    finally:
        end_processes(hub_id)


def _up(folder: Path, pve: PveDouble) -> Iterator[Lab]:
    (folder / "courses").mkdir()
    (folder / "pve-sim").mkdir()
    settings = {**settings_of(pve, ["pve1"]), "pace": DEADLINE_PACE}
    described = {"settings": settings, "template": pve.template, "course": str(course_file())}
    (folder / "pve-sim" / "cluster.json").write_text(json.dumps(described), encoding="utf-8")
    text = CONFIG.format(product=str(REPO / "jupyterhub_config.py"))
    (folder / "config.py").write_text(text, encoding="utf-8")
    config = vmdemo.config_for(folder / "config.py", folder / "pve-sim")
    port, hub_port, proxy_port = free_ports(3)
    keep_ports(folder / "data")
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("LABSPAWNER_")},
        "LABSPAWNER_DEMO_PASSWORD": PASSWORD,
        "LABSPAWNER_COURSES_DIR": str(folder / "courses"),
        "LABSPAWNER_HUB_PORT": str(hub_port),
        "LABSPAWNER_PROXY_API_PORT": str(proxy_port),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    words = ["up", "--port", str(port), "--config", str(config), "--data-dir", str(folder / "data")]
    labspawner = [sys.executable, "-c", "from labspawner.cli import main; main()"]
    with (folder / "up.log").open("w") as log:
        process = subprocess.Popen([*labspawner, *words], env=environment, stdout=log, stderr=log, cwd=folder)
    try:
        eventually_sync(lambda: _is_up(process, folder), deadline_s=120, what="labspawner up says that it is ready")
        yield Lab(f"http://127.0.0.1:{port}", pve)
    finally:
        process.terminate()
        process.wait(timeout=240)


def _is_up(process: subprocess.Popen[bytes], folder: Path) -> bool:
    printed = (folder / "up.log").read_text()
    if process.poll() is not None:
        pytest.fail(f"labspawner up ended with {process.returncode}:\n{printed}")
    return bool(re.search(r"password: ", printed))


@pytest.fixture
def window(chromium: playwright.Browser, lab: Lab) -> Iterator[Callable[..., playwright.Page]]:
    """A new window of the student's per call, logged in: `window(language, width)`."""
    contexts = []

    def opened(language: str = "en", width: int = 1280) -> playwright.Page:
        context = chromium.new_context(base_url=lab.url, locale=language, viewport={"width": width, "height": 860})
        contexts.append(context)
        context.set_default_timeout(LONG_MS)
        page = context.new_page()
        page.goto("/hub/login")
        page.fill("#username_input", USER)
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
    return lambda page, name: page.screenshot(path=str(screenshots / f"vm-{name}.png"), full_page=True) and None


def run_a_cell(page: playwright.Page, code: str) -> str:
    """Run `code` in a notebook of its own; what it printed."""
    cell = {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": [], "source": code, "id": "c1"}
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = {"cells": [cell], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    assert page.evaluate(PUT, [f"/user/{USER}/api/contents/week3.ipynb", notebook]) == 201
    output = page.locator(".jp-OutputArea-output").filter(has_text=re.compile(r"runs \d+")).first

    page.goto(f"/user/{USER}/lab/tree/week3.ipynb?reset")
    eventually_sync(lambda: steps.tried_cell(page, 0, output), LONG_S, "the cell has run")
    return str(output.inner_text()).strip()


def in_order(said: list[str], stages: tuple[str, ...]) -> bool:
    """Whether each of the stages was said, one after another."""
    rest = iter(said)
    return all(any(stage in words for words in rest) for stage in stages)


def open_desktop(page: playwright.Page, look: Callable[[playwright.Page, str], None]) -> None:
    """From the home page to the machine's screen, as the double draws it."""
    with page.context.expect_page() as opened:
        page.click("#lab-desktop")
    desktop = opened.value
    desktop.locator("#desk[data-look=connected]").wait_for()
    eventually_sync(lambda: desktop.evaluate(CORNER) == list(BACKGROUND), LONG_S, "the machine's picture is drawn")
    look(desktop, "desktop")
    desktop.close()


def stop(page: playwright.Page) -> None:
    page.goto("/hub/home")
    steps.stop(page)
    page.locator(".lab-server[data-state=parked]").wait_for()


def arrives(page: playwright.Page) -> None:
    """Wait until the student is in JupyterLab; what a page says instead is told."""

    def there() -> bool:
        assert f"/user/{USER}/lab" in page.url, f"{page.url} says: {page.locator('body').inner_text()[:1500]}"
        return True

    eventually_sync(there, LONG_S, "JupyterLab in the VM is open")


def test_a_student_works_in_a_vm_and_finds_the_same_one_after_it_was_hibernated(
    window: Callable[..., playwright.Page], lab: Lab, look: Callable[[playwright.Page, str], None]
) -> None:
    page, said = window(), []
    chinese = window("zh-CN", 390)
    page.expose_function("said", lambda words: said.append(words))  # noqa: PLW0108 - a builtin takes no attributes
    page.add_init_script(LISTEN)

    # A profile that says what it is.
    page.goto(f"/hub/spawn/{USER}")
    assert "Your own VM (simulated)" in page.locator("main").inner_text()
    look(page, "form")
    chinese.goto(f"/hub/spawn/{USER}")
    assert "（模拟）" in chinese.locator("main").inner_text()
    look(chinese, "form-zh-390")

    # Its stages are read. The cluster stands still until the page is open, so that no slow browser misses the first.
    lab.pve.faults.hold("qmclone")
    page.locator("input[name=profile][value='vm-demo/machine']").check()
    page.click("#lab-start")
    page.locator("#progress-message", has_text="Making your virtual machine").wait_for()
    look(page, "making")
    chinese.goto("/hub/home")
    look(chinese, "home-starting-zh-390")
    chinese.goto(f"/hub/spawn-pending/{USER}")
    chinese.locator("#progress-message", has_text="虚拟机").wait_for()
    look(chinese, "making-zh-390")
    lab.pve.faults.release("qmclone")
    arrives(page)
    assert in_order(said, STAGES), said

    # Work in it: a cell, a file, a program.
    first = lab.vm()
    assert first.status == "running"
    words = run_a_cell(page, CELL)
    look(page, "lab")
    address, pid = re.fullmatch(r"on (\S+) runs (\d+)", words).groups()
    assert f"ip={address}/" in first.config["ipconfig0"]
    program = psutil.Process(int(pid))
    page.goto("/hub/home")
    look(page, "home")
    chinese.goto("/hub/home")
    look(chinese, "home-zh-390")
    if novnc.find() is not None:
        lab.pve.set_pace(1.0)  # the ticket of a console is good for ten seconds of the cluster's time
        open_desktop(page, look)
        lab.pve.set_pace(PACE)

    # It hibernates ...
    stop(page)
    look(page, "parked")
    chinese.goto("/hub/home")
    look(chinese, "parked-zh-390")
    assert lab.vm().config["lock"] == "suspended"
    assert program.status() == psutil.STATUS_STOPPED

    # ... and comes back: the same machine, disk and memory.
    said.clear()
    page.locator("[id^=lab-again]").click()
    arrives(page)
    again = lab.vm()
    assert (again.vmid, again.config["smbios1"]) == (first.vmid, first.config["smbios1"])
    assert again.status == "running"
    assert program.is_running()
    assert program.status() != psutil.STATUS_STOPPED
    assert page.request.get(f"/user/{USER}/api/contents/week3.txt").json()["content"] == "my results"
    assert not any("Making" in words for words in said), said
    assert lab.pve.invariants() == []
    if novnc.find() is None:
        pytest.skip("all but the desktop was seen: noVNC is not installed (apt-get install novnc)")
