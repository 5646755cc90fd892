"""`labspawner profiles export` and `import-kubespawner`: courses out of the console, and lists of KubeSpawner's in."""

from __future__ import annotations

from pathlib import Path

import click
from traitlets.config.loader import PyFileConfigLoader

from labspawner.cli.servers import config_option, data_option
from labspawner.cli.up import find_config
from labspawner.cli.written import rows_of
from labspawner.config import course_of_profile_list
from labspawner.courses.loader import Problem, read_text
from labspawner.courses.porting import as_text, course_of, import_profile_list
from labspawner.courses.yamltree import Unreadable


@click.command()
@click.argument("course", required=False, default="")
@config_option
@data_option
@click.option(
    "--all", "folder", type=click.Path(file_okay=False, path_type=Path), help="Write all, one file each, to DIR."
)
def export(course: str, config: Path | None, data_dir: Path | None, folder: Path | None) -> None:
    """Print a course that is written in the console, as a course file.

    Put the file into the hub's folder of course files, and archive the course in the console: files win. `profiles` is the
    course that KubeSpawner's profile_list in the hub's configuration makes.
    """
    if bool(course) == (folder is not None):
        raise click.UsageError("name a COURSE, or give --all DIR")
    settings, rows = rows_of(config or find_config(), data_dir)
    texts = {row.slug: row.text for row in rows}
    listed = course_of_profile_list(settings)
    if listed is not None:
        texts.setdefault(listed.course.course, as_text(listed.course))
    if folder is None:
        if course not in texts:
            known = ", ".join(sorted(texts)) or "none"
            raise click.ClickException(f"no course {course!r} is written in the console: those there are {known}")
        click.echo(texts[course], nl=not texts[course].endswith("\n"))
        return
    folder.mkdir(parents=True, exist_ok=True)
    for slug, text in sorted(texts.items()):
        path = folder / f"{slug}.yaml"
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError as exc:
            raise click.ClickException(f"{path} is there already; nothing was written over it") from exc
        click.echo(str(path))


@click.command("import-kubespawner")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--course", "slug", required=True, metavar="SLUG", help="Short name of the course, for example py101.")
@click.option("--title", default="", help="Title of the course. Default: its short name.")
def import_kubespawner(file: Path, slug: str, title: str) -> None:
    """Print a course file with the profiles of KubeSpawner's profile_list.

    FILE is YAML or JSON: the list itself, or the values of the JupyterHub Helm chart. A .py file is run as JupyterHub's
    configuration, and c.KubeSpawner.profile_list is read from it.
    """
    titles = {"en": title or slug}
    if file.suffix == ".py":
        loaded = PyFileConfigLoader(file.name, path=str(file.absolute().parent)).load_config()
        found = course_of(_listed(loaded), slug=slug, title=titles, file=str(file))
    else:
        try:
            text = read_text(file)
        except (OSError, Unreadable) as exc:
            raise click.ClickException(f"{file}: {exc}") from exc
        found = import_profile_list(text, slug=slug, title=titles, file=str(file))
    if isinstance(found, str):
        click.echo(found, nl=False)
        return
    for problem in found:
        click.echo(_line(problem))
    raise SystemExit(1)


def _listed(config: object) -> object:
    section = config.get("KubeSpawner", {}) if isinstance(config, dict) else {}
    listed = section.get("profile_list") if isinstance(section, dict) else None
    if callable(listed):
        raise click.ClickException("profile_list is a function: call it, and import what it returns as JSON")
    return listed


def _line(problem: Problem) -> str:
    return str(problem)
