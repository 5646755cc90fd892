"""Who is told that a node goes away: when that is, as it is typed; and which students it reaches."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone

import click

from labspawner.cli.vm.opening import Bench
from labspawner.errors import LabError
from labspawner.model import Lease, Phase
from labspawner.providers.proxmox.draining import Resident
from labspawner.store import Standing, Store
from labspawner.units import UnitError, parse_duration

IN_JUPYTERLAB = "JupyterLab, home page"
ON_PAGE = "home page only: its server does not report"
NOT_KNOWN = "not reached: the hub has no running server of it"
_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)", re.ASCII)
_MOST = timedelta(days=60)


def moment_of(at: str | None, in_: str | None, now: datetime) -> datetime | None:
    """When the node goes, from `--at 18:00` (today, by this machine's clock; or with its date) or `--in 30m`; None where
    neither was given. now: with its timezone. Raises UsageError."""
    if at is not None and in_ is not None:
        raise click.UsageError("write --at or --in, not both")
    if in_ is not None:
        try:
            found = now + parse_duration(in_)
        except UnitError as exc:
            raise click.UsageError(f"--in {exc}") from exc
    elif at is not None:
        found = _at(at, now)
    else:
        return None
    if not now < found <= now + _MOST:
        raise click.UsageError(f"{found:%Y-%m-%d %H:%M} is over, or more than 60 days away: write for example --in 30m")
    return found.astimezone(timezone.utc)


def _at(text: str, now: datetime) -> datetime:
    clock = _CLOCK.fullmatch(text.strip())
    if clock is not None:
        return now.replace(hour=int(clock[1]), minute=int(clock[2]), second=0, microsecond=0)
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise click.UsageError(f"--at {text!r} is no time: write for example 18:00 or 2026-11-23T07:30") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=now.tzinfo)


async def reach(bench: Bench, residents: Sequence[Resident], now: datetime) -> Mapping[int, str]:
    """Where the student of each running server reads it, by id of the VM; from the hub's own records. Raises LabError."""
    store = Store.open(bench.settings.database_url)
    try:
        known = await store.live_with_standings(bench.settings.hub_id)
    finally:
        await store.close()
    running = {(lease.user, lease.server_name): (lease, said) for lease, said in known if lease.phase is Phase.READY}
    return {
        each.vmid: _place(running.get((each.owner, each.server)), now)
        for each in residents
        if each.running is not False
    }


def _place(found: tuple[Lease, Standing | None] | None, now: datetime) -> str:
    if found is None:
        return NOT_KNOWN
    report = found[1].evidence.report if found[1] is not None else None
    fresh = report is not None and report.valid_until is not None and report.valid_until > now
    return IN_JUPYTERLAB if fresh else ON_PAGE


async def where_told(bench: Bench, residents: Sequence[Resident], now: datetime) -> Mapping[int, str]:
    """The same where the records may be out of reach: nobody is said to be told then."""
    try:
        return await reach(bench, residents, now)
    except LabError as exc:
        click.echo(f"The hub's records cannot be read, so it is not known whom this reaches: {exc}", err=True)
        return {each.vmid: NOT_KNOWN for each in residents if each.running is not False}
