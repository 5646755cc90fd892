"""Sizes, times and shares: what is read, what is refused and what to write instead."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from labspawner.units import (
    MAX_BYTES,
    MAX_DURATION,
    UnitError,
    human_bytes,
    human_duration,
    parse_bytes,
    parse_duration,
    parse_percent,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("6GiB", 6 * 2**30),
        ("6Gi", 6 * 2**30),
        (" 512 MiB ", 2**29),
        ("1.5KiB", 1536),
        ("1024TiB", MAX_BYTES),
        ("0.001KiB", 1),
    ],
)
def test_a_size_with_its_unit_is_read(text: str, size: int):
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (6, "write 6GiB or 6MiB"),
        ("6", "write 6GiB or 6MiB"),
        (4.5, "write 4.5GiB"),
        ("6GB", "write 6GiB (1 GiB = 1024 MiB)"),
        ("6g", "write 6GiB"),
        ("6m", "write 6MiB"),
        ("6XB", "for example 6GiB"),
        ("6%", "for example 6GiB"),
        ("0GiB", "more than 0"),
        ("0.0001KiB", "more than 0"),
        ("1025TiB", "at most 1024TiB"),
        ("9" * 400 + "GiB", "at most 1024TiB"),
        ("-1GiB", "not a size"),
        ("1e3GiB", "for example"),
        ("٦GiB", "not a size"),
        ("", "not a size"),
        ("GiB", "not a size"),
        (True, "not a size"),
        (None, "not a size"),
        (["6GiB"], "not a size"),
        (float("nan"), "not a size"),
        (float("inf"), "not a size"),
    ],
)
def test_what_is_no_size_is_refused_with_what_to_write(value: object, advice: str):
    with pytest.raises(UnitError) as refused:
        parse_bytes(value)

    assert advice in str(refused.value)


@settings(deadline=None)
@given(st.integers(1, MAX_BYTES))
def test_what_is_shown_of_a_size_can_be_read_back_to_within_a_twentieth(size: int):
    shown = human_bytes(size)

    if size >= 1024:
        assert abs(parse_bytes(shown) - size) <= size / 20
    else:
        assert shown == f"{size} B"


ANY_JSON = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.lists(st.text()),
    st.dictionaries(st.text(), st.text()),
)
LIKELY = st.from_regex(r"[0-9]{0,400}\.?[0-9]{0,5} ?(GiB|Mi|G|s|m|h|d|w|%)?", fullmatch=True)


@settings(deadline=None)
@given(st.one_of(ANY_JSON, LIKELY))
@example("9" * 400 + "GiB")
@example("9" * 400 + "d")
def test_anything_at_all_is_read_in_range_or_refused(value: Any):
    for parse, low, high in (
        (parse_bytes, 1, MAX_BYTES),
        (parse_duration, timedelta(0), MAX_DURATION),
        (parse_percent, 1, 100),
    ):
        try:
            read = parse(value)
        except UnitError as refused:
            said = str(refused)
        else:
            said = "read"
            assert low <= read <= high  # type: ignore[operator]
        assert said


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("20m", timedelta(minutes=20)),
        ("1h30m", timedelta(hours=1.5)),
        ("1h 30m", timedelta(hours=1.5)),
        ("14d", timedelta(days=14)),
        ("2w", timedelta(days=14)),
        ("0s", timedelta(0)),
        ("1.5h", timedelta(minutes=90)),
        (timedelta(seconds=5), timedelta(seconds=5)),
    ],
)
def test_a_time_with_its_unit_is_read(text: object, span: timedelta):
    assert parse_duration(text) == span


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (20, "write 20m for minutes or 20h for hours"),
        ("20", "write 20m"),
        ("20min", "for example 20m"),
        ("m", "for example 20m"),
        ("-5m", "for example 20m"),
        ("5000d", "at most ten years"),
        (False, "not a time"),
        (None, "not a time"),
    ],
)
def test_what_is_no_time_is_refused_with_what_to_write(value: object, advice: str):
    with pytest.raises(UnitError) as refused:
        parse_duration(value)

    assert advice in str(refused.value)


@pytest.mark.parametrize(("value", "percent"), [("25%", 25), (25, 25), (" 100 % ", 100), ("1", 1)])
def test_a_share_is_read(value: object, percent: int):
    assert parse_percent(value) == percent


@pytest.mark.parametrize("value", [0, 101, "0%", "1000%", "2.5%", 2.5, -1, True, None, "half"])
def test_what_is_no_share_is_refused(value: object):
    with pytest.raises(UnitError, match="from 1% to 100%"):
        parse_percent(value)


@pytest.mark.parametrize(
    ("size", "shown"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (6 * 2**30, "6 GiB"), (2**50, "1024 TiB")]
)
def test_sizes_are_shown_with_one_decimal_where_it_matters(size: int, shown: str):
    assert human_bytes(size) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 s"), (-5, "0 s"), (59.6, "1 min"), (5400, "1 h 30 min"), (90061, "1 d 1 h"), (86460, "1 d 1 min")],
)
def test_times_are_shown_in_their_two_largest_units(seconds: float, shown: str):
    assert human_duration(timedelta(seconds=seconds)) == shown
