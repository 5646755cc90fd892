"""A GPU profile on a machine without a GPU, in a real browser: the badge, what pynvml sees, and what happens at the limit."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from native.conftest import native  # noqa: F401 - library and pretended driver, built once for all tests
from web.steps import end, run_cell

from labspawner.gpu.libvgpu import LIBRARY_ENV
from labspawner.gpu.pretend import PRETEND_ENV
from labspawner.hubid import kept_hub_id
from labspawner.providers.local.ladder import find_sandbox
from labspawner.testing.hub import end_all_of, free_ports, keep_ports
from labspawner.testing.waiting import eventually_sync

playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
pytest.importorskip("jupyterlab", reason="jupyterlab is not installed")
pytestmark = [pytest.mark.web, pytest.mark.timeout(900)]

REPO = Path(__file__).parents[2]
PASSWORD = "open-sesame"
LONG_MS = 240_000
BADGE = {"en": "Pretended GPU slice 6 GiB, tested", "zh-CN": "模拟 GPU 切片 6 GiB，已测试"}
FULL = {
    "en": re.compile(r"Your slice \(6 GiB\) is full: python\S* asked for 7 GiB, 6 GiB left\."),
    "zh-CN": re.compile(r"您的 GPU 切片（6 GiB）已满：python\S* 申请 7 GiB，仅剩 6 GiB。"),
}
COURSE = """
course: dl101
title: {en: Deep Learning Intro, zh-CN: 深度学习导论}
profiles:
  - slug: gpu
    title: {en: GPU lab, zh-CN: GPU 实验}
    variants:
      - {provider: local, memory: 1GiB, gpu: {memory: 6GiB, cores: 25%, selftest: require}, settings: {default_url: /lab}}
    idle: {after: 2h, gpu_after: 2h, action: stop}
  - slug: cpu
    title: {en: CPU only, zh-CN: 仅 CPU}
    variants:
      - {provider: local, memory: 1GiB, settings: {default_url: /lab}}
"""
CONFIG = """
c = get_config()
load_subconfig({product!r})
"""
CELLS = (
    "import pynvml\npynvml.nvmlInit()\ncard = pynvml.nvmlDeviceGetHandleByIndex(0)\n"
    "print('NVML says', pynvml.nvmlDeviceGetMemoryInfo(card).total // 2**20, 'MiB')",
    "import ctypes\ncuda = ctypes.CDLL('libcuda.so.1')\ncuda.cuInit(0)\n"
    "context, address = ctypes.c_void_p(), ctypes.c_uint64()\n"
    "cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)\ncuda.cuCtxPushCurrent_v2(context)\n"
    "print('cuMemAlloc answered', cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(7 * 2**30)))",
)


class Product:
    """A running `labspawner up --pretend-gpu`."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder

    def home(self, user: str) -> Path:
        return self.folder / "data" / "providers" / "local" / "homes" / user

    def log(self) -> str:
        return (self.folder / "data" / "hub.log").read_text(errors="replace")


@pytest.fixture(scope="module")
def driver(request: pytest.FixtureRequest) -> dict[str, str]:
    """Where library and pretended driver are: built here, unless the environment names some."""
    if LIBRARY_ENV in os.environ and PRETEND_ENV in os.environ:
        return {}
    built = request.getfixturevalue("native")
    return {LIBRARY_ENV: str(built.libvgpu), PRETEND_ENV: str(built.stub)}


