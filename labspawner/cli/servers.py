"""`labspawner reconcile` and `labspawner down`: leases and what is on the hosts, without a hub."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table
from traitlets.config.loader import PyFileConfigLoader

from labspawner.cli.up import find_config
from labspawner.config import Labspawner, Settings, open_providers
from labspawner.errors import LabError
from labspawner.lifecycle import Engine, EngineSettings
from labspawner.model import Ending, Lease, Phase, ReleaseMode
from labspawner.reconciler import Plan, Rules
from labspawner.sentences import Sentence
from labspawner.store import Store

T = TypeVar("T")

HUB_AT_WORK = timedelta(minutes=15)
"""A lease that is starting or stopping is left to the hub for so long; nobody can tell from here whether it runs."""

BY_HAND = Sentence("An administrator ended all servers.")

config_option = click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The hub's configuration. Default: ./jupyterhub_config.py",
)
data_option = click.option(
    "--data-dir", type=click.Path(file_okay=False, path_type=Path), envvar="LABSPAWNER_DATA_DIR",
    help="The folder given to `labspawner up`, where it was not the default.",
)  # fmt: skip


@click.command()
@config_option
@data_option
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
def reconcile(config: Path | None, data_dir: Path | None, dry_run: bool) -> None:
    """Compare leases with what is on the hosts, and end what does not belong.

    Looks twice, since one look proves nothing. The hub does the same every minute; this is for a look of your own, or
    for a hub that is down.
    """

    plan = _with_engine(config, data_dir, lambda engine: engine.reconciler.look_twice(dry_run=dry_run))
    _show(plan, dry_run)


@click.command()
@config_option
@data_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def down(config: Path | None, data_dir: Path | None, yes: bool) -> None:
    """End all servers that a stopped hub left running. Homes are kept."""

    async def work(engine: Engine) -> int:
        leases = [lease for lease in engine.book.all() if lease.phase is not Phase.PARKED]
        if leases and not yes:
            click.confirm(f"End {len(leases)} server(s)?", abort=True)
        for lease in leases:
            await engine.end(lease.id, Ending(by="hub", reason=BY_HAND), ReleaseMode.STOP)
        return len(leases)

    count = _with_engine(config, data_dir, work)
    click.echo(f"{count} server(s) ended." if count else "No server is running.")


def _with_engine(config: Path | None, data_dir: Path | None, work: Callable[[Engine], Awaitable[T]]) -> T:
    try:
        settings = settings_from(config or find_config(), data_dir)
        return asyncio.run(_run(settings, work))
    except LabError as exc:
        raise click.ClickException(f"{exc.message} ({exc})" if str(exc) != str(exc.message) else str(exc)) from exc


def settings_from(config: Path, data_dir: Path | None) -> Settings:
    """The settings of the hub that this configuration starts. Raises BadConfig."""
    if data_dir is not None:
        os.environ["LABSPAWNER_DATA_DIR"] = str(data_dir.absolute())
    loaded = PyFileConfigLoader(config.name, path=str(config.parent)).load_config()
    return Labspawner(config=loaded).settings()


async def _run(settings: Settings, work: Callable[[Engine], Awaitable[T]]) -> T:
    engine = Engine(
        store=Store.open(settings.database_url),
        providers=open_providers(settings),
        settings=EngineSettings(
            hub_id=settings.hub_id,
            release_grace_s=settings.release_grace_s,
            release_timeout_s=settings.release_timeout_s,
            rules=Rules(orphan_grace=timedelta(0), brake_share=settings.brake_share),
        ),
    )
    try:
        await engine.open(left_alone=_hub_may_work_on)
        return await work(engine)
    finally:
        await engine.close()


def _hub_may_work_on(lease: Lease) -> bool:
    at_work = lease.phase in {Phase.QUEUED, Phase.LAUNCHING, Phase.STOPPING}
    return at_work and datetime.now(timezone.utc) - lease.phase_at < HUB_AT_WORK


def _show(plan: Plan, dry_run: bool) -> None:
    actions: list[Any] = [*plan.actions, *plan.braked]
    if not actions:
        click.echo("Leases and hosts agree; nothing to do.")
        return
    table = Table("lease", "provider", "user", "what", "why")
    for action in actions:
        lease_id = action.lease.id if action.lease else action.handle.lease_id if action.handle else "?"
        user = action.lease.user if action.lease else ""
        table.add_row(lease_id, action.provider, user, action.kind, str(action.reason))
    Console().print(table)
    if plan.braked:
        raise click.ClickException(
            "That is too much at once, so nothing of it was done. Look for a larger fault first."
        )
    click.echo(f"{len(actions)} to end; nothing was done (--dry-run)." if dry_run else f"{len(actions)} ended.")
