"""Each page of the instructor in a real browser, with something on it and no hub behind it: it fits, it can be read, and no
script of it stumbles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from unit.console.pages import samples
from web import axe

from labspawner.service.console.pages.render import POLICY, STATIC_DIRS

playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
pytestmark = [pytest.mark.web, pytest.mark.timeout(900)]

BASE = "http://lab.test"
PAGES = sorted(samples.pages())
Look = Callable[..., "playwright.Page"]


def serve(route: playwright.Route, language: str) -> None:
    """Our files and the pages of `samples`; anything else is nothing."""
    path = route.request.url.removeprefix(BASE).partition("?")[0]
    if "/-/" in path:
        where, _, name = path.partition("/-/")[2].partition("/")
        route.fulfill(path=str(STATIC_DIRS[where] / name))
    elif path.startswith("/page/"):
        headers = {"Content-Security-Policy": POLICY}
        body = samples.page(path.removeprefix("/page/"), language)
        route.fulfill(body=body, content_type="text/html; charset=utf-8", headers=headers)
    elif path == "/hub/logo":
        route.fulfill(path=str(STATIC_DIRS["hub"] / "images" / "jupyterhub-80.png"))
    else:
        route.fulfill(status=204, body="")


@pytest.fixture(scope="module")
def look(chromium: playwright.Browser) -> Iterator[Look]:
    """`look(name, language, width, theme)`: the page, in a window that is kept per look; its `stumbled` says what failed."""
    windows: dict[tuple[object, ...], playwright.Page] = {}

    def opened(name: str, language: str = "en", width: int = 1280, theme: str = "light") -> playwright.Page:
        key = (language, width, theme)
        if key not in windows:
            context = chromium.new_context(
                base_url=BASE, locale=language, viewport={"width": width, "height": 800}, color_scheme=theme,
                bypass_csp=True,
            )  # fmt: skip
            context.set_default_timeout(240_000)
            context.route("**/*", lambda route: serve(route, language))
            page = windows[key] = context.new_page()
            page.stumbled = []
            page.on("pageerror", lambda error: page.stumbled.append(str(error)))
        page = windows[key]
        page.stumbled.clear()
        page.goto(f"/page/{name}")
        return page

    yield opened
    for page in windows.values():
        page.context.close()


def fits(page: playwright.Page) -> bool:
    """Whether nothing has to be pushed sideways to be seen."""
    wide: bool = page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    return wide


@pytest.mark.parametrize("name", PAGES)
def test_a_page_shuts_nobody_out_and_fits_a_wide_screen(look, name):
    page = look(name)

    assert fits(page)
    assert page.stumbled == []
    assert axe.faults(page) == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_a_phone_in_chinese_and_can_be_read_in_the_dark(look, name, screenshots: Path):
    page = look(name, "zh-CN", 390, "dark")

    assert page.get_attribute("html", "data-bs-theme") == "dark"
    page.screenshot(path=str(screenshots / f"console-{name}.zh-CN.390.png"), full_page=True)
    assert fits(page)
    assert page.stumbled == []
    assert axe.faults(page) == []


def test_what_looks_for_faults_finds_one(look):
    page = look("nothing")
    page.evaluate("document.querySelector('main').append(document.createElement('input'))")

    (fault,) = axe.faults(page)

    assert fault.startswith("label:")


def test_a_list_that_grows_keeps_what_was_picked_and_what_each_entry_means(look):
    page = look("wall")
    page.select_option("#state", "off")

    page.evaluate(
        """async () => {
          const { become } = await import("/services/labspawner/-/own/parts.js");
          const old = document.getElementById("wall-filter");
          const fresh = old.cloneNode(true);
          const parked = fresh.querySelector("#state-off").cloneNode(true);
          Object.assign(parked, { id: "state-parked", value: "parked", textContent: "Parked (1)" });
          fresh.querySelector("#state-off").before(parked);
          become(old, fresh);
        }"""
    )

    assert page.input_value("#state") == "off"
    entries = page.locator("#state option").evaluate_all("all => all.map((one) => [one.id, one.value])")
    assert all(identity == f"state-{value or 'all'}" for identity, value in entries)
    assert ["state-parked", "parked"] in entries


def test_what_is_ticked_open_and_typed_outlives_fresh_content(look):
    page = look("wall")
    page.check("[name=who] >> nth=0")
    page.fill("#q", "stu")

    page.evaluate(
        """async () => {
          const { become } = await import("/services/labspawner/-/own/parts.js");
          const old = document.getElementById("wall");
          const fresh = old.cloneNode(true);
          fresh.querySelector("#q").setAttribute("value", "");
          fresh.querySelector("progress").setAttribute("value", "29");
          fresh.querySelector("#wall-rows").append(fresh.querySelector("#wall-rows").firstElementChild);
          become(old, fresh);
        }"""
    )

    assert page.is_checked("#wall-rows tr:last-child [name=who]")
    assert page.input_value("#q") == "stu"
    assert page.locator("progress").first.get_attribute("value") == "29"
