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
from labspawner.courses import Catalog, Problem, Snapshot
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
from labspawner.sentences import Sentence
from labspawner.store.coursebook import written_now
from labspawner.store.engine import make_engine, parse_url, shown, sqlite_file
from labspawner.store.schema import leases
from labspawner.units import human_bytes

_LEASES, _COURSES, _PROFILES = Sentence("leases"), Sentence("courses"), Sentence("profiles")
_PROVIDER, _ROOM = Sentence("provider"), Sentence("room")
_PROVIDER_S = 120.0
_CAPACITY_S = 30.0
_HUB_DATABASE = "sqlite:///jupyterhub.sqlite"


def database(settings: Settings, hub_url: Any) -> tuple[Finding, ...]:
    """Whether the lease database answers. Changes nothing: it is made, or brought up to date, by the hub. Blocks."""
    if str(hub_url or _HUB_DATABASE) == settings.database_url:
        return (error(_LEASES, Sentence("JupyterHub's own database is not for leases: each migrates its own tables")),)
    try:
        url = parse_url(settings.database_url)
        file = sqlite_file(url)
        if file is not None and not file.exists():
            return (ok(_LEASES, Sentence("{database} will be made at the first start", database=shown(url))),)
        engine = make_engine(settings.database_url)
    except LabError as exc:
        return (trouble(_LEASES, exc),)
    try:
        with engine.connect() as connection:
            there = sa.inspect(connection).has_table(leases.name)
    except sa.exc.SQLAlchemyError as exc:
        why = str(getattr(exc, "orig", None) or type(exc).__name__).strip().splitlines()
        reason = why[0] if why else Sentence("no reason given")
        return (error(_LEASES, Sentence("{database} does not answer: {why}", database=shown(url), why=reason)),)
    finally:
        engine.dispose()
    said = Sentence(
        "{database} answers" if there else "{database} answers; its tables will be made at the first start",
        database=shown(url),
    )
    return (ok(_LEASES, said),)


def courses(settings: Settings) -> tuple[Finding, ...]:
    """Whether the courses of files and console can be read, and name providers that there are. Blocks."""
    folder = settings.courses_dir
    if not folder.is_dir():
        missing = Sentence("{folder} does not exist", folder=str(folder))
        return (warning(_COURSES, missing, Sentence("make it, or set c.Labspawner.courses_dir")),)
    snapshot = _in_force(settings)
    problems = [*snapshot.problems, *snapshot.check_providers(settings.providers)]
    profiles = sum(len(entry.course.profiles) for entry in snapshot.loaded)
    found = [error(_COURSES, _flaw(problem)) for problem in problems]
    if not profiles:
        return (*found, warning(_COURSES, Sentence("{folder} has no profile that can be started", folder=str(folder))))
    written = sum(snapshot.written(course.course) for course in snapshot.courses())
    counted = {"courses": len(snapshot.loaded), "profiles": profiles, "folder": str(folder)}
    said = Sentence("{courses} course(s), {profiles} profile(s) in {folder}", **counted)
    if written:
        said = Sentence(
            "{courses} course(s), {profiles} profile(s) in {folder}, {written} of the courses written in the console",
            **counted,
            written=written,
        )
    return (*found, ok(_COURSES, said))


def _flaw(problem: Problem) -> Sentence:
    """A problem of a course's text with where it stands, as `str(problem)` says it."""
    where = f"{problem.file}:{problem.line}:{problem.column}"
    return Sentence("{where}: {problem}", where=where, problem=problem.message)


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
        return (trouble(Sentence("settings"), exc),)
    try:
        return await within(_PROVIDER_S, _ask(opened, snapshot))
    except asyncio.TimeoutError:
        late = Sentence("it did not answer within {seconds} s", seconds=f"{_PROVIDER_S:.0f}")
        return (error(_PROVIDER, late),)
    except LabError as exc:
        return (trouble(_PROVIDER, exc),)
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
        return (*said, error(_ROOM, Sentence("it was not said within {seconds} s", seconds=f"{_CAPACITY_S:.0f}")))
    except LabError as exc:
        known = any(finding.level is Level.ERROR for finding in said)  # it is said already why nothing can be counted
        return said if known else (*said, trouble(_ROOM, exc))
    return (*said, _room(capacity), *_profiles(opened.name, capacity, snapshot))


def _room(capacity: Capacity) -> Finding:
    cards = sum(len(host.cards) for host in capacity.hosts)
    free = [host.servers_free for host in capacity.hosts]
    known = [each for each in free if each is not None]
    counted = {"machines": len(capacity.hosts), "cards": cards}
    said = Sentence("{machines} machine(s), {cards} place(s) for GPU slices", **counted)
    if known and len(known) == len(free):
        said = Sentence(
            "{machines} machine(s), {cards} place(s) for GPU slices, at most {servers} more servers",
            **counted,
            servers=sum(known),
        )
    return ok(_ROOM, said) if capacity.hosts else note(_ROOM, said)


def _profiles(name: str, capacity: Capacity, snapshot: Snapshot) -> list[Finding]:
    """The variants for this provider that no machine of it could ever hold, with each option's default."""
    found: list[Finding] = []
    asked = asked_of(name, snapshot)
    for each in asked:
        need = each.resources
        if isinstance(place(need, capacity, {}), TooLarge):
            cardless = need.gpu is not None and not any(host.cards for host in capacity.hosts)
            said = Sentence(
                "{profile} can never start here: it wants {wanted}, and no card is shared"
                if cardless
                else "{profile} can never start here: it wants {wanted}",
                profile=each.profile,
                wanted=_wanted(need),
            )
            found.append(
                (warning if cardless else error)(  # a demo on a laptop without a card is no fault
                    _PROFILES,
                    said,
                    Sentence("make it smaller, or add a machine or card that holds it"),
                )
            )
    if asked and not found and capacity.hosts:
        found.append(
            ok(
                _PROFILES,
                Sentence("{count} way(s) to run a profile fit the largest machine and card", count=len(asked)),
            )
        )
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
    """What is asked for, in few words."""
    parts: list[str] = [f"{need.cpu:g} cpu"] if need.cpu else []
    parts += [human_bytes(need.memory_bytes)] if need.memory_bytes else []
    if need.gpu is None:
        return ", ".join(parts) or Sentence("a place")
    memory, cores = human_bytes(need.gpu.memory_bytes), need.gpu.compute_pct
    gpu = Sentence("a GPU slice of {memory} / {cores} %", memory=memory, cores=cores)
    return Sentence("{first}, {rest}", first=", ".join(parts), rest=gpu) if parts else gpu


def homeless(folder: Path) -> Sequence[Finding]:
    """Nothing is configured here at all."""
    return (
        error(
            Sentence("configuration"),
            Sentence("there is no jupyterhub_config.py in {folder}", folder=str(folder)),
            Sentence("name one with --config; `labspawner up` starts a demo without any"),
        ),
    )
