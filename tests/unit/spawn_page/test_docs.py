"""docs/courses.md says what is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from labspawner.courses import Loaded, check_providers, parse_course
from labspawner.courses.models import Access, Course, Idle, Limits, Profile, VariantKeys

DOC = (Path(__file__).parents[3] / "docs" / "courses.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```", DOC, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("text", EXAMPLES)
def test_each_example_is_a_good_course_file(text):
    loaded = parse_course(text)

    assert isinstance(loaded, Loaded), [str(problem) for problem in loaded]
    assert {problem.message for problem in check_providers(loaded, ["local", "kubernetes"])} == set()


@pytest.mark.parametrize("model", [Course, Profile, Idle, Limits, Access, VariantKeys])
def test_each_key_of_a_course_file_is_named(model):
    names = {field.alias or name for name, field in model.model_fields.items()}

    assert {name for name in names if not re.search(rf"[`.]{name}\b", DOC)} == set()


def test_what_lint_is_said_to_say_is_what_it_says():
    good = EXAMPLES[0]
    slips = good.replace("memory: 1GiB, cpu: 1", "memory: 6, gpus: 1").replace("after: 45m", "after: 45")
    elsewhere = parse_course(good.replace("local", "locla"), "courses/stats.yaml")

    problems = [*parse_course(slips, "courses/stats.yaml"), *check_providers(elsewhere, ["local"])]

    assert [str(problem) for problem in problems if str(problem) not in DOC] == []
    assert len(problems) == 4
