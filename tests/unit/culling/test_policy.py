"""What a lease pins, read as a policy."""

from __future__ import annotations

import math

import pytest

from labspawner.culling import CullPolicy
from labspawner.model import ReleaseMode


def test_all_keys_are_read():
    pinned = {
        "cull": {
            "after_s": 1200,
            "gpu_after_s": 600.5,
            "max_age_s": 14400,
            "action": "hibernate",
            "retain_s": 86400,
            "warn_s": [600, 120],
        }
    }

    assert CullPolicy.from_pinned(pinned) == CullPolicy(
        after_s=1200,
        gpu_after_s=600.5,
        max_age_s=14400,
        action=ReleaseMode.HIBERNATE,
        retain_s=86400,
        warn_s=(600, 120),
    )


@pytest.mark.parametrize("pinned", [{}, {"cull": None}, {"slug": "base"}])
def test_a_lease_that_pins_no_policy_has_none(pinned):
    assert CullPolicy.from_pinned(pinned) is None


@pytest.mark.parametrize("cull", [{}, {"after_s": None, "warn_s": None}, {"a_key_of_a_later_version": 1}])
def test_missing_and_unknown_keys_are_no_limits(cull):
    assert CullPolicy.from_pinned({"cull": cull}) == CullPolicy()


@pytest.mark.parametrize("key", ["after_s", "gpu_after_s", "max_age_s", "retain_s"])
@pytest.mark.parametrize("value", ["1200", "20m", True, 0, -1, math.nan, math.inf, 10**400, [1], {"s": 1}])
def test_a_time_of_the_wrong_type_or_size_is_refused_by_name(key, value):
    with pytest.raises(ValueError, match=key):
        CullPolicy.from_pinned({"cull": {key: value}})


@pytest.mark.parametrize("cull", ["20m", 1200, [1200], True])
def test_a_policy_that_is_no_object_is_refused(cull):
    with pytest.raises(ValueError, match="cull must be an object"):
        CullPolicy.from_pinned({"cull": cull})


@pytest.mark.parametrize("action", ["pause", "", 1, None, ["stop"]])
def test_an_unknown_action_is_refused_and_the_known_ones_are_named(action):
    with pytest.raises(ValueError, match="stop, hibernate, destroy"):
        CullPolicy.from_pinned({"cull": {"action": action}})


@pytest.mark.parametrize("warn", [600, "10m", ["10m"], [600, None], [0]])
def test_warnings_that_are_no_list_of_seconds_are_refused(warn):
    with pytest.raises(ValueError, match="warn_s"):
        CullPolicy.from_pinned({"cull": {"warn_s": warn}})


@pytest.mark.parametrize("value", [0, -5, math.nan])
def test_a_stuck_limit_out_of_range_is_refused(value):
    with pytest.raises(ValueError, match="stuck_after_s"):
        CullPolicy(stuck_after_s=value)


def test_extension_and_hold_are_read():
    policy = CullPolicy.from_pinned({"cull": {"extend": {"step_s": 1800, "per_day": 3}, "hold_s": 7200}})

    assert policy == CullPolicy(extend_step_s=1800, extend_per_day=3, hold_s=7200)


def test_a_lease_of_an_earlier_version_has_no_extensions_and_the_usual_hold():
    assert CullPolicy.from_pinned({"cull": {"extend": None}}) == CullPolicy(hold_s=4 * 3600)


@pytest.mark.parametrize("hold", [0, 0.0, None])
def test_a_hold_can_be_forbidden(hold):
    policy = CullPolicy.from_pinned({"cull": {"hold_s": hold}})

    assert policy is not None
    assert policy.hold_s == 0


@pytest.mark.parametrize(
    ("cull", "key"),
    [
        ({"extend": 4}, "cull.extend"),
        ({"extend": {}}, "cull.extend.step_s"),
        ({"extend": {"step_s": 60, "per_day": -1}}, "cull.extend.per_day"),
        ({"extend": {"step_s": 60, "per_day": True}}, "cull.extend.per_day"),
        ({"hold_s": -5}, "cull.hold_s"),
        ({"hold_s": "4h"}, "cull.hold_s"),
    ],
)
def test_an_extension_or_hold_that_cannot_be_read_names_its_key(cull, key):
    with pytest.raises(ValueError, match=key):
        CullPolicy.from_pinned({"cull": cull})
