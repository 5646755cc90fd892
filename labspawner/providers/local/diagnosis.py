"""What `labspawner doctor` looks at on the hub's own machine: the sandbox, limits, homes, and cards."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from labspawner.errors import LabError
from labspawner.providers.findings import Finding, error, note, ok, trouble, warning
from labspawner.providers.local.confinement import Rung
from labspawner.providers.local.limits.quota import probe_quota
from labspawner.providers.local.machine import Found

if TYPE_CHECKING:
    from labspawner.providers.local.provider import LocalProvider

_RUNGS = {
    Rung.SYSTEMD: "bubblewrap in a systemd scope",
    Rung.CGROUP: "bubblewrap in a control group",
    Rung.RLIMIT: "bubblewrap, with limits of each process alone",
    Rung.PLAIN: "no sandbox",
}


async def diagnose(provider: LocalProvider, *, homes: Path) -> tuple[Finding, ...]:
    """Everything that a start will need of this machine, found out by trying."""
    try:
        found = await provider.machine.found()
    except LabError as exc:
        return (trouble("sandbox", exc),)
    quota = await provider.host.in_thread(lambda: probe_quota(homes, own_uids=os.geteuid() == 0))
    wanted = provider.settings.home_quota is not None
    return (
        *_sandbox(found),
        *_limits(found),
        *_network(found, provider.settings.network),
        ok("home quota", quota.words)
        if wanted and found.quotas is not None
        else warning("home quota", f"home_quota is set, and homes are not limited: {quota.words}")
        if wanted
        else note("home quota", "homes are not limited: home_quota is not set"),
        *await _cards(provider),
    )


def _sandbox(found: Found) -> tuple[Finding, ...]:
    said = f"servers run in: {_RUNGS[found.rung]}"
    better = [finding for finding in found.findings if finding.missing is not None]
    first = {Rung.PLAIN: warning, Rung.RLIMIT: warning}.get(found.rung)
    advice = "let nobody use this hub whom you would not give a shell here" if found.rung is Rung.PLAIN else ""
    return (
        first("sandbox", said, advice) if first is not None else ok("sandbox", said),
        *(note("sandbox", f"not {_RUNGS[each.rung]}: {each.missing}") for each in better),
    )


def _limits(found: Found) -> tuple[Finding, ...]:
    groups = found.groups
    if groups is None:
        return ()  # said with the sandbox
    held = {
        "memory": groups.limits_memory,
        "processors": groups.limits_cpu,
        "processes": groups.limits_processes,
    }
    missing = [name for name, yes in held.items() if not yes]
    if missing:
        return (warning("limits", f"control groups of this machine do not limit: {', '.join(missing)}"),)
    return (ok("limits", "control groups limit memory, processors and processes of each server"),)


def _network(found: Found, wanted: str | None) -> tuple[Finding, ...]:
    if not found.sandboxed or wanted == "none":
        return (
            note("network", "servers reach only the hub") if found.sandboxed else note("network", "the machine's own"),
        )
    if not found.egress.available:
        why = str(found.egress.missing or "no way out was found")
        return (warning("network", f"servers reach no internet: {why}", "or set network to none"),)
    return (ok("network", "servers reach the internet, and neither this machine nor one another"),)


async def _cards(provider: LocalProvider) -> tuple[Finding, ...]:
    cards = provider.slices.cards
    if not cards.wanted:
        return (note("GPUs", "no card is shared: gpu.cards is empty"),)
    try:
        lines = await provider.slices.describe()
    except (LabError, OSError) as exc:
        return (error("GPUs", str(exc)),)
    if not cards.known.devices():
        return (note("GPUs", f"no card: {cards.missing or 'none was found'}"),)
    level = ok if cards.pretended is None else note
    return (
        *(level("GPUs", str(line)) for line in lines[:-1]),
        note("GPUs", "whether slices hold here: run `labspawner gpu check`"),
    )
