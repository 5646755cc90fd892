"""The group, and what all verbs have."""

from __future__ import annotations

import os
from pathlib import Path

import click

from labspawner.cli.course import klass, people, writing
from labspawner.cli.course.api import api_options, open_api


@click.group()
@api_options
@click.pass_context
def course(context: click.Context, url: str, token_file: Path | None, lang: str) -> None:
    """Courses, their people and their class, as in the console.

    Make a token on the hub's token page, and set LABSPAWNER_API_TOKEN and LABSPAWNER_URL. It has the rights that you have in
    the console; one with scopes such as custom:labspawner:read!group=course-x has fewer.
    """
    context.obj = lambda: open_api(url, token_file, lang, os.environ)


for verb in (*writing.VERBS, *people.VERBS, *klass.VERBS):
    course.add_command(verb)
