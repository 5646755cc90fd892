"""The home page in front of a real hub: its data, its buttons, and whose they are."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress

from labspawner.model import Phase
from labspawner.testing.waiting import eventually_sync
from labspawner.testing.web import Client


def fresh(browser):
    answer = browser.get("/hub/labspawner/home")
    assert answer.status == 200
    return json.loads(answer.text)


def test_the_page_asks_for_its_own_servers_and_gets_them_as_the_page_shows_them(hub, student):
    browser = hub.login(student)
    hub.start_server(student, "py101/sim")

    answer = fresh(browser)

    assert answer["user"] == student
    assert [(one["name"], one["state"]) for one in answer["servers"]] == [("", "running")]
    assert "Simulated" in answer["html"]
    assert 'name="_xsrf"' in answer["html"]


def test_without_a_log_in_there_is_no_data_and_no_redirect(hub, student):
    stranger = Client(hub.base)

    answer = stranger.call("GET", "/hub/labspawner/home")
    with_a_token = hub.api.call("GET", "/hub/labspawner/home")

    assert (answer.status, json.loads(answer.text)) == (403, {"v": 1, "user": None})
    assert with_a_token.status == 403
    assert stranger.call("POST", f"/hub/labspawner/extend/{student}").status == 403


def test_a_server_that_ended_while_nobody_looked_is_noticed_by_the_look(hub, student):
    browser = hub.login(student)
    hub.start_server(student, "py101/base")
    for process in hub.processes(student):
        with suppress(ProcessLookupError):  # it ended with its parent
            os.kill(process.pid, signal.SIGKILL)

    def told():
        now = fresh(browser)
        return [one["state"] for one in now["servers"]] == ["off"] and "stopped by itself" in now["html"]

    eventually_sync(told, 20, "the page says that it is gone, and why")


def test_an_administrator_sees_the_sandbox_of_each_provider_and_nobody_else_does(hub, student):
    hub.start_server(student, "py101/sim")

    page = hub.login("admin").get("/hub/labspawner/admin")

    assert page.status == 200
    assert "Provider sim" in page.text
    assert student in page.text
    assert hub.login(student).get("/hub/labspawner/admin").status in {403, 404}


PARKING = """
course: py101
title: Python
profiles:
  - {slug: vm, title: A VM, variants: [{provider: sim, settings: {start_s: 0.05}}]}
"""


def test_who_parked_a_server_deletes_it_and_nobody_else_can(new_hub):
    hub = new_hub(courses={"py101.yaml": PARKING}, providers={"sim": {"park": True}})
    hub.start()
    hub.start_server("student1", "py101/vm")
    assert hub.api.call("DELETE", "/hub/api/users/student1/server").status in {202, 204}
    eventually_sync(lambda: hub.lease("student1").phase is Phase.PARKED, 30, "it is parked")
    parked = hub.lease("student1")
    owner, other = hub.login("student1"), hub.login("student2")
    place = "/hub/labspawner/discard/student1"

    page = owner.get("/hub/home").text
    assert f'value="{parked.id}"' in page
    assert "Choose a profile" in page
    assert other.get("/hub/home").status == 200
    assert other.post_form(place, {"lease": parked.id}).status in {403, 404}
    assert owner.post_form(place, {"lease": "another"}).status == 404
    assert owner.call("POST", place).status == 403  # without the token of the form
    assert hub.lease("student1") == parked

    owner.post_form(place, {"lease": parked.id})

    eventually_sync(lambda: hub.leases() == [], 20, "it is gone")
    assert "Delete it" not in owner.get("/hub/home").text
    assert owner.post_form(place, {"lease": parked.id}).status == 404
