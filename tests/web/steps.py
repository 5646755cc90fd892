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


def stop(page: Any) -> None:
    """Click on Stop, and on the question before it where something runs, while the page renders itself anew."""
    question = page.locator("details.lab-confirm:not([open]) summary")

    def clicked() -> bool:
        with contextlib.suppress(playwright.TimeoutError):
            if question.count():
                question.click(timeout=TRY_MS)
            page.locator("#lab-stop").click(timeout=TRY_MS)
            return True
        return False

    eventually_sync(clicked, 60, "Stop was clicked")


def end(page: Any) -> None:
    """End whatever runs, as the button on the home page does, and wait until it can be started again."""

    def ended() -> bool:
        page.goto("/hub/home")
        if page.locator("a#start[href*='/spawn/']").count():  # not spawn-pending, the link of what is starting
            return True
        page.evaluate(_STOP)  # once more: a start that is just done cannot be cancelled
        return False

    eventually_sync(ended, 60, "it has stopped")


def write(page: Any, text: str) -> None:
    """Write at the end of the open document. What comes while a slow page moves the focus is lost: so it is looked at."""

    def written() -> bool:
        page.locator(".cm-content").click()
        page.keyboard.press("Control+End")
        page.keyboard.insert_text(text)  # at once, so never half of it
        return text.strip() in page.locator(".cm-content").inner_text()

    eventually_sync(written, 60, f"{text!r} is in the document")


def run_cell(page: Any, number: int, output: Any) -> None:
    """Run a cell of the notebook that is open, counted from 0, and wait for what it prints."""
    eventually_sync(lambda: tried_cell(page, number, output), 60, f"cell {number} has printed")


def tried_cell(page: Any, number: int, output: Any) -> bool:
    """One try to run a cell of the notebook that is open, counted from 0: whether `output` came.

    Keys that come while a slow page still moves the focus are lost, and JupyterLab asks for a kernel where a cell is sent
    before the page has its own: so a test tries again, and to run the cell twice must be harmless.
    """
    if output.is_visible():  # an earlier try did, late
        return True
    with contextlib.suppress(playwright.TimeoutError):
        for question in page.locator(".jp-Dialog").all():
            question.locator(".jp-mod-accept").click(timeout=TRY_MS)
        page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").first.wait_for(timeout=STARTED_MS)
        page.locator(".jp-Notebook .jp-Cell .cm-content").nth(number).click(timeout=TRY_MS)
        page.keyboard.press("Shift+Enter")
        output.wait_for(timeout=TRY_MS)
        return True
    return False
