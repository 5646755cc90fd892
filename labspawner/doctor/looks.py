"""The looks at what the hub needs beside its configuration: databases, courses, and each provider."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from labspawner.config import Settings, open_providers
from labspawner.coursefeed import as_text
from labspawner.courses import Catalog, Snapshot
from labspawner.courses.resolve import resolve_profile
from labspawner.deadlines import within
from labspawner.errors import LabError
from labspawner.model import Capacity, Resources
from labspawner.placement import TooLarge, place
from labspawner.providers.contract import Provider
from labspawner.providers.findings import (
    Asked,
    Diagnosing,
    DiagnosingProfiles,
    Finding,
    Level,
    error,
    note,
    ok,
    trouble,
    warning,
)
from labspawner.store.coursebook import written_now
from labspawner.store.engine import make_engine, parse_url, shown, sqlite_file
from labspawner.store.schema import leases
from labspawner.units import human_bytes

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
        return (trouble("leases", exc),)
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
    """Whether the courses of files and console can be read, and name providers that there are. Blocks."""
    folder = settings.courses_dir
    if not folder.is_dir():
        return (warning("courses", f"{folder} does not exist", "make it, or set c.Labspawner.courses_dir"),)
    snapshot = _in_force(settings)
    problems = [*snapshot.problems, *snapshot.check_providers(settings.providers)]
    profiles = sum(len(entry.course.profiles) for entry in snapshot.loaded)
    found = [error("courses", str(problem)) for problem in problems]
    if not profiles:
        return (*found, warning("courses", f"{folder} has no profile that can be started"))
    written = sum(snapshot.written(course.course) for course in snapshot.courses())
    beside = f", {written} of the courses written in the console" if written else ""
    return (*found, ok("courses", f"{len(snapshot.loaded)} course(s), {profiles} profile(s) in {folder}{beside}"))


def _in_force(settings: Settings) -> Snapshot:
    """The courses as the hub would have them; without those of the console where the database does not answer, which
    another look says. Blocks."""
    catalog = Catalog(settings.courses_dir, bounds=settings.bounds)
    snapshot = catalog.refresh()
    try:
        rows = written_now(settings.database_url, hub_id=settings.hub_id)
    except LabError:
        return snapshot
    return catalog.set_written(as_text(row) for row in rows)


async def provider(settings: Settings, name: str) -> tuple[Finding, ...]:
    """What one provider says of itself, and whether the profiles that name it could ever start there."""
    snapshot = await asyncio.to_thread(_in_force, settings)
    try:
        opened = open_providers(replace(settings, providers={name: settings.providers[name]}))[name]
    except LabError as exc:
        return (trouble("settings", exc),)
    try:
        return await within(_PROVIDER_S, _ask(opened, snapshot))
    except asyncio.TimeoutError:
        return (error("provider", f"it did not answer within {_PROVIDER_S:.0f} s"),)
    except LabError as exc:
        return (trouble("provider", exc),)
    finally:
        await opened.close()


async def _ask(opened: Provider, snapshot: Snapshot) -> tuple[Finding, ...]:
    said: tuple[Finding, ...] = ()
    if isinstance(opened, DiagnosingProfiles):
        said = tuple(await opened.diagnose_profiles(asked_of(opened.name, snapshot)))
    elif isinstance(opened, Diagnosing):
        said = tuple(await opened.diagnose())
    try:
        capacity = await within(_CAPACITY_S, opened.capacity())
    except asyncio.TimeoutError:
        return (*said, error("room", f"it was not said within {_CAPACITY_S:.0f} s"))
    except LabError as exc:
        known = any(finding.level is Level.ERROR for finding in said)  # it is said already why nothing can be counted
        return said if known else (*said, trouble("room", exc))
    return (*said, _room(capacity), *_profiles(opened.name, capacity, snapshot))


def _room(capacity: Capacity) -> Finding:
    cards = sum(len(host.cards) for host in capacity.hosts)
    free = [host.servers_free for host in capacity.hosts]
    known = [each for each in free if each is not None]
    places = f", at most {sum(known)} more servers" if known and len(known) == len(free) else ""
    said = f"{len(capacity.hosts)} machine(s), {cards} place(s) for GPU slices{places}"
    return ok("room", said) if capacity.hosts else note("room", said)


def _profiles(name: str, capacity: Capacity, snapshot: Snapshot) -> list[Finding]:
    """The variants for this provider that no machine of it could ever hold, with each option's default."""
    found: list[Finding] = []
    asked = asked_of(name, snapshot)
    for each in asked:
        need = each.resources
        if isinstance(place(need, capacity, {}), TooLarge):
            cardless = need.gpu is not None and not any(host.cards for host in capacity.hosts)
            found.append(
                (warning if cardless else error)(  # a demo on a laptop without a card is no fault
                    "profiles",
                    f"{each.profile} can never start here: it wants {_wanted(need)}"
                    + (", and no card is shared" if cardless else ""),
                    "make it smaller, or add a machine or card that holds it",
                )
            )
    if asked and not found and capacity.hosts:
        found.append(ok("profiles", f"{len(asked)} way(s) to run a profile fit the largest machine and card"))
    return found if capacity.hosts else []


def asked_of(name: str, snapshot: Snapshot) -> list[Asked]:
    """What the profiles ask of the provider of this name, with each option's default."""
    asked: list[Asked] = []
    for entry in snapshot.loaded:
        for profile in entry.course.profiles:
            defaults = {key: choice for key, option in profile.options.items() if (choice := option.default_choice)}
            for index, variant in enumerate(profile.variants):
                if variant.provider == name:
                    resolved = resolve_profile(profile, defaults, index)
                    asked.append(
                        Asked(
                            profile=entry.course.key(profile),
                            resources=resolved.resources,
                            settings=resolved.settings,
                            hibernates=profile.idle.action == "hibernate",
                        )
                    )
    return asked


def _wanted(need: Resources) -> str:
    parts = [f"{need.cpu:g} cpu"] if need.cpu else []
    parts += [human_bytes(need.memory_bytes)] if need.memory_bytes else []
    parts += [f"a GPU slice of {human_bytes(need.gpu.memory_bytes)} / {need.gpu.compute_pct} %"] if need.gpu else []
    return ", ".join(parts) or "a place"


def homeless(folder: Path) -> Sequence[Finding]:
    """Nothing is configured here at all."""
    return (
        error(
            "configuration",
            f"there is no jupyterhub_config.py in {folder}",
            "name one with --config; `labspawner up` starts a demo without any",
        ),
    )
