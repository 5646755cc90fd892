"""What changed between two revisions, by line and by meaning."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from labspawner.courses.diffing import MAX_CHANGES, Change, Line, compare

DL101 = (Path(__file__).parents[3] / "courses" / "dl101.yaml").read_text(encoding="utf-8")


def test_a_changed_value_is_shown_with_its_lines_and_its_place():
    after = DL101.replace("        gpu: {memory: 6GiB,", "        gpu: {memory: 8GiB,").replace(
        "slug: reading", "slug: papers"
    )

    found = compare(DL101, after)

    assert found.changes == (
        Change(("profiles", "gpu", "variants", "1", "gpu", "memory"), "6GiB", "8GiB"),
        Change(("profiles", "reading"), found.changes[1].before, None),
        Change(("profiles", "papers"), None, found.changes[2].after),
    )
    assert [(line.kind, line.text.strip()[:12]) for line in found.lines if line.kind in "+-"] == [
        ("-", "gpu: {memory"),
        ("+", "gpu: {memory"),
        ("-", "- slug: read"),
        ("+", "- slug: pape"),
    ]
    assert [line.kind for line in found.lines].count("…") == 3


def test_lines_carry_their_numbers_in_both_texts():
    found = compare("a\nb\nc\n", "a\nx\ny\nc\n")

    assert found.lines == (
        Line(" ", "a", 1, 1),
        Line("-", "b", old=2),
        Line("+", "x", new=2),
        Line("+", "y", new=3),
        Line(" ", "c", 3, 4),
    )


def test_the_same_text_has_no_difference():
    assert compare(DL101, DL101) == compare("", "")
    assert compare(DL101, DL101).lines == ()


def test_a_profile_that_only_moved_is_no_change_of_meaning():
    one, other = "- {slug: a, x: 1}\n", "- {slug: b, x: 2}\n"

    found = compare("profiles:\n" + one + other, "profiles:\n" + other + one)

    assert found.changes == ()
    assert found.lines


def test_a_text_that_is_no_yaml_is_compared_by_lines():
    found = compare("course: [", "course: a")

    assert found.changes == ()
    assert len(found.lines) == 2


def test_kinds_of_value_are_told_apart_and_comments_are_not():
    assert compare("a: 1\n", "a: '1'\n").changes == (Change(("a",), "1", "1"),)
    assert compare("a: true\n", "a: 1\n").changes == (Change(("a",), "true", "1"),)
    assert compare("a: 1 # x\n", "a:   1\n").changes == ()


def test_a_list_is_compared_place_by_place():
    assert compare("warn: [10m, 2m]\n", "warn: [10m, 5m, 1m]\n").changes == (
        Change(("warn", "2"), "2m", "5m"),
        Change(("warn", "3"), None, "1m"),
    )


def test_very_much_is_not_all_listed():
    before = "".join(f"k{number}: a\n" for number in range(1500))

    found = compare(before, before.replace(": a", ": b"))

    assert len(found.changes) == MAX_CHANGES
    assert len(found.lines) == 3000


@given(st.lists(st.sampled_from(["a", "b", "", "c: 1"]), max_size=30), st.lists(st.sampled_from("abc"), max_size=30))
def test_the_lines_that_are_shown_lead_from_one_text_to_the_other(old: list[str], new: list[str]):
    before, after = "\n".join(old), "\n".join(new)

    shown = compare(before, after).lines

    old, new = before.splitlines(), after.splitlines()
    assert all(old[line.old - 1] == line.text for line in shown if line.old)
    assert all(new[line.new - 1] == line.text for line in shown if line.new)
    gone = {line.old for line in shown if line.kind == "-"}
    came = {line.new for line in shown if line.kind == "+"}
    kept_old = [text for number, text in enumerate(old, 1) if number not in gone]
    kept_new = [text for number, text in enumerate(new, 1) if number not in came]
    assert kept_old == kept_new
