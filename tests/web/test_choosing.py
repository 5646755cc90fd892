"""Choosing in a real browser: cards tell the truth as it changes, a click keeps a place, and there is another way."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
from web import axe
from web.steps import follow

from labspawner.model import Lease
from labspawner.testing.days import a_far_day
from labspawner.testing.hub import RealHub
from labspawner.testing.waiting import eventually_sync

pytestmark = [pytest.mark.web, pytest.mark.hub, pytest.mark.timeout(900)]

VIEWS = (("en", 1280, "light"), ("zh-CN", 390, "dark"))
GPU, SPARE, HUGE = "dl101/gpu", "dl101/spare", "dl101/huge"
EVIL = "<img src=x onerror=alert(1)>"

# Starts take an hour, so that no page leaves for a server that this hub's proxy does not reach.
COURSE = f"""
course: dl101
title: {{en: Deep Learning Intro, zh-CN: 深度学习导论}}
timezone: Asia/Shanghai
profiles:
  - slug: gpu
    icon: GPU
    title: {{en: PyTorch on a GPU slice, zh-CN: PyTorch（GPU 切片）}}
    summary: {{en: For the weekly exercises., zh-CN: 用于每周练习。}}
    fallback: ask
    queue_for: 2h
    variants:
      - {{provider: cards, memory: 12GiB, start_timeout: 2h, gpu: {{memory: 6GiB, cores: 25}}, settings: {{start_s: 3600}}}}
      - {{provider: lab, title: {{en: the CPU machine, zh-CN: CPU 主机}}, memory: 4GiB, start_timeout: 2h,
         settings: {{start_s: 3600}}}}
    options:
      size: {{title: {{en: Size, zh-CN: 规格}}, choices: {{small: {{title: Small}}, large: {{title: Large}}}}}}
    idle: {{after: 20m, extend: {{step: 30m}}}}
    limits: {{max_age: 4h}}
  - slug: spare
    title: {{en: Python notebook, zh-CN: Python 笔记本}}
    variants: [{{provider: lab, memory: 2GiB, settings: {{start_s: 0.05}}}}]
  - slug: closed
    title: {{en: Exam, zh-CN: 考试}}
    variants: [{{provider: lab}}]
    hours: [{{days: [{a_far_day()}], from: "00:00", to: "00:01"}}]
  - slug: huge
    title: {{en: A whole rack, zh-CN: 整个机柜}}
    variants:
      - {{provider: cards, memory: 9TiB}}
      - {{provider: lab, memory: 1GiB, start_timeout: 2h, settings: {{start_s: 3600}}}}
  - slug: evil
    title: "{EVIL}"
    summary: "{EVIL}"
    icon: "<b>"
    fallback: ask
    variants: [{{provider: gone}}, {{provider: lab, title: "{EVIL}"}}]
    options: {{o: {{title: "{EVIL}", choices: {{a: {{title: "{EVIL}"}}}}}}}}
"""
# A click keeps a place before it starts, where the hub says so within seconds; here it is waited for, however long.
PATIENT = """
const PATIENCE_MS = 4000, real = window.setTimeout;
window.setTimeout = (work, ms, ...more) => (ms === PATIENCE_MS ? 0 : real(work, ms, ...more));
"""
Page = Any
Open = Callable[..., Page]
T = TypeVar("T")


def aside(work: Callable[..., T], *args: Any, **names: Any) -> T:
    """What `work` answers in a thread of its own: Playwright keeps an event loop running in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work, *args, **names).result()


def leases(lab: RealHub, user: str | None = None) -> list[Lease]:
    return aside(lab.leases, user)


def stop_all(lab: RealHub, users: Collection[str] | None = None) -> None:
    """End whatever these users have, or everybody."""
    for lease in leases(lab):
        if users is None or lease.user in users:
            aside(lab.stop_server, lease.user, name=lease.server_name)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealHub]:
    """A card for two, and a machine for some more."""
    hub = RealHub(
        tmp_path_factory.mktemp("choosing"),
        courses={"dl101.yaml": COURSE},
        groups={"course-dl101": [f"s{number}" for number in range(12)]},
        providers={
            "cards": {
                "kind": "sim",
                "hosts": [{"name": "g", "memory": "64GiB", "cards": [{"uuid": "GPU-1", "memory": "12GiB"}]}],
            },
            "lab": {"kind": "sim", "hosts": [{"name": "a", "memory": "32GiB"}], "uses_memory": "300MiB"},
        },
    )
    hub.start()
    yield hub
    hub.close()


