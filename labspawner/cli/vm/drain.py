"""`labspawner vm drain`: empty a node before it is taken away, and use it again afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from labspawner.cli.servers import config_option, data_option
from labspawner.cli.vm import warning
from labspawner.cli.vm.looking import facts, print_table
from labspawner.cli.vm.opening import Bench, provider_option, with_provider
from labspawner.cli.vm.warning import moment_of
from labspawner.providers.proxmox import checking
from labspawner.providers.proxmox.answers import Fault, PveRefused, PveSilent
from labspawner.providers.proxmox.draining import Move, Resident, Step, plan
from labspawner.providers.proxmox.marks import read_marker
from labspawner.providers.proxmox.views import View, VmView

_MOVE_S = 1800.0


@dataclass(frozen=True, slots=True)
class Done:
    """One step, and what came of it. failed: why it did not work out; empty where it did, or nothing was tried. told: where
    its student reads that the node goes away; empty where nobody was to be told."""

    step: Step
    moved: bool = False
    failed: str = ""
    told: str = ""


@click.command()
@click.argument("node")
@click.option("--undo", is_flag=True, help="New servers go there again, and what was announced is withdrawn.")
@click.option("--at", metavar="TIME", help="Warn the students whose servers run there: it goes away at 18:00.")
@click.option("--in", "in_", metavar="TIME", help="The same: it goes away in 30m.")
@click.option("--move", is_flag=True, help="Move servers that run too, while they run.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@config_option
@data_option
@provider_option
def drain(
    node: str,
    undo: bool,
    at: str | None,
    in_: str | None,
    move: bool,
    dry_run: bool,
    config: Path | None,
    data_dir: Path | None,
    name: str | None,
) -> None:
    """Empty NODE: no new server goes there, and those that are off are moved to other nodes.

    The running hub heeds it within seconds. Servers that run are left alone, and their users named; --move moves them
    while they run. With --at or --in the users of those that stay read, once, when the node goes away: on the home page
    and, where their servers report, in JupyterLab. Exit status 1 where a server is still there afterwards.
    """
    goes = moment_of(at, in_, datetime.now().astimezone())
    if undo:
        click.echo(with_provider(config, data_dir, name, lambda bench: taken_back(bench, node)))
        return
    done = with_provider(
        config, data_dir, name, lambda bench: emptied(bench, node, move=move, dry_run=dry_run, goes=goes)
    )
    left = [each for each in done if not each.moved]
    if done:
        show(done, dry_run=dry_run)
    if goes is not None:
        click.echo(_warned(done, node, goes, dry_run=dry_run))
    if dry_run:
        click.echo(f"{len(done)} server(s) on {node}; nothing was done (--dry-run).")
        return
    click.echo(f"No new server goes to {node}. {len(done) - len(left)} moved, {len(left)} still there.")
    if left:
        raise SystemExit(1)


async def taken_back(bench: Bench, node: str) -> str:
    """The node is used again, and nobody is warned any more; what to say of that."""
    withdrawn = await bench.provider.leaving.withdraw(node)
    news = await bench.provider.draining.end(node)
    said = f"New servers go to {node} again." if news else f"{node} was not being emptied."
    return f"{said} The announcement is withdrawn." if withdrawn else said


def _warned(done: Sequence[Done], node: str, goes: datetime, *, dry_run: bool) -> str:
    """How many are told, and how many are not."""
    told = [each.told for each in done if each.told]
    reached = [place for place in told if place != warning.NOT_KNOWN]
    lost = len(told) - len(reached)
    verb = "would read" if dry_run else "read"
    said = f"{len(reached)} student(s) {verb} that {node} goes away at {goes.astimezone():%Y-%m-%d %H:%M}"
    said += f", {reached.count(warning.IN_JUPYTERLAB)} of them in JupyterLab."
    return f"{said} {lost} cannot be reached: tell them yourself." if lost else said


async def emptied(
    bench: Bench, node: str, *, move: bool, dry_run: bool, goes: datetime | None = None
) -> Sequence[Done]:
    """Mark the node, move what can be moved, and have the others told when it goes. Raises ClickException for a node that
    there is not."""
    view = await bench.provider.snapshots.now(0.0)
    if node not in view.nodes:
        raise click.ClickException(f"there is no node {node!r}; there are: {', '.join(sorted(view.nodes))}")
    if not dry_run:
        await bench.provider.draining.begin(node)
    draining = {node, *await bench.provider.draining.nodes()}
    residents = [await resident(bench, vm, view) for vm in view.vms.values() if vm.node == node and not vm.template]
    targets = {
        name: _room(bench, view, name) for name in view.nodes if name not in draining and view.online(name)
    }  # fmt: skip
    steps = plan([each for each in residents if each is not None], targets, move_running=move)
    alive = any(step.move is Move.ALIVE for step in steps)
    if goes is not None and not dry_run and not alive:  # moves take minutes; who moves while running need not read it
        await bench.provider.leaving.announce(node, goes)
    done = [await _done(bench, node, step) if step.target and not dry_run else Done(step) for step in steps]
    return done if goes is None else await _told(bench, node, done, goes, dry_run=dry_run)


async def _told(bench: Bench, node: str, done: Sequence[Done], goes: datetime, *, dry_run: bool) -> Sequence[Done]:
    """Announce it, and say of each server that stays where its student reads it."""
    if not dry_run:
        await bench.provider.leaving.announce(node, goes)
    stay = [each.step.resident for each in done if not each.moved and not (dry_run and each.step.target)]
    places = await warning.where_told(bench, stay, datetime.now(timezone.utc))
    return [replace(each, told=places.get(each.step.resident.vmid, "")) for each in done]


async def resident(bench: Bench, vm: VmView, view: View) -> Resident | None:
    """What is known of a VM of this hub; None for anybody else's."""
    try:
        config: Mapping[str, Any] = await bench.provider.client.get(f"/nodes/{vm.node}/qemu/{vm.vmid}/config")
        now: Mapping[str, Any] = await bench.provider.client.get(f"/nodes/{vm.node}/qemu/{vm.vmid}/status/current")
    except PveRefused as exc:
        if exc.fault in {Fault.GONE_OR_FORBIDDEN, Fault.MOVED}:
            return None
        raise
    marker = read_marker(config.get("description"))
    if marker is None or marker.hub_id != bench.settings.hub_id:
        return None
    return Resident(
        vmid=vm.vmid,
        owner=marker.user,
        server=marker.server_name,
        running={"running": True, "stopped": False}.get(str(now.get("status"))),  # the listing is some seconds old
        lock=str(now.get("lock") or config.get("lock") or ""),
        local=checking.local_storages(config, facts(view)),
        passthrough=checking.passed_through(config),
    )


