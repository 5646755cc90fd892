"""What an administrator types, in traitlets, and what it becomes inside: one frozen `Settings`, checked at hub start."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from traitlets import Dict, Float, Integer, List, Unicode, default
from traitlets.config import Configurable

from labspawner.courses import Bounds, Ceilings, Loaded, parse_course
from labspawner.courses.bounds import HARMLESS_SETTINGS
from labspawner.errors import BadConfig
from labspawner.hubid import SHAPE, kept_hub_id
from labspawner.model import Json
from labspawner.providers.contract import Provider, ProviderContext, ProviderFactory
from labspawner.sentences import Sentence
from labspawner.store.reservations import Reservations

ENTRY_POINT_GROUP = "labspawner.providers"
_PROFILES = {"en": "Profiles", "zh-CN": "配置"}
_MOST_PROFILES = 100  # of any course


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The administrator's settings, valid as a whole. Times in seconds.

    sections: the hub's other configuration, by class (`KubeSpawner`), for providers that read some of it.
    """

    hub_id: str
    data_dir: Path
    database_url: str
    courses_dir: Path
    providers: Mapping[str, Mapping[str, Json]]
    sections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    courses_refresh_s: float
    observe_interval_s: float
    unknown_grace_s: float
    release_grace_s: float
    release_timeout_s: float
    reconcile_interval_s: float
    orphan_grace: timedelta
    forgotten_grace: timedelta
    brake_share: float
    report_every_s: float
    usage_interval_s: float
    bounds: Bounds = field(default_factory=Bounds)
    console_creators: tuple[str, ...] = ("instructors",)


