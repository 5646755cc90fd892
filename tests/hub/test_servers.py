"""Named servers, renames, metrics."""

from __future__ import annotations

import pytest

from labspawner.testing.hub import major_version, server_path
from labspawner.testing.waiting import eventually_sync


def test_named_servers_have_leases_of_their_own(hub, student):
    hub.start_server(student, "py101/sim")
    hub.start_server(student, "py101/base", name="second")

    hub.stop_server(student)

    assert list(hub.servers(student)) == ["second"]
    assert [(lease.server_name, lease.profile) for lease in hub.leases(student)] == [("second", "py101/base")]


def test_a_removed_named_server_leaves_nothing(hub, student):
    hub.start_server(student, "py101/base", name="second")

    answer = hub.api.call("DELETE", server_path(student, "second"), {"remove": True})

    assert answer.status in {202, 204}
    hub.wait_gone(student, name="second")
    assert hub.processes(student) == []


def test_a_renamed_user_keeps_the_running_server(hub, student):
    hub.start_server(student, "py101/base")
    lease = hub.lease(student)
    new_name = f"{student}-renamed"

    answer = hub.api.call("PATCH", f"/hub/api/users/{student}", {"name": new_name})

    assert answer.status == 200
    eventually_sync(lambda: [found.id for found in hub.leases(new_name)] == [lease.id], 10, "the lease followed")
    assert hub.servers(new_name)[""]["ready"]
    assert len(hub.processes()) >= 1
    hub.stop_server(new_name)
    assert hub.processes(student) == []
    hub.api.call("PATCH", f"/hub/api/users/{new_name}", {"name": student})


@pytest.mark.skipif(major_version() < 6, reason="JupyterHub renames servers since 6")
def test_a_renamed_named_server_starts_under_its_new_name(hub, student):
    hub.start_server(student, "py101/sim", name="old-name")
    hub.stop_server(student, name="old-name")

    answer = hub.api.call("PATCH", server_path(student, "old-name"), {"name": "new-name"})

    assert answer.status == 200, answer.text
    hub.start_server(student, "py101/sim", name="new-name")
    assert [lease.server_name for lease in hub.leases(student)] == ["new-name"]


def test_a_deleted_user_leaves_nothing(hub):
    hub.add_user("leaver", "course-py101")
    hub.start_server("leaver", "py101/base")

    def deleted():  # 400: it is still being stopped
        return hub.api.call("DELETE", "/hub/api/users/leaver").status in {204, 404}

    eventually_sync(deleted, what="the user is deleted")
    eventually_sync(lambda: not hub.leases("leaver"), 10, "its lease has ended")
    assert hub.processes("leaver") == []


def test_the_home_page_names_the_profile_of_the_running_server(hub, student):
    hub.start_server(student, "py101/sim")

    page = hub.login(student).get("/hub/home")

    assert page.status == 200
    assert "Simulated" in page.text


def test_metrics_tell_of_starts_leases_and_time_to_ready(hub, student):
    hub.start_server(student, "py101/sim")
    hub.ask(student, {"profile": "py101/base"}, name="other")
    hub.wait_ready(student, name="other")

    text = hub.api.call("GET", "/hub/metrics").text

    labels = 'provider="sim"'
    lines = text.splitlines()
    assert [line for line in lines if line.startswith("labspawner_starts_total{") and labels in line]
    assert [line for line in lines if line.startswith("labspawner_time_to_ready_seconds_count{") and labels in line]
    ready = [line for line in lines if line.startswith("labspawner_leases{") and 'phase="ready"' in line]
    assert any(labels in line and not line.endswith(" 0.0") for line in ready)


def test_metrics_are_not_for_everybody(hub, student):
    assert hub.login(student).get("/hub/metrics").status == 403