@pytest.fixture
def window(chromium: Any, lab: RealHub) -> Iterator[Open]:
    """A browser window in which somebody has logged in: `window(user, language, width, theme, ...)`. What they start is
    ended with the test; a page that says anything by `alert`, or breaks, fails it."""
    contexts: list[Any] = []
    users: set[str] = set()
    wrong: list[str] = []

    def opened(user: str, language: str = "en", width: int = 1280, theme: str = "light", **options: Any) -> Page:
        size = {"width": width, "height": 800}
        context = chromium.new_context(
            base_url=lab.base, locale=language, viewport=size, color_scheme=theme, bypass_csp=True, **options
        )
        contexts.append(context)
        users.add(user)
        context.set_default_timeout(240_000)
        context.add_init_script(PATIENT)
        page = context.new_page()
        page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.goto("/hub/login")
        page.fill("#username_input", user)
        page.fill("#password_input", lab.password)
        page.click("#login_submit")
        page.wait_for_url(lambda url: "/login" not in url)
        return page

    yield opened
    for context in contexts:
        context.close()
    stop_all(lab, users)
    assert wrong == []


def card(page: Page, profile: str = GPU) -> Any:
    return page.locator(f".lab-card[data-key='{profile}']")


def says(page: Page, text: str, profile: str = GPU) -> None:
    """Wait until a card says this, without the page's being loaded again."""
    words = card(page, profile).locator(".lab-free-words")
    eventually_sync(lambda: text in words.inner_text(), 60, f"{profile} says {text!r}")


def button(page: Page, text: str) -> None:
    """Wait until the large button says this."""
    eventually_sync(lambda: page.locator("#lab-start").inner_text() == text, 60, f"the button says {text!r}")


def click_start(page: Page) -> None:
    with page.expect_response(lambda answer: answer.request.method == "POST" and "/hub/spawn" in answer.url):
        page.click("#lab-start")


def take(lab: RealHub, *users: str) -> None:
    """Places on the card are taken by others."""
    for user in users:
        assert lab.ask(user, {"profile": GPU}).status in {201, 202}
    eventually_sync(lambda: {lease.user for lease in leases(lab)} >= set(users), 60, "they have their places")


@pytest.fixture
def others(lab: RealHub) -> Iterator[None]:
    """Whoever else took a place gives it back in the end."""
    yield
    stop_all(lab)


@pytest.mark.usefixtures("others")
def test_cards_and_button_follow_what_is_free_while_the_page_stays_open(lab, window):
    page, chinese = window("s0"), window("s1", "zh-CN")
    for one in (page, chinese):
        one.goto(f"/hub/spawn?profile={GPU}")
    says(page, "2 free")
    button(page, "Start")

    take(lab, "s8")
    says(page, "1 free")
    take(lab, "s9")
    says(page, "full: you would be 1st in line")
    button(page, "Join the line")
    says(chinese, "已满：您将排在第 1 位")
    button(chinese, "排队")
    assert card(page).get_by_role("button", name="Start on the CPU machine now").is_visible()
    assert page.locator("#lab-chosen-state").inner_text().startswith("full")
    stop_all(lab, {"s9"})

    says(page, "1 free")
    button(page, "Start")
    assert card(page).locator(".lab-elsewhere button").count() == 0


@pytest.mark.usefixtures("others")
def test_a_click_on_a_place_that_has_gone_says_so_on_the_page_and_the_next_click_joins_the_line(lab, window):
    take(lab, "s8")
    page = window("s2")
    page.route("**/labspawner/events*", lambda route: route.abort())
    page.route("**/labspawner/availability*", lambda route: route.abort())  # so it does not know what happens meanwhile
    page.goto(f"/hub/spawn?profile={GPU}")
    says(page, "1 free")
    take(lab, "s9")

    page.click("#lab-start")
    says(page, "full: you would be 1st in line")
    button(page, "Join the line")
    assert "/hub/spawn?" in page.url
    assert page.locator("#lab-news").inner_text() != ""
    assert leases(lab, "s2") == []
    page.unroute("**/labspawner/events*")  # the page that comes listens
    click_start(page)

    page.wait_for_url("**/spawn-pending/**")
    eventually_sync(lambda: "number 1 in line" in page.locator("#progress-message").inner_text(), 60)
    follow(page, page.locator("#lab-instead-offers button", has_text="Start on the CPU machine now"))
    eventually_sync(
        lambda: [lease.provider for lease in leases(lab, "s2")] == ["lab"], 60, "it starts on the other one"
    )
    eventually_sync(lambda: not page.locator("#lab-instead").is_visible(), 60, "it is not offered any more")
    page.click("#lab-cancel")
    page.wait_for_url("**/hub/home")


@pytest.mark.usefixtures("others")
def test_the_offer_comes_and_goes_on_the_page_that_waits(lab, window):
    take(lab, "s8", "s9")
    # Nine large servers leave no room on the other machine.
    filler = [f"s{number}" for number in (3, 4, 5, 6, 7, 10, 11)]
    page = window("s0")
    page.goto(f"/hub/spawn?profile={GPU}")
    click_start(page)
    page.wait_for_url("**/spawn-pending/**")
    offer = page.locator("#lab-instead")
    eventually_sync(offer.is_visible, 60, "the other machine is offered")

    for user in filler:
        lab.ask(user, {"profile": GPU, "variant": 2, "options": {}})
    lab.ask("s1", {"profile": GPU, "variant": 2, "options": {}})
    eventually_sync(lambda: not offer.is_visible(), 60, "full, it is not offered any more")
    stop_all(lab, {"s1"})

    eventually_sync(offer.is_visible, 60, "and then again")


