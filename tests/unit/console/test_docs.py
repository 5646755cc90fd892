"""What docs/instructors.md quotes is what stands on the screen, in both languages."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import labspawner
from labspawner.pages.i18n import CHINESE, catalog

PACKAGE = Path(labspawner.__file__).parent
PAGE = Path(__file__).parents[3] / "docs" / "instructors.md"
QUOTED = re.compile(r"\*\*(?P<english>[^*]+)\*\*(?:【(?P<chinese>[^】]*)】)?")
SAID = re.compile(r"""\bt\(\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')""")
SCREENS = ("service/console/templates", "service/console/pages", "service/console/views.py", "pages/templates")


def _files() -> Iterator[Path]:
    for name in SCREENS:
        path = PACKAGE / name
        yield from [path] if path.is_file() else (p for p in sorted(path.rglob("*")) if p.suffix in {".html", ".py"})


@cache
def _on_screen() -> set[str]:
    """Every sentence that a page of the console, or of the hub, shows."""
    found: set[str] = set()
    for path in _files():
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".html":
            found.update(ast.literal_eval(match[1]) for match in SAID.finditer(text))
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Sentence" and node.args:
                found.update(each.value for each in ast.walk(node.args[0]) if isinstance(each, ast.Constant))
    return found


def quoted() -> list[tuple[str, str]]:
    """The words in bold with the Chinese beside them, each pair once."""
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    return sorted({(match["english"], match["chinese"] or "") for match in QUOTED.finditer(text)})


def test_the_page_quotes_something():
    assert len(quoted()) > 40


@pytest.mark.parametrize(("english", "chinese"), quoted())
def test_what_the_page_for_instructors_quotes_stands_on_the_screen(english, chinese):
    assert english in _on_screen(), f"no page says {english!r}"
    assert chinese == catalog(CHINESE).get(english), f"{english!r} is {catalog(CHINESE).get(english)!r} in Chinese"
