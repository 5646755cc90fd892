"""The looks at what the hub needs beside its configuration: databases, courses, and each provider."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from labspawner.config import Settings, open_providers
from labspawner.courses import Catalog
from labspawner.deadlines import within
from labspawner.errors import LabError
from labspawner.providers.contract import Provider
from labspawner.providers.findings import Diagnosing, Finding, error, note, ok, warning
from labspawner.store.engine import make_engine, parse_url, shown, sqlite_file
from labspawner.store.schema import leases

_PROVIDER_S = 120.0
_CAPACITY_S = 30.0
_HUB_DATABASE = "sqlite:///jupyterhub.sqlite"


def database(settings: Settings, hub_url: Any) -> tuple[Finding, ...]:
    """Whether the lease database answers. Changes nothing: it is made, or brought up to date, by the hub. Blocks."""
    if str(hub_url or _HUB_DATABASE) == settings.database_url:
        return (error("leases", "JupyterHub's own database is not for leases: each migrates its own tables"),)
    try:
        url = parse_url(settings.database_url)
        file = sqlite_file(url)
        if file is not None and not file.exists():
            return (ok("leases", f"{shown(url)} will be made at the first start"),)
        engine = make_engine(settings.database_url)
    except LabError as exc:
        return (error("leases", str(exc), str(exc.message)),)
    try:
        with engine.connect() as connection:
            there = sa.inspect(connection).has_table(leases.name)
    except sa.exc.SQLAlchemyError as exc:
        why = str(getattr(exc, "orig", None) or type(exc).__name__).strip().splitlines()
        return (error("leases", f"{shown(url)} does not answer: {why[0] if why else 'no reason given'}"),)
    finally:
        engine.dispose()
    return (ok("leases", f"{shown(url)} answers" + ("" if there else "; its tables will be made at the first start")),)


def courses(settings: Settings) -> tuple[Finding, ...]:
    """Whether the course files can be read, and name providers that there are. Blocks."""
    folder = settings.courses_dir
    if not folder.is_dir():
        return (warning("courses", f"{folder} does not exist", "make it, or set c.Labspawner.courses_dir"),)
    snapshot = Catalog(folder).refresh()
    problems = [*snapshot.problems, *snapshot.check_providers(settings.providers)]
    profiles = sum(len(entry.course.profiles) for entry in snapshot.loaded)
    found = [error("courses", str(problem)) for problem in problems]
    if not profiles:
        return (*found, warning("courses", f"{folder} has no profile that can be started"))
    return (*found, ok("courses", f"{len(snapshot.loaded)} course(s), {profiles} profile(s) in {folder}"))


async def provider(settings: Settings, name: str) -> tuple[Finding, ...]:
    """What one provider says of itself; of one that does not, whether it answers."""
    try:
        opened = open_providers(replace(settings, providers={name: settings.providers[name]}))[name]
    except LabError as exc:
        return (error("settings", str(exc), str(exc.message) if str(exc) != str(exc.message) else ""),)
    try:
        return await within(_PROVIDER_S, _ask(opened))
    except asyncio.TimeoutError:
        return (error("provider", f"it did not answer within {_PROVIDER_S:.0f} s"),)
    except LabError as exc:
        return (error("provider", str(exc), str(exc.message)),)
    finally:
        await opened.close()


async def _ask(opened: Provider) -> tuple[Finding, ...]:
    said = await opened.diagnose() if isinstance(opened, Diagnosing) else ()
    return (*said, await _capacity(opened))


async def _capacity(opened: Provider) -> Finding:
    try:
        capacity = await within(_CAPACITY_S, opened.capacity())
    except asyncio.TimeoutError:
        return error("room", f"it was not said within {_CAPACITY_S:.0f} s")
    except LabError as exc:
        return error("room", str(exc), str(exc.message))
    cards = sum(len(host.cards) for host in capacity.hosts)
    free = [host.servers_free for host in capacity.hosts if host.servers_free is not None]
    places = f", at most {sum(free)} more servers" if free else ""
    said = f"{len(capacity.hosts)} machine(s), {cards} place(s) for GPU slices{places}"
    return ok("room", said) if capacity.hosts else note("room", said)


def homeless(folder: Path) -> Sequence[Finding]:
    """Nothing is configured here at all."""
    return (
        error(
            "configuration",
            f"there is no jupyterhub_config.py in {folder}",
            "name one with --config; `labspawner up` starts a demo without any",
        ),
    )
