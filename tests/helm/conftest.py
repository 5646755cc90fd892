"""The chart with a stand-in for the official one, loaded once per process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from helm.rendering import Chart


@pytest.fixture(scope="session")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chart]:
    made = Chart(tmp_path_factory.mktemp("chart"))
    yield made
    made.close()
