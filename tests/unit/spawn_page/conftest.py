"""Real course files, read by a real catalog."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from labspawner.courses import Catalog

Write = Callable[..., Catalog]


@pytest.fixture
def courses(tmp_path: Path) -> Write:
    """Write course files (`py101=text`) and read the folder again."""
    catalog = Catalog(tmp_path)

    def write(*text: str, **texts: str) -> Catalog:
        for name, content in {**{f"c{number}": item for number, item in enumerate(text)}, **texts}.items():
            (tmp_path / f"{name}.yaml").write_text(content, encoding="utf-8")
        catalog.refresh()
        return catalog

    return write
