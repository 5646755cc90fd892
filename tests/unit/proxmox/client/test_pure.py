"""The breaker, the order of endpoints, routes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labspawner.providers.proxmox.breaker import Breaker
from labspawner.providers.proxmox.endpoints import Endpoints
from labspawner.providers.proxmox.routes import route_of


def test_those_that_were_under_way_together_count_as_one_refusal():
    breaker = Breaker()
    assert breaker.refused(10.0, asked_at=7.0, why="no")

    assert not breaker.refused(10.5, asked_at=7.1, why="no")

    assert breaker.again_in(10.5) == 9.5


def test_the_pause_grows_to_ten_minutes_and_no_further():
    breaker, now = Breaker(), 0.0
    for _ in range(20):
        breaker.refused(now, asked_at=now, why="no")
        now += breaker.again_in(now)

    assert breaker.again_in(now - 1) == 1.0
    breaker.refused(now, asked_at=now, why="no")
    assert breaker.again_in(now) == 600.0


def test_a_try_without_an_answer_lets_the_next_one_try():
    breaker = Breaker()
    breaker.refused(0.0, asked_at=0.0, why="no")
    assert breaker.held_back(10.0) is None
    assert breaker.held_back(10.1) is not None

    breaker.unsettled(11.0, asked_at=10.0)

    assert breaker.held_back(11.1) is None


def test_what_was_under_way_before_the_refusal_says_nothing_about_it():
    breaker = Breaker()
    breaker.refused(10.0, asked_at=8.0, why="no")

    breaker.worked(asked_at=9.0)
    breaker.unsettled(11.0, asked_at=9.5)

    assert breaker.held_back(11.0) == 9.0
    assert breaker.why == "no"


def test_success_forgets_how_long_the_pauses_were():
    breaker = Breaker()
    for at in (0.0, 100.0, 200.0):
        breaker.refused(at, asked_at=at, why="no")
    breaker.worked(asked_at=200.0)
    assert breaker.held_back(200.0) is None

    breaker.refused(300.0, asked_at=300.0, why="no")

    assert breaker.again_in(300.0) == 10.0


def test_the_one_that_failed_is_tried_again_after_a_minute_by_one_request():
    endpoints = Endpoints(["https://a:1", "https://b:1"])
    first, second = endpoints.all
    endpoints.failed(first, 0.0, "refused")
    assert endpoints.order(59.0) == [second, first]

    assert endpoints.order(60.0) == [first, second]
    assert endpoints.order(60.1) == [second, first]

    endpoints.worked(first, 61.0)
    assert endpoints.order(61.0) == [first, second]


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.floats(0, 100)), max_size=30))
def test_each_endpoint_is_asked_in_the_end_and_none_twice(history):
    endpoints, now = Endpoints(["https://a:1", "https://b:1", "https://c:1"]), 0.0
    for which, worked, later in history:
        now += later
        endpoint = endpoints.all[which]
        if worked:
            endpoints.worked(endpoint, now)
        else:
            endpoints.failed(endpoint, now, "no")
        order = endpoints.order(now)
        assert sorted(each.url for each in order) == [each.url for each in endpoints.all]


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/version", "/version"),
        ("/cluster/resources", "/cluster/resources"),
        ("/nodes/pve1/qemu/100/clone", "/nodes/{node}/qemu/{vmid}/clone"),
        ("/nodes/pve1/qemu/100", "/nodes/{node}/qemu/{vmid}"),
        ("/nodes/pve1/tasks/UPID%3Apve1%3A/status", "/nodes/{node}/tasks/{upid}/status"),
        ("/nodes/pve1/tasks", "/nodes/{node}/tasks"),
        ("/nodes/pve1/storage/ssd/content/ssd%3A1%2Fx", "/nodes/{node}/storage/{name}/content/{volume}"),
        ("/nodes/pve1/qemu/100/snapshot/ready/rollback", "/nodes/{node}/qemu/{vmid}/snapshot/{name}/rollback"),
        ("/nodes/pve1/hardware/pci/0000%3A01/mdev", "/nodes/{node}/hardware/pci/{name}/mdev"),
        ("/pools/labs", "/pools/{name}"),
    ],
)
def test_a_path_is_counted_by_its_route(path, route):
    assert route_of(path) == route
