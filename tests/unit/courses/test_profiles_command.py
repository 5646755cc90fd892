"""`labspawner profiles`, the schema, and the sample courses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner, Result
from unit.courses.course_files import text_of

from labspawner.cli.profiles import profiles
from labspawner.courses import Catalog, course_schema
from labspawner.courses.yamltree import read_tree

SAMPLES = Path(__file__).parents[3] / "courses"
SAMPLE_FILES = sorted(SAMPLES.glob("*.yaml"))
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command, in a folder with one good course in `courses/`."""
    monkeypatch.chdir(tmp_path)
    Path("courses").mkdir()
    Path("courses/a.yaml").write_text(text_of(), encoding="utf-8")
    return lambda *arguments: CliRunner().invoke(profiles, [str(argument) for argument in arguments])


def test_lint_says_that_all_is_good(run: Run) -> None:
    result = run("lint")

    assert (result.exit_code, result.output) == (0, "1 course with 1 profile: all good\n")


def test_lint_prints_each_problem_with_its_place_and_fails(run: Run) -> None:
    Path("courses/b.yaml").write_text(text_of("b").replace("memory:", "memroy:"), encoding="utf-8")
    Path("courses/c.yaml").write_text(text_of("py101"), encoding="utf-8")

    result = run("lint")

    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "courses/b.yaml:7:27: unknown key 'memroy': did you mean 'memory'?",
        "courses/c.yaml:1:9: the course 'py101' is already in a.yaml: write another short name, or remove one file",
    ]
    assert result.stderr == "2 problems\n"


def test_lint_takes_files_and_folders(run: Run, tmp_path: Path) -> None:
    assert "2 courses with 2 profiles" in run("lint", "courses", "courses/a.yaml").output
    assert run("lint", "none.yaml").exit_code == 1
    assert run("lint", "--courses", tmp_path / "none").exit_code == 1


def test_lint_knows_the_providers_of_the_hub(run: Run) -> None:
    assert run("lint", "--provider", "local", "--provider", "sim").exit_code == 0
    result = run("lint", "--provider", "kubernetes")
    assert result.exit_code == 1
    assert "courses/a.yaml:7:20: the hub has no provider 'local': write one of kubernetes" in result.stdout


def test_show_prints_a_table(run: Run) -> None:
    result = run("show")

    assert result.exit_code == 0
    assert "py101/base" in result.output
    assert "local · 1 GiB" in result.output
    assert "course-py101" in result.output


def test_show_prints_all_that_a_profile_has(run: Run) -> None:
    shown = run("show", "--courses", SAMPLES, "--lang", "zh-CN").output

    for text in ("Python 笔记本", "interface: lab, simple", "45 min → stop", "8 h", "never"):
        assert text in shown
    Path("courses/g.yaml").write_text(
        text_of("g").replace("memory: 1GiB", "gpu: {memory: 6GiB, cores: 25%}, image: 'lab/x:1'")
        + "access: {everyone: true}\n",
        encoding="utf-8",
    )
    shown = run("show", "g").output
    assert "GPU 6 GiB / 25 % · lab/x:1" in shown
    assert "everyone" in shown


@pytest.mark.parametrize(("name", "count"), [("", 9), ("py101", 3), ("py101/base", 1)])
def test_show_prints_json_for_programs(run: Run, name: str, count: int) -> None:
    result = run("show", *([name] if name else []), "--json", "--courses", SAMPLES)

    entries = json.loads(result.stdout)
    assert len(entries) == count
    assert all(entry["pinned"][0]["variant"]["provider"] == "local" for entry in entries)


def test_show_says_what_there_is_when_there_is_no_such_profile(run: Run) -> None:
    result = run("show", "py102")

    assert result.exit_code == 1
    assert "no profile 'py102' in courses: the courses there are py101" in result.stderr


