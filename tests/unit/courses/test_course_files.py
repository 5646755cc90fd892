"""Reading a course file: every mistake is found at its place, with what to write instead; no file can hurt the hub."""

from __future__ import annotations

import os
from pathlib import Path
from time import thread_time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.courses.course_files import course_in, problems_in, text_of

from labspawner.courses import Loaded, check_providers, parse_course, read_course
from labspawner.courses.yamltree import MAX_BYTES


def changed(old: str, new: str) -> str:
    text = text_of()
    assert old in text
    return text.replace(old, new)


def test_a_good_file_becomes_a_course() -> None:
    course = course_in(text_of())

    assert course.course == "py101"
    assert course.profiles[0].variants[0].memory == 2**30


@pytest.mark.parametrize(
    ("old", "new", "place", "message"),
    [
        ("memory:", "memroy:", (7, 27), "unknown key 'memroy': did you mean 'memory'?"),
        ("memory: 1GiB", "memory: 6", (7, 35), "6 has no unit: write 6GiB or 6MiB"),
        ("memory: 1GiB", "cpu: many", (7, 32), "'many' is not a number, for example 2"),
        ("memory: 1GiB", "net: no", (7, 27), "unknown key 'net': a key that only one provider reads goes below"),
        ("memory: 1GiB", "gpu: {memory: 1GiB, cores: 0}", (7, 54), "0 is not a share: write a share from 1% to 100%"),
        ("provider: local, ", "", (7, 9), "'provider' is missing: write provider: local"),
        ("slug: base", "slug: Base_1", (4, 11), "'Base_1' is not a short name: write small letters a-z"),
        ("title: Notebook", "title: 2026", (5, 12), "2026 is not a text: write it in quotes"),
        ("title: Notebook", "title: Notebook\n    fallback: aks", (6, 15), "did you mean 'ask'?"),
        ("title: Notebook", "title: Notebook\n    queue: zzz", (6, 12), "'wait' or 'fail': write one of them"),
        ("title: Notebook", "title: Notebook\n    default: maybe", (6, 14), "write true or false"),
        ("title: Notebook", "title: Notebook\n    default: 3", (6, 14), "3 is neither true nor false"),
        ("title: Notebook", "title: Notebook\n    icon: 3", (6, 11), "3 is not text: put it in quotes"),
        ("title: Notebook", "title: Notebook\n    icon: too long to be one", (6, 11), "at most 8 characters"),
        ("title: Notebook", "title: Notebook\n    limits: {per_user: 0}", (6, 24), "0 is too small: write at least 1"),
        ("title: Notebook", "title: Notebook\n    limits: 3", (6, 13), "write key: value below"),
        (
            "title: Notebook",
            "title: Notebook\n    hours: 3",
            (6, 12),
            "write one line with '- ' for each, for example [",
        ),
        ("title: Notebook", "title: Notebook\n    options: {é: {title: x}}", (6, 15), "is not an option name"),
        ("title: Notebook", "display_name: Notebook\n    description: 3", (6, 18), "3 is not a text"),
        ("title: Notebook", "title: Notebook\n    description: x\n    summary: y", (4, 5), "write only 'summary'"),
        ("course: py101", "curse: py101", (1, 1), "unknown key 'curse': did you mean 'course'?"),
        ("course: py101", "course: py101\nqqqq: 1", (2, 1), "unknown key 'qqqq': remove it, or write one of course"),
        ("course: py101", "course: py101\ntimezone: Mars", (2, 11), "'Mars' is not a time zone: write it like Asia/"),
        ("course: py101", "course: py101\ntitle: x", (3, 1), "the key 'title' is there twice, first in line 2"),
        ("course: py101", "course: py101\n3: x", (2, 1), "the key 3 is not text: put it in quotes"),
        ("course: py101", "course: py101\n[a]: x", (2, 1), "a list or mapping cannot be a key"),
        ("course: py101", "course: !!python/name:os.system x", (1, 9), "tags like tag:yaml.org"),
        ("course: py101", "course: *nothing", (1, 9), "there is no &nothing above this *nothing"),
        ("course: py101", "course: &a [*a]", (1, 9), "nested more than"),
        ("course: py101", 'course: "\\ud800"', (1, 9), "half of a character"),
        ("course: py101", "course: .nan", (1, 9), "write one with digits"),
        ("course: py101", "course: 1e999", (1, 9), "write one with digits"),
        ("course: py101", "course: " + "9" * 5000, (1, 9), "a number with 5000 digits: put it in quotes"),
        ("course: py101", "course: py101\n<<: 3", (2, 1), "<< takes the keys of another mapping"),
        ("course: py101", "course: a: b", (1, 10), "a ':' that is not expected here"),
        ("course: py101", "course: 'py101", (1, 9), "a quote is not closed"),
        ("course: py101", "course: {a: b", (1, 9), "a { is not closed"),
        ("course: py101", "course: [a", (1, 9), "a [ is not closed"),
        ("course: py101", "  course: py101", (1, 3), "the indentation does not fit"),
        ("course: py101", "course:\n\tpy101", (2, 1), "indented with a tab: write spaces"),
        ("course: py101", "course: py101\nlost", (3, 6), "a ':' is missing"),
        ("course: py101", "course: @py101", (1, 9), "not readable as YAML"),
        ("course: py101", "course: py\0101", (1, 1), "a character that cannot be printed"),
        ("course: py101", "%YAML 1.1\n---\ncourse: py101", (2, 1), "lines that begin with % are not used"),
        ("course: py101", "course: py101\n---\n", (2, 1), "write one course per file"),
    ],
)
def test_a_mistake_is_found_at_its_place_with_what_to_write(
    old: str, new: str, place: tuple[int, int], message: str
) -> None:
    problems = problems_in(changed(old, new))

    told = [str(problem) for problem in problems]
    # The line is exact where it is ours to know; of broken YAML, only the reader's own guess of the column is left.
    assert any(message in text for text in told), told
    found = next(problem for problem in problems if message in problem.message)
    if not any(word in message for word in ("closed", "does not fit", "tab", "':' is missing", "not readable")):
        assert (found.line, found.column) == place, told


