"""A GPU profile on Kubernetes in a real browser: from login to a cell in a pod, and a start that fails. On the double, whose
pods are processes of this machine, with slices by the real node agent; with `-m kube` on a real cluster, without slices.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from kube.agentlab import SMALL, AgentLab
from native.conftest import native  # noqa: F401 - library and pretended driver, built once for all tests
from web.steps import end, tried_cell

from labspawner.errors import SetupError
from labspawner.gpu.libvgpu import LIBRARY_ENV, find_library
from labspawner.gpu.pretend import PRETEND_ENV, find_driver
from labspawner.hubid import kept_hub_id
from labspawner.testing.hub import end_all_of, free_ports, keep_ports
from labspawner.testing.kube import Image, KubeDouble, a_node
from labspawner.testing.kube.real import real_cluster
from labspawner.testing.kubelet import NodeDevices
from labspawner.testing.waiting import eventually_sync

playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
pytest.importorskip("jupyterlab", reason="jupyterlab is not installed")
pytestmark = [pytest.mark.web, pytest.mark.timeout(900)]

REPO = Path(__file__).parents[2]
PASSWORD = "open-sesame"
USER = "student1"
LONG_MS, LONG_S = 240_000, 60.0
IMAGE, MISSPELT = "lab/pytorch:2.9", "lab/pytorhc:2.9"
GPU = "gpu: {memory: 6GiB, cores: 25%, selftest: require}, "
COURSE = """
course: dl101
title: Deep Learning Intro
profiles:
  - slug: gpu
    title: PyTorch on a GPU slice
    summary: For the exercises of week 3.
    variants:
      - {{provider: kubernetes, image: "{image}", cpu: 0.5, memory: 1GiB, {gpu}settings: {{default_url: /lab}}}}
    idle: {{after: 2h, action: stop}}
  - slug: typo
    title: A misspelt image
    variants: [{{provider: kubernetes, image: "{misspelt}", cpu: 0.5, memory: 256MiB}}]
    idle: {{after: 2h, action: stop}}