def test_who_clicks_holds_the_place_until_the_start_has_it(lab, window):
    page = window("s3")
    held: list[int] = []
    page.on("response", lambda answer: held.append(answer.status) if "/labspawner/place" in answer.url else None)
    page.goto(f"/hub/spawn?profile={GPU}")

    click_start(page)

    page.wait_for_url("**/spawn-pending/**")
    assert held == [200]
    eventually_sync(lambda: [lease.provider for lease in leases(lab, "s3")] == ["cards"], 60, "it has the place")


def test_the_keyboard_is_enough(lab, window):
    page = window("s4")
    page.goto("/hub/spawn")
    page.locator(f"input[value='{GPU}']").focus()
    page.keyboard.press("ArrowDown")
    assert page.locator(f"input[value='{SPARE}']").is_checked()
    page.keyboard.press("ArrowUp")

    with page.expect_response(lambda answer: answer.request.method == "POST" and "/hub/spawn" in answer.url):
        page.keyboard.press("Enter")

    page.wait_for_url("**/spawn-pending/**")
    eventually_sync(lambda: [lease.profile for lease in leases(lab, "s4")] == [GPU], 60, "it starts")


def test_the_same_works_without_javascript(lab, window):
    page = window("s5", java_script_enabled=False)
    page.goto("/hub/spawn")
    assert card(page, HUGE).locator(".lab-why").inner_text() == "Pick another profile, and tell your instructor."
    assert card(page, "dl101/closed").locator("input").is_disabled()

    card(page, HUGE).get_by_role("button").click()

    page.wait_for_url("**/spawn-pending/**")
    eventually_sync(
        lambda: [(lease.provider, lease.profile) for lease in leases(lab, "s5")] == [("lab", HUGE)],
        60,
        "it starts there",
    )


def test_a_link_chooses_and_one_that_names_nothing_of_ones_own_says_so(window):
    page = window("s6")
    page.goto(f"/hub/spawn?opt-profile={SPARE}")
    assert page.locator(f"input[value='{SPARE}']").is_checked()
    assert page.locator("#lab-chosen").inner_text() == "Python notebook"

    page.goto("/hub/spawn?profile=%22%3E%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E/x")
    assert "names a profile that is not in this list" in page.locator("main").inner_text()


def test_what_an_instructor_wrote_is_text_and_nothing_else(window):
    page = window("s7")
    page.goto("/hub/spawn")

    assert card(page, "dl101/evil").locator(".lab-card-title").inner_text() == EVIL
    assert page.locator("img[src='x']").count() == 0
    eventually_sync(
        lambda: card(page, "dl101/evil").locator(".lab-elsewhere button").inner_text() == f"Start on {EVIL} now", 60
    )


@pytest.mark.usefixtures("others")
def test_another_window_says_that_the_server_starts_already(lab, window):
    page = window("s6")
    page.goto("/hub/spawn")
    says(page, "free", SPARE)

    lab.ask("s6", {"profile": GPU})

    eventually_sync(lambda: "starting already" in page.locator("#lab-news").inner_text(), 60)


@pytest.mark.parametrize(("language", "width", "theme"), VIEWS)
@pytest.mark.usefixtures("others")
def test_each_state_can_be_seen_read_and_used_by_everybody(lab, window, screenshots: Path, language, width, theme):
    take(lab, "s8", "s9")
    lab.start_server("s0", SPARE, name="second")
    page = window("s0", language, width, theme)
    look = Looks(page, screenshots, f"{language}-{width}-{theme}")

    page.goto(f"/hub/spawn?profile={GPU}")
    eventually_sync(lambda: card(page).locator(".lab-elsewhere button").count(), 60)
    look("choosing")
    click_start(page)
    page.wait_for_url("**/spawn-pending/**")
    eventually_sync(page.locator("#lab-instead").is_visible, 60)
    look("waiting")
    page.goto("/hub/home")
    look("home")
    page.goto("/hub/spawn-pending/s0")
    page.click("#lab-cancel")
    page.wait_for_url("**/hub/home")
    aside(lab.wait_gone, "s0")
    lab.ask("s0", {"profile": HUGE})
    eventually_sync(
        lambda: (
            page.goto("/hub/spawn-pending/s0")
            and page.locator(".lab-panel-bad").count()
            and page.locator(".lab-instead button").is_visible()
        ),
        60,
        "it has failed, and something else is offered",
    )
    look("failed")


class Looks:
    """Takes a picture of each page, and asks axe-core what is wrong with it."""

    def __init__(self, page: Page, folder: Path, name: str) -> None:
        self.page, self.folder, self.name = page, folder, name

    def __call__(self, what: str) -> None:
        self.page.screenshot(path=self.folder / f"choosing-{what}-{self.name}.png", full_page=True)
        assert self.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), f"{what} is too wide"
        if axe.script() is not None:
            assert axe.faults(self.page) == []
