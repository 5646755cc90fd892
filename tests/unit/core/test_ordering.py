"""A checked choice as an order: complete, and sharing nothing with the course."""

from __future__ import annotations

from datetime import timedelta

import pytest

from labspawner.courses import Choice, Course
from labspawner.ordering import DEFAULT_READY_TIMEOUT_S, order_for


def an_order(**profile: object):
    variants = profile.pop("variants", [{"provider": "local", "memory": "2GiB"}])
    course = Course.model_validate(
        {
            "course": "dl101",
            "title": {"en": "Deep Learning"},
            "profiles": [{"slug": "gpu", "title": {"en": "GPU"}, "variants": variants, **profile}],
        }
    )
    choice = Choice(profile_key="dl101/gpu", course=course, profile=course.profiles[0], options={})
    return order_for(
        choice,
        user="ann",
        server_name="x",
        base_url="/user/ann/x/",
        command=("jupyterhub-singleuser",),
        environment={"A": "b"},
    )


def test_an_order_has_all_variants_in_their_order_with_their_time():
    order = an_order(
        variants=[{"provider": "kubernetes", "start_timeout": "5m"}, {"provider": "local", "settings": {"x": [1]}}]
    )

    assert [variant.provider for variant in order.variants] == ["kubernetes", "local"]
    assert [variant.ready_timeout_s for variant in order.variants] == [300.0, DEFAULT_READY_TIMEOUT_S]
    assert order.variants[1].settings == {"x": [1]}
    assert (order.profile, order.user, order.server_name) == ("dl101/gpu", "ann", "x")
    assert order.profile_rev
    assert order.pinned["title"] == {"en": "GPU"}


@pytest.mark.parametrize(("fallback", "falls"), [("auto", True), ("never", False), ("ask", False)])
def test_only_auto_falls_back_by_itself(fallback: str, falls: bool):
    assert an_order(fallback=fallback).fallback is falls


@pytest.mark.parametrize(("queue", "waits"), [("wait", timedelta(minutes=7)), ("fail", timedelta(0))])
def test_who_does_not_queue_fails_at_once(queue: str, waits: timedelta):
    assert an_order(queue=queue, queue_for="7m").wait_s == waits.total_seconds()


def test_the_limit_per_user_is_the_profiles():
    assert an_order(limits={"per_user": 3}).per_user == 3
