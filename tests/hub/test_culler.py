"""The managed culler on a hub with labspawner: the idle server goes, and the student reads why."""

from __future__ import annotations

import pytest

from labspawner.testing.waiting import eventually_sync

COURSE = """
course: py101
title: Python
profiles:
  - slug: short
    title: Short
    variants: [{provider: sim, settings: {start_s: 0.01}}]
    idle: {after: 2s, action: stop}
  - slug: long
    title: Long
    variants: [{provider: sim, settings: {start_s: 0.01}}]
    idle: {after: 2h, action: stop}
"""


@pytest.fixture
def culled_hub(new_hub):
    def make(culler):
        hub = new_hub(courses={"py101.yaml": COURSE}, culler=culler, settings={"culler_interval_s": 1})
        hub.start()
        return hub

    return make


def test_an_idle_server_is_culled_and_the_student_reads_why(culled_hub):
    hub = culled_hub("on")
    hub.start_server("student2", "py101/long")
    assert hub.ask("student1", {"profile": "py101/short"}).status in {201, 202}  # it may be over before it is seen

    hub.cull_of("student1")
    hub.wait_gone("student1", deadline_s=40)

    browser = hub.login("student1")
    for page in (browser.get("/hub/home"), browser.get("/hub/spawn/student1")):
        assert "idle for" in page.text, page.text[-4000:]
    chinese = browser.get("/hub/home?lang=zh-CN")
    assert "已空闲" in chinese.text
    decisions = [decision for decision in hub.decisions() if decision.verdict == "cull"]
    assert ("student1", True) in {(decision.user, decision.applied) for decision in decisions}
    assert {decision.user for decision in decisions} == {"student1"}
    assert hub.servers("student2")[""]["ready"]
    assert 'labspawner_culls_total{profile="py101/short"' in hub.api.call("GET", "/hub/metrics").text

    hub.start_server("student1", "py101/long")
    assert "idle for" not in browser.get("/hub/home").text


def test_a_dry_run_only_writes_down_what_it_would_do(culled_hub):
    hub = culled_hub("dry-run")
    hub.start_server("student1", "py101/short")

    eventually_sync(lambda: [d for d in hub.decisions() if d.verdict == "cull"], 40, "a decision")

    assert {decision.applied for decision in hub.decisions() if decision.verdict == "cull"} == {False}
    assert hub.servers("student1")[""]["ready"]
    assert "lab-notice" not in hub.login("student1").get("/hub/home").text
