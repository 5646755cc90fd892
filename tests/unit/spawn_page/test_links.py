"""What a link to the spawn page may say, and that JupyterHub takes none of it for options."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from labspawner.spawner import take_choice


def a_request(**query: str) -> SimpleNamespace:
    return SimpleNamespace(query_arguments={name: [value.encode()] for name, value in query.items()})


@pytest.mark.parametrize("prefix", ["", "opt-"])
def test_a_link_names_a_profile_and_its_options_with_or_without_the_prefix(prefix: str):
    query = {f"{prefix}profile": "py101/base", f"{prefix}option--py101--base--ui": "doc"}

    assert take_choice(a_request(**query)) == {"profile": "py101/base", "options": {"ui": "doc"}}


@pytest.mark.parametrize("query", [{}, {"lang": "en"}, {"next": "/hub/home", "x": "1"}, {"profile": ""}, {"opt-": "x"}])
def test_without_a_profile_it_chooses_nothing(query: dict[str, str]):
    assert take_choice(a_request(**query)) is None


def test_nothing_is_left_that_would_start_a_server_and_what_is_asked_by_name_is_there():
    request: Any = a_request(profile="py101/base", lang="zh-CN", next="/hub/home", other="x")

    take_choice(request)

    assert list(request.query_arguments.items()) == []
    assert request.query_arguments.get("lang") == [b"zh-CN"]
    assert request.query_arguments.get("profile") is None
