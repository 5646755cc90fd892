"""The real product in a folder of its own, and a real Chromium in front of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from labspawner.hubid import kept_hub_id
from labspawner.providers.sim import write_faults
from labspawner.testing.hub import end_all_of, free_ports, keep_ports
from labspawner.testing.waiting import eventually_sync

playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")

REPO = Path(__file__).parents[2]
CHROMIUM = "/usr/bin/chromium"
CHROMIUM_ARGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PASSWORD = "open-sesame"

# The product's own configuration, with what makes a test short: activity is reported every second, not every five
# minutes; and a provider that can be slow or fail when told to.
CONFIG = f"""
c = get_config()
load_subconfig({str(REPO / "jupyterhub_config.py")!r})
c.Spawner.environment = {{"JUPYTERHUB_ACTIVITY_INTERVAL": "1"}}
c.JupyterHub.last_activity_interval = 1
c.Labspawner.providers = {{"local": {{}}, "sim": {{"uses_memory": "300MiB", "uses_cpu": 0.4}}}}
"""

COURSE = """
course: py101
title: {en: Python Basics, zh-CN: Python 程序设计基础}
profiles:
  - slug: base
    title: {en: Python notebook, zh-CN: Python 笔记本}
    summary: {en: For lectures and weekly exercises., zh-CN: 用于课堂和每周练习。}
    variants:
      - {provider: local, memory: 1GiB, cpu: 0.5, settings: {default_url: /lab}}
    options:
      interface:
        title: {en: Interface, zh-CN: 界面}
        choices:
          lab: {title: JupyterLab, default: true}
          simple: {title: {en: Simple, zh-CN: 简洁}, set: {settings: {default_url: /doc}}}
    idle: {after: 90s, action: stop}
    limits: {max_age: 8h}
  - slug: slow
    title: {en: A slow start, zh-CN: 慢速启动}
    summary: {en: Takes its time., zh-CN: 需要较长时间。}
    variants:
      - {provider: sim, cpu: 1, memory: 1GiB, start_timeout: 1h, settings: {start_s: 3600}}
    idle: {after: 45m, action: stop}
  - slug: quick
    title: {en: A quick start, zh-CN: 快速启动}
    variants:
      - {provider: sim, cpu: 1, memory: 1GiB, settings: {start_s: 0.3}}
    idle: {after: 45m, action: stop}
  - slug: broken
    title: {en: "Broken <script>alert(1)</script>", zh-CN: "坏的 <script>alert(1)</script>"}
    variants:
      - {provider: local, memory: 64MiB, cpu: 0.5,
         settings: {command: [sh, -c, "echo no module named lab >&2; sleep 1.5; exit 3"]}}
    idle: {after: 45m, action: stop}
"""


@dataclass(frozen=True)
class Product:
    """A running `labspawner up`."""

    url: str
    folder: Path

    def log(self) -> str:
        path = self.folder / "data" / "hub.log"
        return path.read_text(errors="replace") if path.exists() else ""


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """`labspawner up` as a user runs it; nothing of it is left afterwards."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "courses").mkdir()
    (folder / "courses" / "py101.yaml").write_text(COURSE, encoding="utf-8")
    hub_id = kept_hub_id(folder / "data")
    (folder / "config.py").write_text(CONFIG, encoding="utf-8")
    port, hub_port, proxy_port = free_ports(3)
    keep_ports(folder / "data")
    environment = {
        **os.environ,
        "LABSPAWNER_DEMO_PASSWORD": PASSWORD,
        "LABSPAWNER_COURSES_DIR": str(folder / "courses"),
        "LABSPAWNER_CULLER_INTERVAL_S": "1",
        "LABSPAWNER_HUB_PORT": str(hub_port),
        "LABSPAWNER_PROXY_API_PORT": str(proxy_port),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    common = ["--config", str(folder / "config.py"), "--data-dir", str(folder / "data")]
    labspawner = [sys.executable, "-c", "from labspawner.cli import main; main()"]
    with (folder / "up.log").open("w") as log:
        process = subprocess.Popen(
            [*labspawner, "up", "--port", str(port), *common], env=environment, stdout=log, stderr=log, cwd=folder
        )
    try:
        eventually_sync(lambda: _is_up(process, folder), deadline_s=90, what="labspawner up says that it is ready")
        yield Product(url=f"http://127.0.0.1:{port}", folder=folder)
    finally:
        process.terminate()
        process.wait(timeout=240)
        subprocess.run([*labspawner, "down", "--yes", *common], env=environment, cwd=folder, check=True, timeout=240)
        end_all_of(hub_id, ["local"])


def _is_up(process: subprocess.Popen, folder: Path) -> bool:
    printed = (folder / "up.log").read_text()
    if process.poll() is not None:
        pytest.fail(f"labspawner up ended with {process.returncode}:\n{printed}")
    return bool(re.search(r"password: ", printed))


@pytest.fixture
def stalls(product: Product) -> Iterator[Callable[[str | None], None]]:
    """Let simulated starts stand still at a stage until told otherwise, so that no slow page misses them."""

    def at(stage: str | None) -> None:
        write_faults(product.folder / "data" / "providers" / "sim", **({"stall_at": stage} if stage else {}))

    yield at
    at(None)


@pytest.fixture(scope="module")
def chromium() -> Iterator[playwright.Browser]:
    """One browser per file, not per session: Playwright's driver keeps an event loop running in this thread, and
    tests of other folders need their own."""
    executable = CHROMIUM if Path(CHROMIUM).exists() else shutil.which("chromium")
    if executable is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=list(CHROMIUM_ARGS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures of the pages go: LABSPAWNER_SCREENSHOTS, else a temporary folder."""
    folder = os.environ.get("LABSPAWNER_SCREENSHOTS")
    path = Path(folder) if folder else tmp_path_factory.mktemp("screenshots")
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture
def open_page(chromium: playwright.Browser, product: Product) -> Iterator[object]:
    """A new browser window per call: `open_page(language, width, theme, java_script_enabled=...)`."""
    contexts = []

    def opened(language: str = "en", width: int = 1280, theme: str = "light", **options: object) -> playwright.Page:
        context = chromium.new_context(
            base_url=product.url,
            locale=language,
            viewport={"width": width, "height": 800},
            color_scheme=theme,
            **options,
        )
        contexts.append(context)
        context.set_default_timeout(240_000)
        return context.new_page()

    yield opened
    for context in contexts:
        context.close()
