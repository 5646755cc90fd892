"""`labspawner profiles` and the courses of a hub's console: checked, shown, taken out; and KubeSpawner's list taken in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import NOW
from click.testing import CliRunner, Result
from unit.courses.course_files import course_in, text_of

from labspawner.cli.profiles import profiles
from labspawner.model import CourseState
from labspawner.store import Store

Run = Callable[..., Result]
CONFIG = """
c.Labspawner.data_dir = "data"
c.Labspawner.hub_id = "hub"
c.Labspawner.providers = {"local": {}, "kubernetes": {}}
c.Labspawner.console_images = ["lab/*"]
c.KubeSpawner.profile_list = [{"display_name": "Listed", "kubespawner_override": {"image": "x"}}]
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command, beside a hub with one course in a file (py101) and three in its console."""
    monkeypatch.chdir(tmp_path)
    Path("courses").mkdir()
    Path("courses/a.yaml").write_text(text_of(), encoding="utf-8")
    Path("config.py").write_text(CONFIG, encoding="utf-8")
    Path("data").mkdir()
    asyncio.run(_write())
    return lambda *arguments: CliRunner().invoke(profiles, [str(argument) for argument in arguments])


async def _write() -> None:
    store = Store.open("sqlite:///data/labspawner.sqlite", hub_id="hub")
    await store.migrate()
    await store.coursebook.create("ml1", text_of("ml1") + "# 中\n", by="ann", now=NOW)
    await store.coursebook.create("old", "course: [", by="ann", now=NOW, state=CourseState.ARCHIVED)
    everyone = text_of("all1") + "access: {everyone: true}\n"
    await store.coursebook.create("all1", everyone, by="root", now=NOW, everyone_by="root")
    await store.close()


async def _save(slug: str, text: str) -> None:
    store = Store.open("sqlite:///data/labspawner.sqlite", hub_id="hub")
    written = await store.coursebook.get(slug)
    await store.coursebook.save(slug, text, if_match=written.etag if written else None, by="ann", now=NOW)
    await store.close()


def test_lint_checks_what_is_written_in_the_console_as_the_hub_does(run: Run):
    good = run("lint", "--config", "config.py")
    assert (good.exit_code, good.output) == (0, "3 courses with 3 profiles: all good\n")

    asyncio.run(_save("ml1", text_of("ml1").replace("memory: 1GiB", "image: 'evil:1'")))
    asyncio.run(_save("py101", text_of("py101")))
    bad = run("lint", "--config", "config.py")

    assert bad.exit_code == 1
    assert "console/ml1:7:34: 'evil:1' may not be used here: write one of lab/*" in bad.stdout
    assert "console/py101:1:9: there is a course file for 'py101', and files win" in bad.stdout


def test_show_shows_courses_of_files_and_of_the_console(run: Run):
    shown = json.loads(run("show", "--json", "--config", "config.py").stdout)

    assert [entry["profile"] for entry in shown] == ["py101/base", "all1/base", "ml1/base"]
    assert "ml1/base" not in run("show").output


def test_export_prints_what_was_written_to_the_letter(run: Run):
    result = run("export", "ml1", "--config", "config.py")

    assert (result.exit_code, result.stdout) == (0, text_of("ml1") + "# 中\n")


def test_export_gives_every_course_a_file_and_writes_over_none(run: Run):
    result = run("export", "--all", "out", "--config", "config.py")

    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in Path("out").iterdir()) == ["all1.yaml", "ml1.yaml", "old.yaml", "profiles.yaml"]
    listed = course_in(Path("out/profiles.yaml").read_text(encoding="utf-8"))
    assert [profile.slug for profile in listed.profiles] == ["listed"]

    Path("out/ml1.yaml").write_text("mine", encoding="utf-8")
    again = run("export", "--all", "out", "--config", "config.py")
    assert again.exit_code == 1
    assert "is there already" in again.output
    assert Path("out/ml1.yaml").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("arguments", [["none"], [], ["ml1", "--all", "out"]])
def test_export_of_what_is_not_there_says_what_is(run: Run, arguments: list[str]):
    result = run("export", *arguments, "--config", "config.py")

    assert result.exit_code != 0
    assert ("all1, ml1, old, profiles" if arguments == ["none"] else "COURSE") in result.output


def test_a_list_of_kubespawners_becomes_a_course_file(run: Run):
    Path("list.yaml").write_text("- {display_name: Small, kubespawner_override: {image: x}}\n", encoding="utf-8")

    for file in ("list.yaml", "config.py"):
        result = run("import-kubespawner", file, "--course", "ml2", "--title", "ML")
        assert result.exit_code == 0, result.output
        assert course_in(result.stdout).title == {"en": "ML"}
        assert course_in(result.stdout).profiles[0].variants[0].image == "x"


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.yaml", "- {display_name: A, bad: 1}\n", "unknown key 'bad'"),
        ("a.yaml", "[", "not readable as YAML"),
        ("a.json", "\xff", "a.json"),
        ("a.py", "c.KubeSpawner.profile_list = lambda spawner: []", "is a function"),
        ("a.py", "", "stands where a profile_list is expected"),
    ],
)
def test_what_is_no_list_is_refused_with_the_place(run: Run, name: str, text: str, says: str):
    Path(name).write_text(text, encoding="utf-8" if text != "\xff" else "latin-1")

    result = run("import-kubespawner", name, "--course", "ml2")

    assert result.exit_code == 1
    assert says in result.output
