"""A student's day in a real browser against the real product."""

from __future__ import annotations

import contextlib
import json
import os
import re

import pytest
from web.steps import end, follow, run_cell

from labspawner.testing.waiting import eventually_sync

pytestmark = [pytest.mark.web, pytest.mark.hub, pytest.mark.timeout(900)]

playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")

PASSWORD = "open-sesame"

VIEWS = (("en", 1280, "light"), ("zh-CN", 360, "light"), ("zh-CN", 1280, "dark"), ("en", 360, "dark"))

NOTEBOOK = {
    "cells": [
        {
            "cell_type": "code",
            "id": "a1",
            "execution_count": None,
            "metadata": {},
            "outputs": [],
            "source": "print(6*7)",
        }
    ],
    "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}


def log_in(page, user):
    page.goto("/hub/login")
    page.fill("#username_input", user)
    page.fill("#password_input", PASSWORD)
    page.click("#login_submit")
    page.wait_for_url(lambda url: "/login" not in url)


def choose(page, profile, user):
    page.goto(f"/hub/spawn/{user}")
    page.locator(f"input[name=profile][value='{profile}']").check()
    follow(
        page, page.locator("#lab-start")
    )  # whoever goes elsewhere before that page is there may be interrupted by it


def hold(page, user, seconds):
    """Keep the server although it seems to be idle, as its page in JupyterLab can; 0: no longer."""

    def held():
        xsrf = [c["value"] for c in page.context.cookies() if c["name"] == "_xsrf" and c["path"].startswith("/user/")]
        assert xsrf, "the server's own page has not come yet"
        answer = page.request.post(
            f"/user/{user}/labspawner/hold", data={"seconds": seconds}, headers={"X-XSRFToken": xsrf[0]}
        )
        assert answer.ok, answer.text()  # 503 where the hub is too busy to answer it
        return True

    eventually_sync(held, 40, f"{user} is held for {seconds} s")


def put(path, text):
    """A file of the student's own, whoever that is on this machine."""
    path.write_text(text)
    owner = path.parent.stat()
    os.chown(path, owner.st_uid, owner.st_gid)


def arrives(page, path):
    """Wait until the page is there; what it says instead is told."""

    def there():
        assert path in page.url, f"{page.url} says: {page.locator('body').inner_text()[:1500]}"
        return True

    eventually_sync(there, 40, f"the page is at {path}")


def fits(page):
    """No part of the page is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_student_works_is_culled_and_reads_why(open_page, product):
    page = open_page()
    log_in(page, "student1")

    # pick a profile, land in JupyterLab
    choose(page, "py101/base", "student1")
    arrives(page, "/user/student1/lab")  # by way of the pending page, where it takes more than a second
    hold(page, "student1", 3600)  # a slow page is no idle student
    page.locator("#jp-main-dock-panel").wait_for()

    # run a cell
    put(product.folder / "data" / "providers" / "local" / "homes" / "student1" / "answer.ipynb", json.dumps(NOTEBOOK))
    page.goto("/user/student1/lab/tree/answer.ipynb?reset")
    run_cell(page, 0, page.locator(".jp-OutputArea-output", has_text="42").first)

    # log out, be culled, log in and read why
    hold(page, "student1", 0)
    page.goto("/hub/home")
    page.click(".lab-menu summary")
    page.click("#logout")
    eventually_sync(
        lambda: "culled user='student1'" in product.log(), deadline_s=60, what="the culler stops the server"
    )
    log_in(page, "student1")
    page.goto("/hub/home")
    notice = page.locator(".lab-notice")
    notice.wait_for()
    assert "Python notebook" in notice.inner_text()
    assert re.search(r"idle for .*limit is 1 min 30 s", notice.inner_text(), re.IGNORECASE)


def test_the_same_works_without_javascript(open_page):
    page = open_page("zh-CN", 360, java_script_enabled=False)
    log_in(page, "student2")
    page.goto("/hub/spawn/student2")
    assert page.locator("html").get_attribute("lang") == "zh-CN"

    page.locator("label", has_text="慢速启动").click()
    page.click("#lab-start")
    page.wait_for_url("**/hub/spawn-pending/**")
    assert page.locator("h1").inner_text() == "正在启动您的服务器"
    page.locator("#progress-log li").first.wait_for()

    page.click("#lab-cancel")

    def off():
        with contextlib.suppress(playwright.Error):  # the page looks again by itself, and may do so just now
            page.goto("/hub/home")
        return page.locator("a#start", has_text="选择配置").count()

    eventually_sync(off, deadline_s=60, what="it can be started again")


def test_a_start_that_failed_is_explained_and_the_next_one_can_be_chosen(open_page, screenshots):
    for language, width, theme in VIEWS:
        page = open_page(language, width, theme)
        log_in(page, "student3")
        choose(page, "py101/broken", "student3")
        page.locator(".lab-panel-bad").wait_for()

        assert page.locator("script", has_text="alert(1)").count() == 0
        assert page.locator(".lab-say").inner_text() != ""
        page.click(".lab-details summary")
        assert "no module named lab" in page.locator(".lab-details pre").inner_text()
        assert fits(page)
        page.screenshot(path=screenshots / f"failed-{language}-{width}-{theme}.png", full_page=True)

        page.click("#start")
        page.wait_for_url("**/hub/spawn/**")
        assert page.locator("input[name=profile]:checked").get_attribute("value") == "py101/broken"
        page.context.close()


def test_progress_can_be_watched_left_and_cancelled(open_page, screenshots):
    for language, width, theme in VIEWS:
        page = open_page(language, width, theme)
        log_in(page, "student2")
        choose(page, "py101/slow", "student2")
        page.locator("#progress-log li").first.wait_for()
        assert fits(page)
        page.screenshot(path=screenshots / f"pending-{language}-{width}-{theme}.png", full_page=True)

        page.goto("/hub/home")
        page.click("a#start")
        page.wait_for_url("**/hub/spawn-pending/**")
        page.locator("#progress-log li").first.wait_for()
        page.click("#lab-cancel")
        page.wait_for_url("**/hub/home")
        end(page)
        page.context.close()


def test_progress_is_seen_through_a_proxy_that_holds_streams_back(open_page, stalls):
    page = open_page()
    stalls("boot")
    page.route(re.compile(r"/server/progress"), lambda route: None)
    log_in(page, "student3")

    choose(page, "py101/quick", "student3")

    page.locator("#progress-log li").nth(1).wait_for()
    stalls(None)
    arrives(page, "/user/student3/")
    end(page)


def test_pages_fit_every_width_in_both_languages_and_themes(open_page, screenshots):
    for language, width, theme in VIEWS:
        page = open_page(language, width, theme)
        for name, path in (("login", "/hub/login"), ("spawn", "/hub/spawn/teacher"), ("home", "/hub/home")):
            if name == "spawn":
                log_in(page, "teacher")
            page.goto(path)
            page.wait_for_load_state("networkidle")
            assert page.locator("html").get_attribute("lang") == language
            assert fits(page), f"{name} is wider than {width}"
            page.screenshot(path=screenshots / f"{name}-{language}-{width}-{theme}.png", full_page=True)
        page.goto("/hub/nowhere")
        assert page.locator(".error h1").inner_text() != ""
        assert fits(page)
        page.screenshot(path=screenshots / f"error-{language}-{width}-{theme}.png", full_page=True)
        page.context.close()


def test_the_language_is_switched_where_one_is_and_remembered(open_page):
    page = open_page("en")
    log_in(page, "teacher")
    page.goto("/hub/spawn/teacher")

    page.click("#lab-language")

    assert page.url.endswith("/hub/spawn/teacher")
    assert page.locator("h1").inner_text() == "启动服务器"
    page.goto("/hub/home?lang=en")
    page.goto("/hub/home")
    assert page.locator("h1").inner_text() == "My server"


def test_the_language_switch_leads_to_no_other_site(open_page):
    page = open_page("en")

    page.goto("/hub/labspawner/language?to=zh-CN&next=//example.org/")

    assert "example.org" not in page.url
    assert page.locator("html").get_attribute("lang") == "zh-CN"


def test_a_profile_is_chosen_and_its_options_are_set_with_the_keyboard(open_page):
    page = open_page()
    log_in(page, "teacher")
    page.goto("/hub/spawn/teacher")

    page.locator("input[name=profile]").first.focus()
    page.keyboard.press("ArrowDown")
    assert page.locator("input[name=profile]:checked").get_attribute("value") == "py101/slow"
    assert page.locator("#lab-chosen").inner_text() == "A slow start"
    page.locator(".lab-options summary").focus()
    page.keyboard.press("Enter")
    page.locator("select").focus()
    page.keyboard.press("ArrowDown")
    assert page.locator("input[name=profile]:checked").get_attribute("value") == "py101/base"


def test_nobody_stops_the_server_of_someone_else(open_page):
    page = open_page()
    log_in(page, "student1")
    page.goto("/hub/home")
    xsrf = page.evaluate("window.jhdata.xsrf_token")

    answer = page.request.post("/hub/labspawner/stop/student2", form={"_xsrf": xsrf})
    without_token = page.request.post("/hub/labspawner/stop/student1")
    nobody = page.request.get("/hub/labspawner/progress/nobody")

    assert answer.status == 404
    assert without_token.status == 403
    assert nobody.status == 404


def test_a_wrong_password_is_said_in_the_readers_language(open_page):
    page = open_page("zh-CN")
    page.goto("/hub/login")
    page.fill("#username_input", "student1")
    page.fill("#password_input", "wrong")
    page.click("#login_submit")

    assert page.locator(".login_error").inner_text() == "用户名或密码错误"