def test_show_tells_of_broken_files_and_shows_the_rest(run: Run) -> None:
    Path("courses/b.yaml").write_text("course: [", encoding="utf-8")

    result = run("show")

    assert result.exit_code == 0
    assert "courses/b.yaml:" in result.stderr
    assert "py101/base" in result.stdout


def test_schema_prints_the_json_schema(run: Run) -> None:
    assert json.loads(run("schema").stdout) == course_schema()


# -- the schema ----------------------------------------------------------------------------------------------------


def check(data: Any) -> None:
    jsonschema.Draft202012Validator(course_schema()).validate(data)


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(course_schema())


@pytest.mark.parametrize("path", SAMPLE_FILES, ids=lambda path: path.name)
def test_the_sample_courses_fit_the_schema(path: Path) -> None:
    check(read_tree(path.read_text(encoding="utf-8")).data)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("memory: 1GiB", "memory: 6"),
        ("memory: 1GiB", "memory: 6GB"),
        ("memory: 1GiB", "start_timeout: '20'"),
        ("memory: 1GiB", "gpu: {memory: 1GiB, cores: 101%}"),
        ("memory:", "memroy:"),
        ("provider: local, ", ""),
        ("slug: base", "slug: Base"),
        ("title: Notebook", "title: {}"),
        ("title: Notebook", "title: x\n    fallback: never ever"),
    ],
)
def test_the_schema_refuses_what_the_hub_refuses(old: str, new: str) -> None:
    check(read_tree(text_of()).data)

    with pytest.raises(jsonschema.ValidationError):
        check(read_tree(text_of().replace(old, new)).data)


def test_each_key_of_a_course_file_is_described() -> None:
    schema = course_schema()
    models = [schema, *schema["$defs"].values()]

    bare = [
        name for model in models for name, part in model.get("properties", {}).items() if not part.get("description")
    ]

    assert bare == []


# -- the samples ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def samples() -> Catalog:
    catalog = Catalog(SAMPLES)
    catalog.refresh()
    return catalog


def test_the_samples_are_good_and_run_on_a_laptop(samples: Catalog) -> None:
    assert samples.problems == ()
    assert samples.snapshot.check_providers(["local"]) == ()


def test_the_samples_are_six_profiles_or_more_in_both_languages(samples: Catalog) -> None:
    found = [profile for course in samples.courses() for profile in course.profiles]

    assert len(found) >= 6
    for part in (*samples.courses(), *found):
        assert part.summary is not None
        assert set(part.title) == set(part.summary) == {"en", "zh-CN"}


def test_the_demo_students_see_their_courses_only(samples: Catalog) -> None:
    def seen(*groups: str) -> set[str]:
        return {course.course for course, _ in samples.visible_to(groups)}

    assert seen("course-py101", "course-dl101") == {"py101", "dl101"}
    assert seen("course-py101") == {"py101"}
    assert seen("course-py101-instructors", "course-dl101-instructors") == {"py101", "dl101"}


def test_the_variants_of_the_samples_are_what_the_local_provider_takes(samples: Catalog) -> None:
    known = {"default_url", "environment"}

    for course in samples.courses():
        for profile in course.profiles:
            parts = [*profile.variants, *(c.set for o in profile.options.values() for c in o.choices.values())]
            for part in parts:
                assert set(part.settings) <= known


@pytest.mark.parametrize("path", SAMPLE_FILES, ids=lambda path: path.name)
def test_the_variants_in_comments_are_good_too(path: Path) -> None:
    """An instructor who takes the `#` away must not meet an error."""
    lines = path.read_text(encoding="utf-8").splitlines()
    text, inside = [], False
    for line in lines:
        bare = line.lstrip()
        inside = bare.startswith("# - {provider:") or (inside and bare.startswith("#  "))
        text.append(line.replace("# ", "", 1) if inside else line)

    data = read_tree("\n".join(text) + "\n").data

    check(data)
    assert {variant["provider"] for p in data["profiles"] for variant in p["variants"]} > {"local"}
