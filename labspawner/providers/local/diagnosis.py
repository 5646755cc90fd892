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
from labspawner.sentences import Sentence

if TYPE_CHECKING:
    from labspawner.providers.local.provider import LocalProvider

_SANDBOX, _QUOTA, _LIMITS = Sentence("sandbox"), Sentence("home quota"), Sentence("limits")
_NETWORK, _GPUS = Sentence("network"), Sentence("GPUs")
_RUNGS = {
    Rung.SYSTEMD: Sentence("bubblewrap in a systemd scope"),
    Rung.CGROUP: Sentence("bubblewrap in a control group"),
    Rung.RLIMIT: Sentence("bubblewrap, with limits of each process alone"),
    Rung.PLAIN: Sentence("no sandbox"),
}


async def diagnose(provider: LocalProvider, *, homes: Path) -> tuple[Finding, ...]:
    """Everything that a start will need of this machine, found out by trying."""
    try:
        found = await provider.machine.found()
    except LabError as exc:
        return (trouble(_SANDBOX, exc),)
    quota = await provider.host.in_thread(lambda: probe_quota(homes, own_uids=os.geteuid() == 0))
    wanted = provider.settings.home_quota is not None
    return (
        *_sandbox(found),
        *_limits(found),
        *_network(found, provider.settings.network),
        ok(_QUOTA, quota.words)
        if wanted and found.quotas is not None
        else warning(_QUOTA, Sentence("home_quota is set, and homes are not limited: {why}", why=quota.words))
        if wanted
        else note(_QUOTA, Sentence("homes are not limited: home_quota is not set")),
        *await _cards(provider),
    )


def _sandbox(found: Found) -> tuple[Finding, ...]:
    said = Sentence("servers run in: {sandbox}", sandbox=_RUNGS[found.rung])
    better = [finding for finding in found.findings if finding.missing is not None]
    first = {Rung.PLAIN: warning, Rung.RLIMIT: warning}.get(found.rung)
    alone = Sentence("let nobody use this hub whom you would not give a shell here")
    advice = alone if found.rung is Rung.PLAIN else ""
    return (
        first(_SANDBOX, said, advice) if first is not None else ok(_SANDBOX, said),
        *(
            note(_SANDBOX, Sentence("not {sandbox}: {why}", sandbox=_RUNGS[each.rung], why=each.missing))
            for each in better
        ),
    )


def _limits(found: Found) -> tuple[Finding, ...]:
    groups = found.groups
    if groups is None:
        return ()  # said with the sandbox
    held = {
        Sentence("memory"): groups.limits_memory,
        Sentence("processors"): groups.limits_cpu,
        Sentence("processes"): groups.limits_processes,
    }
    missing = [name for name, yes in held.items() if not yes]
    if missing:
        said = Sentence("control groups of this machine do not limit: {what}", what=_listed(missing))
        return (warning(_LIMITS, said),)
    return (ok(_LIMITS, Sentence("control groups limit memory, processors and processes of each server")),)


def _listed(names: list[Sentence]) -> Sentence:
    """The names with commas between, each of them still to be translated."""
    said, *rest = names
    for name in rest:
        said = Sentence("{first}, {rest}", first=said, rest=name)
    return said


def _network(found: Found, wanted: str | None) -> tuple[Finding, ...]:
    if not found.sandboxed or wanted == "none":
        return (
            note(
                _NETWORK, Sentence("servers reach only the hub") if found.sandboxed else Sentence("the machine's own")
            ),
        )
    if not found.egress.available:
        why = found.egress.missing or Sentence("no way out was found")
        said = Sentence("servers reach no internet: {why}", why=why)
        return (warning(_NETWORK, said, Sentence("or set network to none")),)
    return (ok(_NETWORK, Sentence("servers reach the internet, and neither this machine nor one another")),)


async def _cards(provider: LocalProvider) -> tuple[Finding, ...]:
    cards = provider.slices.cards
    if not cards.wanted:
        return (note(_GPUS, Sentence("no card is shared: gpu.cards is empty")),)
    try:
        lines = await provider.slices.describe()
    except (LabError, OSError) as exc:
        return (error(_GPUS, str(exc)),)
    if not cards.known.devices():
        return (note(_GPUS, Sentence("no card: {why}", why=cards.missing or Sentence("none was found"))),)
    level = ok if cards.pretended is None else note
    return (
        *(level(_GPUS, line) for line in lines[:-1]),
        note(_GPUS, Sentence("whether slices hold here: run `labspawner gpu check`")),
    )