"""
CONFIG = """
c = get_config()
load_subconfig({product!r})
c.Labspawner.providers = {{"kubernetes": {provider!r}}}
{more}
"""
# Pods of a real cluster come from elsewhere, which the demo's accounts do not allow.
FOR_OTHERS = """
c.JupyterHub.hub_ip = {listens!r}
c.JupyterHub.hub_connect_ip = {host!r}
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = {password!r}
c.Authenticator.allow_all = True
"""
CELL = """
import ctypes, os
cuda = ctypes.CDLL("libcuda.so.1")
context, free, total = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
cuda.cuInit(0)
cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
cuda.cuCtxPushCurrent_v2(context)
cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
print(os.environ["HOSTNAME"], "has a card of", total.value // 2**20, "MiB")
""".strip()
CELL_WITHOUT = 'import os\nprint(os.environ["HOSTNAME"], "has a card of", 0, "MiB")'


# As a page of the server does it, with the XSRF cookie that it has.
PUT = """
async ([path, notebook]) => {
  const xsrf = document.cookie.match(/(?:^|; )_xsrf=([^;]*)/);
  const headers = {"Content-Type": "application/json", "X-XSRFToken": xsrf ? decodeURIComponent(xsrf[1]) : ""};
  const body = JSON.stringify({type: "notebook", format: "json", content: notebook});
  return (await fetch(path, {method: "PUT", headers, body})).status;
}
"""


class Lab:
    """A running `labspawner up` with a cluster behind it. slices: whether its GPU profile has one."""

    def __init__(self, url: str, folder: Path, cluster: Any, *, slices: bool) -> None:
        self.url, self.folder, self.cluster, self.slices = url, folder, cluster, slices

    def log(self) -> str:
        path = self.folder / "data" / "hub.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def schedule(self, *, paused: bool) -> None:
        """Let no pod find a node until told otherwise, so that no slow page misses it; a real cluster goes on."""
        if isinstance(self.cluster, KubeDouble):
            self.cluster.faults.pause_scheduler(paused)


@pytest.fixture(scope="module")
def driver(request: pytest.FixtureRequest) -> Iterator[None]:
    """Library and pretended driver, for the agent: those that are installed or named, else built here."""
    with pytest.MonkeyPatch.context() as patch:
        try:
            find_library()
            find_driver()
        except SetupError:
            built = request.getfixturevalue("native")
            patch.setenv(LIBRARY_ENV, str(built.libvgpu))
            patch.setenv(PRETEND_ENV, str(built.stub))
        yield


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The product with a provider `kubernetes`; nothing of it is left afterwards."""
    folder = tmp_path_factory.mktemp("kube-lab")
    real = real_cluster() if "kube" in (request.config.getoption("-m") or "").split() else None
    with ExitStack() as stack:
        if real is not None:
            cluster: Any = stack.enter_context(real)
            listens = real.hub_host if real.hub_host.startswith("127.") else "0.0.0.0"  # perhaps another's address
            more = FOR_OTHERS.format(host=real.hub_host, listens=listens, password=PASSWORD)
            yield from _up(folder, cluster, image=real.image, provider={}, more=more)
            return
        request.getfixturevalue("driver")
        cluster = stack.enter_context(KubeDouble([a_node()], images={IMAGE: Image()}, tls=True))
        _share_cards(stack.enter_context(AgentLab(folder)), cluster)
        slicing = {"strategy": "device-plugin", "classes": {"small": {"memory": "6GiB", "cores": "25%"}}}
        yield from _up(folder, cluster, image=IMAGE, provider={"gpu": slicing, "reports": True}, more="")


def _share_cards(cards: AgentLab, cluster: KubeDouble) -> None:
    """A node agent at work, and a cluster that knows of its slices."""
    cluster.use_devices(NodeDevices(cards.kubelet, cluster))
    (cards.folder / "token").write_text(cluster.token)
    cards.door = [cluster.url, str(cards.folder / "token"), str(cluster.ca_file)]
    cards.ready()
    cards.wait_for(lambda: cluster.node()["status"]["allocatable"].get(SMALL) == "3")


def _up(folder: Path, cluster: Any, *, image: str, provider: dict[str, Any], more: str) -> Iterator[Lab]:
    slices = "gpu" in provider
    (folder / "courses").mkdir()
    course = COURSE.format(image=image, misspelt=MISSPELT, gpu=GPU if slices else "")
    (folder / "courses" / "dl101.yaml").write_text(course, encoding="utf-8")
    provider |= {"kubeconfig": str(cluster.kubeconfig(folder)), "namespace": cluster.namespace}
    hub_id = kept_hub_id(folder / "data")
    text = CONFIG.format(product=str(REPO / "jupyterhub_config.py"), provider=provider, more=more)
    (folder / "config.py").write_text(text, encoding="utf-8")
    port, hub_port, proxy_port = free_ports(3)
    keep_ports(folder / "data")
    environment = {
        **os.environ,
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
            [*labspawner, "up", "--port", str(port), *common], env=environment, stdout=log, stderr=log, cwd=folder
        )
    try:
        eventually_sync(lambda: _is_up(process, folder), deadline_s=90, what="labspawner up says that it is ready")
        yield Lab(f"http://127.0.0.1:{port}", folder, cluster, slices=slices)
    finally:
        process.terminate()
        process.wait(timeout=240)
        end_all_of(hub_id)


def _is_up(process: subprocess.Popen[bytes], folder: Path) -> bool:
    printed = (folder / "up.log").read_text()
    if process.poll() is not None:
        pytest.fail(f"labspawner up ended with {process.returncode}:\n{printed}")
    return bool(re.search(r"password: ", printed))


@pytest.fixture
def page(chromium: playwright.Browser, lab: Lab) -> Iterator[playwright.Page]:
    """The window of a student who has logged in."""
    context = chromium.new_context(base_url=lab.url, locale="en", viewport={"width": 1280, "height": 860})
    context.set_default_timeout(LONG_MS)
    opened = context.new_page()
    opened.goto("/hub/login")
    opened.fill("#username_input", USER)
    opened.fill("#password_input", PASSWORD)
    opened.click("#login_submit")
    opened.wait_for_url(lambda url: "/login" not in url)
    yield opened
    context.close()


@pytest.fixture
def look(page: playwright.Page, screenshots: Path) -> Callable[[str], None]:
    """Takes a picture of the page."""
    return lambda name: page.screenshot(path=str(screenshots / f"kube-{name}.png"), full_page=True) and None


def ask(page: playwright.Page, profile: str) -> None:
    page.goto(f"/hub/spawn/{USER}")
    page.locator(f"input[name=profile][value='dl101/{profile}']").check()
    page.click("#lab-start")


def stop(page: playwright.Page, lab: Lab) -> None:
    end(page)
    eventually_sync(lambda: not lab.cluster.pods(), LONG_S, "the pod is gone")


def run_a_cell(page: playwright.Page, code: str, look: Callable[[str], None]) -> str:
    """Run `code` in a notebook of its own; what it printed."""
    cell = {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": [], "source": code, "id": "c1"}
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = {"cells": [cell], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    assert page.evaluate(PUT, [f"/user/{USER}/api/contents/week3.ipynb", notebook]) == 201
    output = page.locator(".jp-OutputArea-output").filter(has_text="has a card of").first

    page.goto(f"/user/{USER}/lab/tree/week3.ipynb?reset")
    eventually_sync(lambda: tried_cell(page, 0, output) or look("again"), LONG_S, "the cell has run")
    return str(output.inner_text()).strip()


@pytest.mark.kube
def test_a_student_runs_a_cell_in_a_pod_and_sees_the_tested_slice(
    page: playwright.Page, lab: Lab, look: Callable[[str], None]
) -> None:
    lab.schedule(paused=True)
    ask(page, "gpu")
    if lab.slices:
        page.locator("#progress-message", has_text=re.compile("place|machine")).wait_for()
        look("waits")
    lab.schedule(paused=False)
    page.wait_for_url("**/lab**", timeout=LONG_MS)
    (pod,) = lab.cluster.pods()
    printed = run_a_cell(page, CELL if lab.slices else CELL_WITHOUT, look)
    look("lab")
    page.goto("/hub/home")
    look("home")
    said = page.locator("#lab-servers").inner_text()
    stop(page, lab)

    assert printed == f"{pod['metadata']['name']} has a card of {6144 if lab.slices else 0} MiB"
    assert "PyTorch on a GPU slice" in said
    assert ("GPU slice 6 GiB, tested" in said) == lab.slices


@pytest.mark.kube
def test_a_misspelt_image_is_named_on_the_page_and_leaves_nothing(
    page: playwright.Page, lab: Lab, look: Callable[[str], None]
) -> None:
    ask(page, "typo")
    problem = page.get_by_text(
        re.compile(f"{MISSPELT}.* (does not exist|cannot be fetched|is not on the machine)")
    ).first
    problem.wait_for()
    look("typo")

    assert "Tell your" in problem.inner_text()
    eventually_sync(lambda: not lab.cluster.pods(), LONG_S, "the pod is gone")