def test_all_mistakes_of_a_file_are_told_at_once_and_each_only_once() -> None:
    problems = problems_in(text_of().replace("memory: 1GiB", "memory: 6, cpu: x").replace("slug: base", "slug: B"))

    assert [(problem.line, problem.path) for problem in problems] == [
        (4, "profiles[0].slug"),
        (7, "profiles[0].variants[0].memory"),
        (7, "profiles[0].variants[0].cpu"),
    ]


@pytest.mark.parametrize("text", ["", "# nothing\n", "3", "- a", "just text"])
def test_a_file_that_holds_something_else_says_what_to_write(text: str) -> None:
    (problem,) = problems_in(text)

    assert "write course:, title: and profiles:" in problem.message


def test_a_place_in_a_profile_list_is_found_under_its_own_words() -> None:
    text = (
        "course: k\ntitle: K\nprofile_list:\n  - display_name: A\n    profile_options:\n      o:\n"
        "        display_name: O\n        choices:\n          c:\n            display_nme: C\n"
    )

    problems = problems_in(text)

    assert {problem.line for problem in problems} == {10}
    assert any("'title' is missing" in problem.message for problem in problems)


def test_a_mistake_in_an_override_of_kubespawner_is_found_in_it() -> None:
    text = "course: k\ntitle: K\nprofile_list:\n  - display_name: A\n    kubespawner_override:\n"

    assert [str(p)[:17] for p in problems_in(text + "      image: a b\n")] == ["course.yaml:6:14:"]
    assert [str(p)[:16] for p in problems_in(text + "      cpu_limit: 9999\n")] == ["course.yaml:6:7:"]


