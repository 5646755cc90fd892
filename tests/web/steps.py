"""What tests in a real browser do again and again, in a way that a slow browser cannot get between: a click that leads to
another page, the end of a server, a cell that runs."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from labspawner.testing.waiting import eventually_sync

playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")

STARTED_MS = 60_000
TRY_MS = 20_000
# What the page's own button posts. At once: a page that looks again might take the button away before a click comes.
# And answered: whoever leaves the page before that may take the request away with it.
_STOP = """
async () => {
  const form = document.querySelector("#lab-stop")?.closest("form");
  if (!form) return;
  const headers = { Accept: "application/json" };
  await fetch(form.action, { method: "POST", headers, body: new URLSearchParams(new FormData(form)) });
}
"""


def follow(page: Any, link: Any) -> None:
    """Click on what leads to another page, and wait until that one is there with its scripts."""
    with page.expect_event("load"):
        link.click()


def end(page: Any) -> None:
    """End whatever runs, as the button on the home page does, and wait until it can be started again."""
    page.goto("/hub/home")
    page.evaluate(_STOP)
    eventually_sync(
        lambda: page.goto("/hub/home") and page.locator("a#start[href*='/spawn']").count(), 60, "it has stopped"
    )


def run_cell(page: Any, number: int, output: Any) -> None:
    """Run a cell of the notebook that is open, counted from 0, and wait for what it prints.

    Keys that come while a slow page still moves the focus are lost, and a cell that is sent before the page has its kernel
    never runs: so they are sent until it has printed. To run it twice must be harmless.
    """

    def ran() -> bool:
        with contextlib.suppress(playwright.TimeoutError):
            page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").first.wait_for(timeout=STARTED_MS)
            page.locator(".jp-Notebook .jp-Cell .cm-content").nth(number).click(timeout=TRY_MS)
            page.keyboard.press("Shift+Enter")
            output.wait_for(timeout=TRY_MS)
            return True
        return False

    eventually_sync(ran, 60, f"cell {number} has printed")
