"""The inside of the spawn form."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from labspawner.pages.i18n import markup, pick, translate
from labspawner.pages.views import SpawnPage

TEMPLATES_DIR = Path(__file__).parent / "templates"


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES_DIR),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render_spawn_form(page: SpawnPage, language: str) -> str:
    """The HTML inside JupyterHub's `<form>`: the cards of each course, or a sentence why there are none. Escaped."""
    return (
        _environment()
        .get_template("labspawner/form.html")
        .render(
            page=page,
            chosen=page.chosen(),
            t=lambda text, **params: translate(text, language, **params),
            say=lambda text: markup(text, language),
            pick=lambda texts: pick(texts, language),
        )
    )
