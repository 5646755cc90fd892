"""`labspawner course` against a console: a verb for each button, and no secret where it does not belong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click.testing
import pytest
from unit.console.lab import PREFIX, Lab, serving, text_of

from labspawner.cli import main
from labspawner.cli.course import course


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with serving(tmp_path_factory.mktemp("lab")) as running:
        yield running


def run(lab: Lab, *words: str, who: str = "teacher", given: str | bytes | None = None, code: int = 0) -> str:
    """What a command prints, errors too."""
    environment = {"LABSPAWNER_URL": lab.base.removesuffix(PREFIX) + "/", "LABSPAWNER_API_TOKEN": f"token-of-{who}"}
    result = click.testing.CliRunner().invoke(main, ["course", *words], env=environment, input=given)
    assert result.exit_code == code, result.output
    return result.output


def test_a_course_is_made_shown_changed_published_and_gone_back_to(lab):
    assert "is made, as a draft" in run(lab, "create", "made", "-", given=text_of("made"))
    assert run(lab, "show", "made", "--yaml") == text_of("made")
    assert "made: Deep Learning (draft, revision 1)" in run(lab, "show", "made")

    changed = text_of("made").replace("6GiB", "8GiB")
    assert "revision 2" in run(lab, "edit", "made", "-", "--comment", "larger", given=changed)
    assert "larger" in run(lab, "history", "made")
    assert "8GiB" in run(lab, "diff", "made", "1", "2")
    assert "published" in run(lab, "publish", "made")
    assert "draft" in run(lab, "unpublish", "made")
    assert "revision 3" in run(lab, "rollback", "made", "1")
    assert run(lab, "show", "made", "--yaml") == text_of("made")
    assert "more: draft" in run(lab, "duplicate", "made", "more")
    assert "archived" in run(lab, "archive", "more")
    listed = run(lab, "ls")
    assert "in a file" in listed
    assert "archived" in listed


def test_what_the_console_refuses_is_printed_with_its_line_and_is_an_error(lab):
    assert "7:" in run(lab, "edit", "dl", "-", given=text_of().replace("1GiB", "1"), code=1)
    assert "There is no course none" in run(lab, "show", "none", code=1)
    assert "not one of this hub" in run(lab, "ls", who="nobody", code=1)
    assert "没有课程" in run(lab, "--lang", "zh-CN", "show", "none", code=1)


def test_people_come_and_go_and_a_table_is_previewed(lab):
    run(lab, "roster", "add", "dl", "student1", "student2")
    run(lab, "roster", "add", "dl", "helper", "--role", "assistant")
    assert "assistant   helper" in run(lab, "roster", "show", "dl")

    told = run(
        lab, "roster", "set", "dl", "-", given="用户名\nstudent2\nstudent3\nno/body\n".encode("gbk") + b"", code=1
    )
    assert "Aborted" in told
    done = run(lab, "roster", "set", "dl", "-", "--yes", given="student2\nstudent3\n")
    assert "1 to be added, 1 stay, 1 to be removed" in done
    run(lab, "roster", "remove", "dl", "student3")
    assert "student3" not in run(lab, "roster", "show", "dl")
    assert "last instructor" in run(lab, "roster", "remove", "dl", "teacher", "--role", "instructor", code=1)


def test_a_class_is_started_told_something_extended_stopped_and_reset(lab):
    assert "student1: It is starting." in run(lab, "start", "py101", "student1", "student2", "--profile", "base")
    assert "base" in run(lab, "wall", "py101")
    run(lab, "extend", "py101", "student1")
    run(lab, "message", "py101", "--everybody", "--text", "Save your work")
    assert "student1: It was stopped." in run(lab, "stop", "py101", "student1", "--reason", "class is over")
    run(lab, "reset", "py101", "student2", "--yes")
    assert "done" in run(lab, "jobs", "py101")
    assert run(lab, "stop", "py101", "student2", "--no-wait").strip().startswith("j")
    assert lab.hub.acts[-1]["verb"] in {"stop", "reset"}


def test_what_fails_for_somebody_is_an_exit_of_1(lab):
    told = run(lab, "start", "py101", "student3", "--profile", "base", "--option", "a=b", who="helper")
    assert "student3" in told
    assert "Assistants may" in run(lab, "stop", "py101", "student3", who="helper", code=1)
    assert "Name the people" in run(lab, "stop", "py101", code=2)
    assert "Name the people" in run(lab, "stop", "py101", "student1", "--everybody", code=2)


def test_usage_and_links(lab):
    assert "GPU h" in run(lab, "usage", "py101", "--weeks", "2")
    assert run(lab, "usage", "py101", "--csv").splitlines()[0] == "week,user,hours,gpu_hours"
    assert run(lab, "links", "py101", "base").strip() == "/hub/spawn?profile=py101%2Fbase"
    assert "git-pull" in run(lab, "links", "py101", "base", "--repo", "https://git.example/a/b")


def test_nothing_that_others_wrote_moves_the_cursor(lab):
    title = text_of("odd").replace("Deep Learning", '"Deep\\e[2J\\aLearning"')
    run(lab, "create", "odd", "-", given=title)

    for words in (["ls"], ["show", "odd"], ["diff", "odd", "1", "1"]):
        assert "\x1b[2J" not in run(lab, *words)
        assert "\a" not in run(lab, *words)


def test_a_token_comes_from_a_file_or_the_environment_and_never_from_the_command_line(lab, tmp_path: Path):
    kept = tmp_path / "token"
    kept.write_text("token-of-teacher\n")
    url = lab.base.removesuffix(PREFIX) + "/"
    runner = click.testing.CliRunner()

    assert runner.invoke(main, ["course", "--url", url, "--token-file", str(kept), "ls"]).exit_code == 0
    without = runner.invoke(main, ["course", "--url", url, "ls"], env={"LABSPAWNER_API_TOKEN": ""})
    assert without.exit_code == 2
    assert "token page" in without.output
    assert "--token " not in runner.invoke(main, ["course", "--help"]).output
    nobody = runner.invoke(main, ["course", "--url", "http://127.0.0.1:9/", "--token-file", str(kept), "ls"])
    assert nobody.exit_code == 1
    assert "token-of-teacher" not in nobody.output
    assert (
        runner.invoke(main, ["course", "--url", "file:///etc/passwd", "--token-file", str(kept), "ls"]).exit_code == 2
    )


def test_there_is_a_verb_for_each_button():
    assert set(course.commands) >= {
        *("ls", "show", "create", "edit", "publish", "archive", "history", "rollback", "roster", "wall"),
        *("start", "stop", "extend", "message", "reset", "usage", "links"),
    }
