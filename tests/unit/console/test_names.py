"""Rosters as people send them: from a spreadsheet, from a mail, in any encoding, with anything in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labspawner.service.console.names import MAX_PEOPLE, as_csv_cell, read, why_not


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("alice\nbob\n", ("alice", "bob")),
        ("alice\r\nbob\r\n\r\n", ("alice", "bob")),
        ("\ufeffalice\nbob", ("alice", "bob")),
        ("username\nalice\nbob", ("alice", "bob")),
        ("Name,Username,Mail\nAlice A.,alice,a@x\nBob B.,bob,b@x", ("alice", "bob")),
        ("学号;姓名\n2026001;张三\n2026002;李四", ("2026001", "2026002")),
        ("alice\tAlice A.\nbob\tBob B.", ("alice", "bob")),
        ('alice,"A., Alice"\nbob,"B., Bob"', ("alice", "bob")),
        ("  alice  \n\n  bob", ("alice", "bob")),
        ("id;user name;x\n1;alice;\n2;bob;", ("alice", "bob")),
    ],
)
def test_a_list_or_a_table_is_read(content, names):
    found = read(content)

    assert found.names == names
    assert found.refused == ()
    assert read(content.encode()).names == names


def test_a_table_of_a_chinese_spreadsheet_is_read_and_its_encoding_said():
    found = read("用户名,姓名\nzhangsan,张三\n李四,李四\n".encode("gbk"))

    assert found.names == ("zhangsan", "李四")
    assert found.encoding == "gbk"


def test_what_is_neither_is_refused_with_what_to_do():
    found = read(b"alice\n\xff\xff\xff\n")

    assert found.names == ()
    assert "CSV UTF-8" in str(found.problem)


def test_each_line_that_is_left_out_is_named_with_its_number():
    found = read("alice\nbo/b\n\nalice\n,x\nl" + "o" * 300 + "ng\nc\x07arl\n")

    assert found.names == ("alice",)
    assert [(line.number, str(line.reason)[:20]) for line in found.refused] == [
        (2, "A user name has no s"),
        (4, "alice stands in line"),
        (5, "There is no name in "),
        (6, "A user name has at m"),
        (7, "A user name has no c"),
    ]


def test_a_roster_that_is_too_long_is_refused_as_a_whole():
    assert len(read("\n".join(f"s{number}" for number in range(MAX_PEOPLE))).names) == MAX_PEOPLE

    found = read("\n".join(f"s{number}" for number in range(MAX_PEOPLE + 1)))

    assert found.names == ()
    assert str(MAX_PEOPLE) in str(found.problem)


@pytest.mark.parametrize(
    "name", ["a", "o'brien", "anna.müller@example.edu", "张三", "a b", "-x", "a+b", "a%2Fb", "🙂", "=1+1"]
)
def test_what_jupyterhub_takes_is_taken(name):
    assert why_not(name) is None


@pytest.mark.parametrize("name", ["", "a/b", "a\nb", "a\x00b", ".", "..", "x" * 256, "a\u2028b", "a\x7fb"])
def test_what_jupyterhub_does_not_take_is_refused(name):
    assert why_not(name) is not None


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
def test_no_cell_of_an_export_is_a_formula(text):
    assert as_csv_cell(text) == f"'{text}"
    assert as_csv_cell(f"a{text}") == f"a{text}"


@given(st.one_of(st.binary(max_size=3000), st.text(max_size=3000)))
def test_whatever_is_sent_there_are_names_or_reasons(content):
    found = read(content)

    assert len(set(found.names)) == len(found.names)
    assert all(why_not(name) is None for name in found.names)
    assert found.problem is None or not found.names


@given(st.lists(st.from_regex(r"[a-z][a-z0-9.@-]{0,20}", fullmatch=True), unique=True, min_size=1, max_size=30))
def test_a_plain_list_is_read_as_it_stands(names):
    known = {"user", "username", "login", "account", "name", "id", "netid", "uid"}
    plain = [name for name in names if name not in known]

    assert read("\n".join(plain)).names == tuple(plain)