@pytest.fixture(scope="module")
def product(driver: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """The product with pretended cards; nothing of it is left afterwards."""
    if (missing := find_sandbox()) is not None:
        pytest.skip(f"no sandbox here: {missing}")
    folder = tmp_path_factory.mktemp("gpu-lab")
    (folder / "courses").mkdir()
    (folder / "courses" / "dl101.yaml").write_text(COURSE, encoding="utf-8")
    hub_id = kept_hub_id(folder / "data")
    text = CONFIG.format(product=str(REPO / "jupyterhub_config.py"))
    (folder / "config.py").write_text(text, encoding="utf-8")
    port, hub_port, proxy_port = free_ports(3)
    keep_ports(folder / "data")
    environment = {
        **os.environ,
        **driver,
        "LABSPAWNER_DEMO_PASSWORD": PASSWORD,
        "LABSPAWNER_COURSES_DIR": str(folder / "courses"),
        "LABSPAWNER_HUB_PORT": str(hub_port),
        "LABSPAWNER_PROXY_API_PORT": str(proxy_port),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    common = ["--config", str(folder / "config.py"), "--data-dir", str(folder / "data")]
    labspawner = [sys.executable, "-c", "from labspawner.cli import main; main()"]
    with (folder / "up.log").open("w") as log:
        process = subprocess.Popen(
            [*labspawner, "up", "--pretend-gpu=24564MiB", "--port", str(port), *common],
            env=environment, stdout=log, stderr=log, cwd=folder,
        )  # fmt: skip
    try:
        eventually_sync(lambda: _is_up(process, folder), deadline_s=90, what="labspawner up says that it is ready")
        yield Product(f"http://127.0.0.1:{port}", folder)
    finally:
        process.terminate()
        process.wait(timeout=240)
        subprocess.run([*labspawner, "down", "--yes", *common], env=environment, cwd=folder, check=True, timeout=240)
        end_all_of(hub_id, ["local"])


def _is_up(process: subprocess.Popen[bytes], folder: Path) -> bool:
    printed = (folder / "up.log").read_text()
    if process.poll() is not None:
        pytest.fail(f"labspawner up ended with {process.returncode}:\n{printed}")
    return bool(re.search(r"password: ", printed))


@pytest.fixture
def open_page(chromium: playwright.Browser, product: Product) -> Iterator[object]:
    """`open_page(user, language)`: a window of a student who is logged in."""
    contexts = []

    def opened(user: str, language: str) -> playwright.Page:
        context = chromium.new_context(base_url=product.url, locale=language, viewport={"width": 1280, "height": 860})
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


def start(page: playwright.Page, user: str, profile: str) -> None:
    """Choose a profile and wait until JupyterLab is there."""
    page.goto(f"/hub/spawn/{user}")
    page.locator(f"input[name=profile][value='dl101/{profile}']").check()
    page.click("#lab-start")
    page.wait_for_url("**/lab**", timeout=LONG_MS)


def write_notebook(product: Product, user: str) -> None:
    cells = [
        {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": [], "source": source, "id": f"c{n}"}
        for n, source in enumerate(CELLS)
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    text = json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})
    path = product.home(user) / "gpu.ipynb"
    path.write_text(text)
    path.chmod(0o666)


@pytest.mark.parametrize(("user", "language"), [("student1", "en"), ("student2", "zh-CN")])
def test_a_student_sees_a_tested_slice_and_reads_what_happens_at_its_limit(
    open_page, product: Product, screenshots: Path, user: str, language: str
) -> None:
    page = open_page(user, language)
    start(page, user, "gpu")
    home = page.context.new_page()
    home.goto("/hub/home")
    badge = home.locator(".lab-badge").inner_text()
    home.screenshot(path=str(screenshots / f"gpu-home-{language}.png"), full_page=True)

    write_notebook(product, user)
    page.goto(f"/user/{user}/lab/tree/gpu.ipynb?reset")
    run_cell(page, 0, page.locator(".jp-OutputArea-output", has_text="NVML says 6144 MiB").first)
    run_cell(page, 1, page.locator(".jp-OutputArea-output", has_text="cuMemAlloc answered 2").first)
    page.locator(".Toastify__toast").filter(has_text=FULL[language]).first.wait_for()
    page.screenshot(path=str(screenshots / f"gpu-lab-{language}.png"), animations="disabled")
    home.reload()
    news = home.locator(".lab-news").inner_text()
    meters = home.locator(".lab-meters").inner_text()
    home.screenshot(path=str(screenshots / f"gpu-full-{language}.png"), full_page=True)
    end(home)

    assert BADGE[language] in badge
    assert FULL[language].search(news)
    assert "6 GiB" in meters


def test_pages_say_that_the_gpu_is_pretended_and_an_administrator_sees_every_slice(
    open_page, product: Product, screenshots: Path
) -> None:
    student = open_page("student1", "en")
    start(student, "student1", "gpu")
    page = open_page("admin", "en")
    page.goto("/hub/labspawner/admin")

    said = page.locator("main").inner_text()
    page.screenshot(path=str(screenshots / "gpu-admin.png"), full_page=True)
    end(student)

    assert "There is no GPU behind the slices of this hub" in page.locator(".lab-pretended").inner_text()
    assert "Pretended card" in said
    assert "free for slices" in said
    assert BADGE["en"] in said


def test_a_profile_without_a_gpu_has_no_badge_and_no_library(open_page, product: Product) -> None:
    page = open_page("student2", "en")
    start(page, "student2", "cpu")
    page.goto("/hub/home")
    badges = page.locator(".lab-badge").count()
    end(page)

    assert badges == 0
