"""What can be said of templates without starting anything."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console
from rich.table import Table

from labspawner.cli.vm.opening import Bench
from labspawner.model import Json
from labspawner.providers.findings import Asked, Finding, Level, error
from labspawner.providers.options import read_options
from labspawner.providers.proxmox import checking
from labspawner.providers.proxmox.answers import PveRefused, PveSilent
from labspawner.providers.proxmox.checking import StorageFacts
from labspawner.providers.proxmox.nodes import find_templates
from labspawner.providers.proxmox.options import ProxmoxVariant
from labspawner.providers.proxmox.views import View, VmView


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One template as a profile uses it. asked: of that profile, or made up where none does."""

    wanted: str
    asked: Asked
    variant: ProxmoxVariant


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the list."""

    vmid: int
    name: str
    node: str
    disks: str
    profiles: tuple[str, ...]
    worst: Level


def subject_of(bench: Bench, wanted: str, system: str | None = None) -> Subject:
    """What a profile makes of the template; its own defaults where no profile uses it. Raises BadConfig."""
    asked = next((each for each in bench.asked if str(each.settings.get("template")) == wanted), None)
    if asked is None:
        asked = Asked(profile=f"{wanted} (no profile uses it)", settings={"template": wanted})
    settings: dict[str, Json] = {**asked.settings, "template": wanted}
    if system is not None:
        settings["os"] = system
    variant = read_options(ProxmoxVariant, settings, where=f"Profile {asked.profile}")
    return Subject(wanted=wanted, asked=replace(asked, settings=settings), variant=variant)


async def configuration(bench: Bench, subject: Subject) -> list[Finding]:
    """What its configuration says, on each node that has one of this name."""
    view = await bench.provider.snapshots.now(0.0)
    there = find_templates(view, subject.wanted)
    if not there:
        advice = "check the name, that it is a template, and in the hub's pool: pveum pool modify POOL --vms ID"
        return [error("template", f"{subject.wanted} is not there, or the hub may not see it", advice)]
    found: list[Finding] = []
    for vm in there:
        judged = await _judged(bench, subject, vm, view)
        found += judged if len(there) == 1 else [replace(each, what=f"{each.what} ({vm.vmid})") for each in judged]
    return found


async def _judged(bench: Bench, subject: Subject, vm: VmView, view: View) -> list[Finding]:
    client = bench.provider.client
    try:
        config = await client.get(f"/nodes/{vm.node}/qemu/{vm.vmid}/config")
        feature = await client.get(f"/nodes/{vm.node}/qemu/{vm.vmid}/feature", feature="clone")
    except (PveRefused, PveSilent) as exc:
        return [error("template", f"{vm.vmid} on {vm.node} cannot be read: {exc}")]
    variant = subject.variant
    online = [name for name in view.nodes if view.online(name)]
    found = checking.of_config(config, facts(view), os=variant.os, desktop=variant.offers_desktop)
    return [*found, *checking.of_feature(feature, online)]


async def templates(bench: Bench) -> Sequence[Row]:
    """Every template that can be seen."""
    view = await bench.provider.snapshots.now(0.0)
    rows = []
    for vm in sorted((each for each in view.vms.values() if each.template), key=lambda each: each.vmid):
        try:
            config: Mapping[str, Any] = await bench.provider.client.get(f"/nodes/{vm.node}/qemu/{vm.vmid}/config")
        except (PveRefused, PveSilent):
            config = {}
        names = (str(vm.vmid), vm.name)
        profiles = tuple(dict.fromkeys(each.profile for each in bench.asked if each.settings.get("template") in names))
        found = checking.of_config(config, facts(view)) if config else ()
        disks = ", ".join(
            _disk(name, facts(view)) for name in sorted({each.storage for each in checking.volumes(config)})
        )
        rows.append(
            Row(
                vmid=vm.vmid,
                name=vm.name,
                node=vm.node,
                disks=disks or "?",
                profiles=profiles,
                worst=checking.worst(found) if config else Level.ERROR,
            )
        )
    return rows


def facts(view: View) -> dict[str, StorageFacts]:
    """What matters of each storage that can be seen."""
    return {each.name: StorageFacts(each.name, each.shared, each.plugin) for each in view.storages}


def _disk(name: str, storages: Mapping[str, StorageFacts]) -> str:
    known = storages.get(name)
    return f"{name} (not seen)" if known is None else f"{name} ({'shared' if known.shared else 'of the node'})"


def show(rows: Sequence[Row]) -> None:
    """The list."""
    listed = Table("ID", "NAME", "NODE", "DISKS", "PROFILES", "CHECK", box=None, pad_edge=False, header_style="bold")
    for row in rows:
        listed.add_row(str(row.vmid), row.name, row.node, row.disks, ", ".join(row.profiles) or "-", row.worst.value)
    print_table(listed)


def print_table(table: Table) -> None:
    """Print it as it is; a pipe has no width of its own, so nothing is folded there."""
    width = None if sys.stdout.isatty() else 200
    Console(highlight=False, markup=False, emoji=False, width=width).print(table)


def summary(counted: Mapping[Level, int]) -> str:
    """What the findings come to, in a sentence."""
    errors, warnings = counted[Level.ERROR], counted[Level.WARNING]
    if errors:
        return f"{errors} error(s) and {warnings} warning(s): students could not work with it."
    return f"No error, {warnings} warning(s)." if warnings else "A good template, as far as this was looked at."