def _room(bench: Bench, view: View, name: str) -> int:
    """How many more servers a node may have: as the settings say, else as many as it likes; PVE refuses what does not fit."""
    room = bench.provider.settings.nodes
    if room and name not in room:
        return 0
    most = room[name].servers if room else None
    there = sum(vm.node == name and not vm.template for vm in view.vms.values())
    return 10_000 - there if most is None else max(0, most - there)


async def _done(bench: Bench, node: str, step: Step) -> Done:
    vmid = step.resident.vmid
    online = step.move is Move.ALIVE
    try:
        upid = await bench.provider.client.post(
            f"/nodes/{node}/qemu/{vmid}/migrate", target=step.target, online=True if online else None
        )
        end = await bench.provider.tasks.end(upid, within_s=_MOVE_S)
    except PveRefused as exc:
        right = exc.right
        return Done(step, failed=f"the hub has no {right.privilege}: docs/proxmox.md" if right else exc.text)
    except PveSilent as exc:
        return Done(step, failed=f"it is not known whether it moved: {exc.why or exc.what}")
    return Done(step, moved=end.ok, failed="" if end.ok else end.exitstatus)


def show(done: Sequence[Done], *, dry_run: bool) -> None:
    """What was done with each server."""
    told = any(each.told for each in done)
    heads = ("VM", "USER", "SERVER", "STATE", "WHAT", "WHY", *(("READS IT",) if told else ()))
    table = Table(*heads, box=None, pad_edge=False, header_style="bold")
    for each in done:
        step, who = each.step, each.step.resident
        state = {True: "runs", False: "is off", None: "?"}[who.running] + (f", {who.lock}" if who.lock else "")
        what = f"{step.move.value} to {step.target}" if step.target else step.move.value
        if step.target and not each.moved and not dry_run:
            what = "not moved"
        cells = [str(who.vmid), who.owner, who.server or "-", state, what, each.failed or step.why]
        table.add_row(*cells, *([each.told or "-"] if told else []))
    print_table(table)
