"""The image definitions, as far as they can be checked without a container runtime."""

from __future__ import annotations

import re

import pytest
from helm.rendering import CHART, REPOSITORY, read_yaml, values_of

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

IMAGES = REPOSITORY / "helm" / "images"
FILES = sorted(IMAGES.glob("*/Dockerfile"))


def instructions(name: str) -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", (IMAGES / name / "Dockerfile").read_text(encoding="utf-8"))
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


@pytest.mark.parametrize("name", [path.parent.name for path in FILES])
def test_an_image_does_not_run_as_root(name: str) -> None:
    last_stage = max(number for number, (word, _) in enumerate(instructions(name)) if word == "FROM")
    users = [rest for word, rest in instructions(name)[last_stage:] if word == "USER"]

    assert users
    assert int(users[-1]) > 0


@pytest.mark.parametrize("name", [path.parent.name for path in FILES])
def test_an_image_is_made_from_what_is_named_exactly(name: str) -> None:
    for base in (rest.split()[0] for word, rest in instructions(name) if word == "FROM"):
        _, _, tag = base.rpartition(":")
        assert re.search(r"\d+\.\d+", tag), base
        assert tag != "latest"


@pytest.mark.parametrize("name", [path.parent.name for path in FILES])
def test_what_an_image_copies_is_in_the_repository(name: str) -> None:
    for word, rest in instructions(name):
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (REPOSITORY / source).exists(), source


@pytest.mark.parametrize("name", [path.parent.name for path in FILES])
def test_what_an_image_installs_of_ours_is_an_extra_that_there_is(name: str) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for _, rest in instructions(name):
        for extras in re.findall(r"\.whl\)\[([a-z,]+)\]", rest):
            assert set(extras.split(",")) <= set(project["optional-dependencies"])


@pytest.mark.parametrize("name", [path.parent.name for path in FILES])
def test_what_the_wheel_is_built_from_is_copied(name: str) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    copied = {source for word, rest in instructions(name) if word == "COPY" for source in rest.split()[:-1]}

    assert project["project"]["readme"] in copied
    assert set(project["project"]["license-files"]) <= copied
    assert project["tool"]["scikit-build"]["cmake"]["source-dir"] in copied
    assert set(project["tool"]["scikit-build"]["wheel"]["packages"]) <= copied


def test_the_hubs_base_has_the_version_of_the_official_chart() -> None:
    (wanted,) = read_yaml((CHART / "Chart.yaml").read_text(encoding="utf-8"))["dependencies"]

    bases = [rest for word, rest in instructions("hub") if word == "FROM"]

    assert bases[-1] == f"quay.io/jupyterhub/k8s-hub:{wanted['version']}"


def test_the_chart_and_the_images_are_of_one_version() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    head = read_yaml((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    values = read_yaml((CHART / "values.yaml").read_text(encoding="utf-8"))

    assert head["appVersion"] == project["version"] == values["jupyterhub"]["hub"]["image"]["tag"]


def test_courses_of_the_tests_name_the_sample_image() -> None:
    (variant,) = values_of("minimal")["courses"]["files"]["py101"]["profiles"][0]["variants"]

    assert f"-t {variant['image']} ." in (IMAGES / "singleuser" / "Dockerfile").read_text(encoding="utf-8")
