"""The provider of the configuration that these commands work with, opened beside a hub that may run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from labspawner.cli.servers import settings_from
from labspawner.cli.up import find_config
from labspawner.config import Settings, open_providers
from labspawner.courses import Catalog
from labspawner.doctor.looks import asked_of
from labspawner.errors import LabError
from labspawner.providers.findings import Asked
from labspawner.providers.proxmox.answers import PveRefused, PveSilent

if TYPE_CHECKING:
    from labspawner.providers.proxmox.provider import ProxmoxProvider

T = TypeVar("T")
KIND = "proxmox"

provider_option = click.option(
    "--provider", "name", metavar="NAME", help="Which provider of the configuration. Default: the one on Proxmox VE."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What a command works with. asked: what the profiles of this provider ask of it; hub_url: how VMs reach the hub."""

    provider: ProxmoxProvider
    settings: Settings
    asked: tuple[Asked, ...]


def with_provider(
    config: Path | None, data_dir: Path | None, name: str | None, work: Callable[[Bench], Awaitable[T]]
) -> T:
    """What `work` gives; errors of ours as one line of the command's."""
    try:
        settings = settings_from(config or find_config((Path(),)), data_dir)
        return asyncio.run(_run(settings, chosen(settings, name), work))
    except LabError as exc:
        raise click.ClickException(f"{exc.message} ({exc})" if str(exc) != str(exc.message) else str(exc)) from exc
    except (PveRefused, PveSilent) as exc:
        raise click.ClickException(str(exc)) from exc


def chosen(settings: Settings, name: str | None) -> str:
    """The name of the provider that is meant. Raises ClickException where there is none, or are several."""
    there = [each for each, options in settings.providers.items() if str(options.get("kind", each)) == KIND]
    if name is None and len(there) == 1:
        return there[0]
    if name in there:
        return str(name)
    if not there:
        raise click.ClickException("no provider of the configuration is on Proxmox VE: docs/proxmox.md")
    raise click.ClickException(f"say which with --provider: {', '.join(there)}")


async def _run(settings: Settings, name: str, work: Callable[[Bench], Awaitable[T]]) -> T:
    snapshot = await asyncio.to_thread(Catalog(settings.courses_dir).refresh)
    opened = open_providers(replace(settings, providers={name: settings.providers[name]}))[name]
    try:
        provider: ProxmoxProvider = opened  # type: ignore[assignment]  # of this kind, as `chosen` saw
        return await work(Bench(provider=provider, settings=settings, asked=tuple(asked_of(name, snapshot))))
    finally:
        await opened.close()