class Labspawner(Configurable):
    """Settings of labspawner as a whole: `c.Labspawner.<name> = ...` in `jupyterhub_config.py`."""

    hub_id = Unicode(
        help="""Marks everything this hub makes on a host: 1 to 32 characters of a-z, 0-9 and '-'. Two hubs that share a
        machine or a cluster need different ones, or each would end the other's servers. Keep it for the life of the hub:
        with a new one, running servers are nobody's. Default: made once, and kept in the file `hub_id` in `data_dir`.""",
    ).tag(config=True)
    data_dir = Unicode(
        ".labspawner",
        help="""Folder for the lease database, homes and logs of the local provider, relative to where the hub starts.
        Created if missing. Example: '/var/lib/labspawner'.""",
    ).tag(config=True)
    database_url = Unicode(
        help="""SQLAlchemy URL of the lease database. Default: SQLite in `data_dir`, good for one machine and 300 students.
        Example: 'postgresql+psycopg://labspawner:secret@db/labspawner' (needs the extra labspawner[postgresql]). May not
        be JupyterHub's own database: each migrates its own tables.""",
    ).tag(config=True)
    courses_dir = Unicode(
        "courses",
        help="""Folder of course files (*.yaml), relative to where the hub starts. Read again when a file changes; a broken
        file leaves the last good version of that course in force.""",
    ).tag(config=True)
    providers: Dict[str, Any] = Dict(
        {"local": {}},
        help="""What hosts servers: name used in course files -> settings of that provider. A key `kind` names the entry
        point when it differs from the name. Example: {'local': {'max_servers': 20}, 'lab-a': {'kind': 'adapter', ...}}.
        Default: servers on this machine, in the best sandbox it allows.""",
    ).tag(config=True)
    courses_refresh_s = Float(
        5.0, help="Seconds between looks at the course folder. A look is one directory listing.", min=0.1
    ).tag(config=True)
    observe_interval_s = Float(
        5.0,
        help="""Seconds for which one listing of a provider answers all polls. Higher is cheaper; lower notices a dead server
        sooner, though never sooner than JupyterHub asks (`c.Spawner.poll_interval`, 30 s).""",
        min=0.1,
    ).tag(config=True)
    unknown_grace_s = Float(
        900.0,
        help="""Seconds for which a server is still called running while its host does not answer. 15 minutes outlasts the
        restart of a host or an API server. After that JupyterHub lets the student start another one; the lease stays,
        and what runs is ended when the host answers again.""",
        min=0.0,
    ).tag(config=True)
    release_grace_s = Float(10.0, help="Seconds that a server gets to save and exit before it is killed.", min=0.0).tag(
        config=True
    )
    release_timeout_s = Float(
        120.0,
        help="Seconds after which JupyterHub no longer waits for a stop; the reconciler then finishes it.",
        min=1.0,
    ).tag(config=True)
    reconcile_interval_s = Float(
        60.0, help="Seconds between two comparisons of hub, leases and providers; one is made at start.", min=0.2
    ).tag(config=True)
    orphan_grace_s = Float(
        600.0,
        help="""Seconds for which something on a host that has no lease must be seen, in at least two listings, before it is
        destroyed. Ten minutes, because a restored or lagging database must not cost anyone a server.""",
        min=0.0,
    ).tag(config=True)
    forgotten_grace_s = Float(
        120.0,
        help="Seconds for which a running server must be unknown to JupyterHub before it is stopped.",
        min=0.0,
    ).tag(config=True)
    brake_share = Float(
        0.2,
        help="""The reconciler stops itself when it would end more than this share of all servers in one pass (and at least
        five): then something larger is wrong, and a person should look.""",
        min=0.0,
        max=1.0,
    ).tag(config=True)
    culler_interval_s = Integer(60, help="Seconds between two looks of the culler at all servers.", min=1).tag(
        config=True
    )

    report_every_s = Float(
        60.0,
        help="""Seconds between two reports that a server sends of its use; it reports more often near its end, and at least
        four times within the idle limit of its profile. Higher is cheaper; the culler then knows less.""",
        min=1.0,
    ).tag(config=True)
    usage_interval_s = Float(
        60.0,
        help="""Seconds between two looks at what the hosts measure of each server. Where a server sends no reports, this is
        how the culler knows whether it works.""",
        min=0.2,
    ).tag(config=True)

    console_creators: List[str] = List(
        Unicode(),
        ["instructors"],
        help="""JupyterHub groups whose members may make courses in the console; administrators always may. Example:
        ['staff', 'lecturers']; [] leaves it to administrators. The default is a group of its own, so that nobody may by
        accident. A course's own instructors change it, and need not be in any of these.""",
    ).tag(config=True)
    console_settings: Dict[str, Any] = Dict(
        help="""Keys below `settings:` of a variant that a course of the console may write: provider, or kind of provider, ->
        list of keys; '*' for all that are not named. Example: {'kubernetes': ['default_url', 'environment',
        'node_selector']}. Default: where the browser lands and harmless variables, and on virtual machines what runs in
        them; whatever reaches beyond one student's server (networks, devices, volumes, commands) is for course files,
        which an administrator puts there. A provider that is named here has exactly these keys.""",
    ).tag(config=True)
    console_images: List[str] = List(
        Unicode(),
        help="""Images and templates that a course of the console may name, as patterns: * is any text. Example:
        ['registry.example.edu/lab/*', 'ubuntu-*']. Default: any. With patterns, students can type no image
        there.""",
    ).tag(config=True)
    console_limits: Dict[str, Any] = Dict(
        {"profiles": 20},
        help="""The most that a course of the console may ask for: 'profiles' in one course; per server 'cpu' (cores),
        'memory', 'disk', 'gpu_memory' (sizes), 'gpu_cores' (percent), 'gpu_cards', 'max_age', 'idle', 'retain',
        'start_timeout' (times). Example: {'profiles': 20, 'memory': '16GiB', 'gpu_memory': '12GiB', 'max_age': '12h'}. A
        limit of cpu, memory, max_age or idle makes that key required: left out, it would mean no limit. Default: 20 profiles,
        so that one course does not bury the others; the rest depends on your machines.""",
    ).tag(config=True)

    @default("hub_id")
    def _default_hub_id(self) -> str:
        return kept_hub_id(Path(self.data_dir).absolute())

    @default("database_url")
    def _default_database_url(self) -> str:
        return f"sqlite:///{Path(self.data_dir).absolute() / 'labspawner.sqlite'}"

    def settings(self) -> Settings:
        """Everything checked together. Raises BadConfig with what to write instead."""
        if not SHAPE.fullmatch(self.hub_id):
            raise _bad("c.Labspawner.hub_id = {value!r} must be 1 to 32 characters of a-z, 0-9 and '-'.", self.hub_id)
        if len(self.providers) == 0:
            raise _bad("c.Labspawner.providers is empty: write at least {value}", "{'local': {}}")
        for name, options in self.providers.items():
            if not isinstance(options, Mapping):
                raise _bad("c.Labspawner.providers[{value!r}] must be a dict of settings, for example {{}}.", name)
        data_dir = Path(self.data_dir).absolute()
        try:
            data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as exc:
            raise _bad("c.Labspawner.data_dir cannot be used: {value}. Pick a folder the hub may write.", exc) from exc
        return Settings(
            hub_id=self.hub_id,
            data_dir=data_dir,
            database_url=self.database_url,
            courses_dir=Path(self.courses_dir).absolute(),
            providers={name: dict(options) for name, options in self.providers.items()},
            sections={name: dict(section) for name, section in self.config.items() if isinstance(section, Mapping)},
            courses_refresh_s=self.courses_refresh_s,
            observe_interval_s=self.observe_interval_s,
            unknown_grace_s=self.unknown_grace_s,
            release_grace_s=self.release_grace_s,
            release_timeout_s=self.release_timeout_s,
            reconcile_interval_s=self.reconcile_interval_s,
            orphan_grace=timedelta(seconds=self.orphan_grace_s),
            forgotten_grace=timedelta(seconds=self.forgotten_grace_s),
            brake_share=self.brake_share,
            report_every_s=self.report_every_s,
            usage_interval_s=self.usage_interval_s,
            bounds=self._bounds(),
            console_creators=tuple(self.console_creators),
        )

    def _bounds(self) -> Bounds:
        """What courses of the console may ask for. Raises BadConfig."""
        given: dict[str, frozenset[str]] = {}
        for name, keys in self.console_settings.items():
            if not isinstance(keys, (list, tuple, set, frozenset)) or not all(isinstance(key, str) for key in keys):
                raise _bad("c.Labspawner.console_settings[{value!r}] must be a list of keys: ['default_url'].", name)
            given[name] = frozenset(keys)
        usual = {name: frozenset(keys) for name, keys in HARMLESS_SETTINGS.items()}
        settings = {"*": given.get("*", usual["*"])}
        for name, options in self.providers.items():
            kind = str(options.get("kind", name))
            found = (source[each] for source in (given, usual) for each in (name, kind) if each in source)
            settings[name] = next(found, settings["*"])
        limits = dict(self.console_limits)
        profiles = limits.pop("profiles", 20)
        if isinstance(profiles, bool) or not isinstance(profiles, int) or not 1 <= profiles <= _MOST_PROFILES:
            raise _bad("c.Labspawner.console_limits: profiles is {value}: write a number from 1 to 100.", profiles)
        try:
            ceilings = Ceilings.read(limits)
        except ValueError as exc:
            raise _bad("c.Labspawner.console_limits: {value}.", exc) from exc
        return Bounds(settings=settings, images=tuple(self.console_images), ceilings=ceilings, profiles=profiles)


