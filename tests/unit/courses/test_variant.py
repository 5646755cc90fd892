"""Another variant of a profile, picked by its number: only where the course lets students pick."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.courses.course_files import a_course, a_profile, a_snapshot

from labspawner.courses import Choice, options_from_form, parse_choice
from labspawner.errors import BadChoice
from labspawner.ordering import order_for

NOW = datetime(2026, 11, 2, 10, 0, tzinfo=timezone.utc)
BOTH: list[dict[str, Any]] = [{"provider": "lab", "memory": "2GiB"}, {"provider": "spare", "title": "Spare"}]
SNAPSHOT = a_snapshot(
    a_course(
        "py101",
        a_profile("ask", variants=BOTH),
        a_profile("auto", variants=BOTH, fallback="auto"),
        a_profile("never", variants=BOTH, fallback="never"),
        a_profile("named", variants=BOTH, options={"variant": {"title": "V", "choices": {"a": {"title": "A"}}}}),
    )
)


def choose(user_options: object) -> Choice:
    return parse_choice(user_options, SNAPSHOT, {"course-py101"}, False, NOW)


def order(choice: Choice) -> Any:
    return order_for(choice, user="s", server_name="", base_url="/", command=(), environment={})


@pytest.mark.parametrize("number", [2, "2"])
@pytest.mark.parametrize("profile", ["py101/ask", "py101/auto"])
def test_a_variant_is_picked_by_its_number(profile: str, number: object) -> None:
    ours = choose({"profile": profile, "options": {}, "variant": number})
    flat = choose({"profile": profile, "variant": number})

    assert ours == flat
    assert (ours.variant, choose(ours.to_user_options())) == (1, ours)


@pytest.mark.parametrize("nothing", [{}, {"variant": None}, {"variant": ""}, {"variant": 1}])
def test_without_a_number_it_is_the_first(nothing: dict[str, Any]) -> None:
    choice = choose({"profile": "py101/ask", "options": {}, **nothing})

    assert choice.variant == 0
    assert choice.to_user_options() == {"profile": "py101/ask", "options": {}}


@pytest.mark.parametrize("number", [0, 3, -1, True, 1.0, "x", "２", "1e9", [2], {"a": 1}, 10**30, "9" * 50])
def test_any_other_number_is_refused_with_a_sentence(number: object) -> None:
    with pytest.raises(BadChoice) as caught:
        choose({"profile": "py101/ask", "options": {}, "variant": number})

    assert "from 1 to 2" in caught.value.message


def test_where_the_course_lets_nobody_pick_only_the_first_is_taken() -> None:
    assert choose({"profile": "py101/never", "options": {}, "variant": 1}).variant == 0
    with pytest.raises(BadChoice, match="first way only"):
        choose({"profile": "py101/never", "options": {}, "variant": 2})


def test_an_option_that_is_called_so_is_an_option_in_the_flat_shape() -> None:
    flat = choose({"profile": "py101/named", "variant": "a"})
    both = choose({"profile": "py101/named", "options": {"variant": "a"}, "variant": 2})

    assert (flat.options, flat.variant) == ({"variant": "a"}, 0)
    assert (both.options, both.variant) == ({"variant": "a"}, 1)


def test_the_button_of_a_card_counts_whatever_else_is_marked() -> None:
    form = {"profile": ["py101/never"], "option--py101--named--variant": ["a"], "variant": ["py101/named:2"]}

    assert options_from_form(form) == {"profile": "py101/named", "options": {"variant": "a"}, "variant": "2"}


@given(st.text(max_size=20))
def test_any_button_is_read_without_an_error_and_picks_nothing_that_is_not_there(value: str) -> None:
    options = options_from_form({"profile": ["py101/ask"], "variant": [value]})
    try:
        assert choose(options).variant in {0, 1}
    except Exception as refused:
        assert type(refused).__name__ in {"BadChoice", "NotAllowed"}  # noqa: PT017 - either is right


def test_the_order_begins_with_what_was_picked_and_the_lease_remembers_it() -> None:
    picked = order(choose({"profile": "py101/auto", "options": {}, "variant": 2}))

    assert [(variant.provider, variant.index) for variant in picked.variants] == [("spare", 1), ("lab", 0)]
    assert (picked.pinned["index"], picked.fallback, picked.ask) == (1, True, False)
    assert [variant.pinned["index"] for variant in picked.variants] == [1, 0]


@pytest.mark.parametrize(
    ("profile", "ask", "fallback"), [("ask", True, False), ("auto", False, True), ("never", False, False)]
)
def test_an_order_says_whether_who_waits_may_take_another(profile: str, ask: bool, fallback: bool) -> None:
    found = order(choose({"profile": f"py101/{profile}"}))

    assert (found.ask, found.fallback) == (ask, fallback)