def test_aliases_and_merged_keys_are_followed() -> None:
    text = text_of().replace("- {provider: local", "- &small {provider: local")
    text += "      - {<<: *small, cpu: 2}\n      - {<<: [*small, {cpu: 3, disk: 1GiB}], memory: 2GiB}\n      - *small\n"

    variants = course_in(text).profiles[0].variants

    assert [(v.provider, v.cpu, v.memory) for v in variants] == [
        ("local", None, 2**30),
        ("local", 2, 2**30),
        ("local", 3, 2**31),
        ("local", None, 2**30),
    ]


def test_numbers_are_read_as_people_write_them() -> None:
    text = changed(
        "memory: 1GiB", "cpu: 2.5, settings: {a: 0x10, b: 0o17, c: 012, d: 1_000, e: -3, f: true, g: null, h: ~}"
    )

    settings = course_in(text).profiles[0].variants[0].settings

    assert settings == {"a": 16, "b": 15, "c": 12, "d": 1000, "e": -3, "f": True, "g": None, "h": None}


def test_a_date_is_text() -> None:
    text = changed("memory: 1GiB", "settings: {term: 2026-09-01, at: 10:00}")

    assert course_in(text).profiles[0].variants[0].settings == {"term": "2026-09-01", "at": "10:00"}


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=False)
)
MERGE_BOMB = "a: &a {x: 1}\n" + "".join(
    f"{b}: &{b} {{<<: [{','.join(['*' + a] * 9)}]}}\n" for a, b in zip("abcdefghi", "bcdefghij", strict=False)
)


@pytest.mark.parametrize(
    "text",
    [BOMB, MERGE_BOMB, "[" * 500_000, "{a: " * 200_000, "a: [" + "b," * 500_000 + "]", "- a\n" * 200_000, "a: &a {<<: *a}"],
    ids=["aliases", "merges", "lists", "mappings", "flow", "block", "self-merge"],
)  # fmt: skip
def test_a_bomb_is_refused_cheaply(text: str) -> None:
    started = thread_time()

    (problem,) = problems_in(text)

    assert "more than" in problem.message
    assert thread_time() - started < 5


@given(st.text(max_size=200) | st.text("{}[]:,-#&*!|>'\"%@ \n\tab<1", max_size=60))
def test_any_text_gives_a_course_or_problems(text: str) -> None:
    result = parse_course(text)

    assert isinstance(result, Loaded) or all(problem.line >= 1 and problem.message for problem in result)


# -- files ---------------------------------------------------------------------------------------------------------


def only_problem(path: Path) -> str:
    result = read_course(path)
    assert isinstance(result, tuple)
    (problem,) = result
    return str(problem)


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text_of(), encoding="utf-8-sig")

    assert isinstance(read_course(path), Loaded)


def test_a_file_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    assert "cannot be read (No such file or directory)" in only_problem(tmp_path / "no.yaml")


def test_a_file_in_another_encoding_is_told_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"course: a\ntitle: \xe9t\xe9\n")

    assert only_problem(path) == f"{path}:2:8: not UTF-8 text: save the file with the encoding UTF-8"


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"#" * (MAX_BYTES + 1))

    assert "larger than 1024 KiB" in only_problem(path)


def test_a_pipe_does_not_make_the_hub_wait(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    os.mkfifo(path)

    assert "not a regular file" in only_problem(path)


def test_a_folder_in_place_of_a_file_is_a_problem(tmp_path: Path) -> None:
    assert "Is a directory" in only_problem(tmp_path) or "not a regular file" in only_problem(tmp_path)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["locale"], "the hub has no provider 'local': did you mean 'locale'?"),
        (["proxmox", "kubernetes"], "write one of kubernetes, proxmox"),
        ([], "write one of none"),
    ],
)
def test_a_provider_that_the_hub_has_not_is_told_with_its_place(names: list[str], told: str) -> None:
    loaded = parse_course(text_of())
    assert isinstance(loaded, Loaded)

    (problem,) = check_providers(loaded, names)

    assert told in problem.message
    assert (problem.line, problem.column) == (7, 20)
    assert check_providers(loaded, ["local"]) == ()