def open_providers(settings: Settings) -> dict[str, Provider]:
    """One provider object per configured name. Raises BadConfig for a kind nobody installed or a wrong setting."""
    kinds = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    opened: dict[str, Provider] = {}
    for name, given in settings.providers.items():
        options = dict(given)
        kind = options.pop("kind", name)
        if kind not in kinds:
            raise _bad(
                "c.Labspawner.providers names {value!r}, and no such provider is installed. Installed: {known}. "
                "For a name of your own add 'kind'.",
                kind,
                known=", ".join(sorted(kinds)),
            )
        folder = settings.data_dir / "providers" / name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        factory: ProviderFactory = kinds[str(kind)].load()
        if wanted := getattr(factory, "hub_config", ()):
            options.setdefault("hub_config", {name: dict(settings.sections.get(name, {})) for name in wanted})
        context = ProviderContext(
            name=name,
            hub_id=settings.hub_id,
            data_dir=folder,
            reservations=Reservations.open(settings.database_url, hub_id=settings.hub_id, scope=name),
        )
        opened[name] = factory(context, options)
    return opened


def course_of_profile_list(settings: Settings) -> Loaded | None:
    """KubeSpawner's `profile_list` in the hub's configuration (the official chart's `singleuser.profileList`), as a course
    that everybody sees; None where there is none, or no provider called `kubernetes` to run it. Raises BadConfig."""
    entries = settings.sections.get("KubeSpawner", {}).get("profile_list")
    if not entries or "kubernetes" not in settings.providers:
        return None
    if isinstance(entries, Mapping):
        entries = [entries[key] for key in sorted(entries)]
    where = "c.KubeSpawner.profile_list"
    course = {"course": "profiles", "title": _PROFILES, "access": {"everyone": True}, "profile_list": entries}
    try:
        found = parse_course(json.dumps(course), where)
    except TypeError as exc:
        raise _bad("{value} has a value that is a function: write a list of plain values.", where) from exc
    if not isinstance(found, Loaded):
        raise _bad("{value}: {problems}", where, problems="; ".join(f"{each.path}: {each.message}" for each in found))
    return found


def _bad(template: str, value: Any, **params: str) -> BadConfig:
    return BadConfig(Sentence(template, value=value, **params))
