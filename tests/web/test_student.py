"""A student's day in a real browser against the real product."""

from __future__ import annotations

import json
import re

import pytest

from labspawner.testing.waiting import eventually_sync

pytestmark = [pytest.mark.web, pytest.mark.hub, pytest.mark.timeout(150)]

PASSWORD = "open-sesame"

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
    page.click("#lab-start")


def stop(page):
    """End whatever runs, by the page's own button."""
    page.goto("/hub/home")
    if page.locator("#lab-stop").count():
        page.click("#lab-stop")
    eventually_sync(lambda: page.goto("/hub/home") and page.locator("a#start[href*='/spawn']").count(), deadline_s=30)


def fits(page):
    """No part of the page is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_student_works_is_culled_and_reads_why(open_page, product):
    page = open_page()
    log_in(page, "student1")

    # pick a profile, watch it start, land in JupyterLab
    choose(page, "py101/base", "student1")
    page.wait_for_url("**/hub/spawn-pending/**")
    page.locator("#progress-log li", has_text="Starting JupyterLab").wait_for()
    page.wait_for_url("**/user/student1/lab**")
    page.locator("#jp-main-dock-panel").wait_for()

    # run a cell
    folder = next(path for path in product.folder.rglob("student1") if path.is_dir())
    (folder / "answer.ipynb").write_text(json.dumps(NOTEBOOK))
    page.goto("/user/student1/lab/tree/answer.ipynb")
    page.locator(".jp-Notebook .jp-Cell .cm-content").first.click()
    eventually_sync(lambda: "Idle" in page.locator("body").inner_text(), deadline_s=45, what="the kernel is idle")
    page.keyboard.press("Shift+Enter")
    page.locator(".jp-OutputArea-output", has_text="42").wait_for()

    # log out, be culled, log in and read why
    page.goto("/hub/home")
    page.click(".lab-menu summary")
    page.click("#logout")
    eventually_sync(lambda: re.search("student1", culled(product)), deadline_s=60, what="the culler stops the server")
    log_in(page, "student1")
    page.goto("/hub/home")
    notice = page.locator(".lab-notice")
    notice.wait_for()
    assert "Python notebook" in notice.inner_text()
    assert re.search(r"idle for .*limit is 20 s", notice.inner_text(), re.IGNORECASE)


def culled(product):
    return "\n".join(line for line in product.log().splitlines() if "cull" in line.lower())
