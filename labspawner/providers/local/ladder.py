"""Which rung of the sandbox ladder this machine allows: found out by trying, said in words. Probing blocks."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path

from labspawner.errors import SetupError
from labspawner.providers.local.confinement import Account, Confinement, Network, Rung
from labspawner.providers.local.etc import files_for, write_etc
from labspawner.providers.local.layout import PROGRAM, layout, look_at_host
from labspawner.sentences import Sentence, plain

log = getLogger(__name__)

_TRIAL_S = 20.0
# What root must still be allowed in a container: linux/capability.h
_NEEDED = {"CAP_CHOWN": 0, "CAP_SETGID": 6, "CAP_SETUID": 7, "CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}


@dataclass(frozen=True, slots=True)
class Finding:
    """What a probe of one rung came to. missing: why it does not work, and what to do; None: it works."""

    rung: Rung
    missing: Sentence | None = None


def judge(sandbox: Sentence | None, groups: Sentence | None, systemd: Sentence | None) -> tuple[Finding, ...]:
    """Every rung, the best first. Pure. Each argument: what bubblewrap, control groups, or systemd lack; None: nothing."""
    return (
        Finding(Rung.SYSTEMD, sandbox or systemd),
        Finding(Rung.CGROUP, sandbox or groups),
        Finding(Rung.RLIMIT, sandbox),
        Finding(Rung.PLAIN),
    )


def choose(findings: Sequence[Finding], *, wanted: str = "auto", allow_unsandboxed: bool = True) -> Rung:
    """The best rung that works, or the one that is wanted. Pure. Raises SetupError that says what is missing.

    wanted: the value of a rung, or `auto`, which takes the plain one only where `allow_unsandboxed`.
    """
    missing = {finding.rung: finding.missing for finding in findings}
    if wanted != "auto":
        rung = Rung(wanted)
        if (why := missing[rung]) is not None:
            raise SetupError(
                Sentence(
                    "The sandbox {rung} that is set for servers does not work on this machine. Administrator: {why}",
                    rung=rung.value,
                    why=why,
                )
            )
        return rung
    for rung in Rung:
        if missing[rung] is None and (rung is not Rung.PLAIN or allow_unsandboxed):
            return rung
    raise SetupError(
        Sentence(
            "Servers cannot be kept apart on this machine, and running them without a sandbox is not allowed. "
            "Administrator: {why}",
            why=missing[Rung.RLIMIT] or plain("no sandbox works"),
        )
    )


def report(rung: Rung, findings: Sequence[Finding], *, provider: str) -> None:
    """Say once in the log which rung it is, and, where a better one is missing, why."""
    better = findings[: [finding.rung for finding in findings].index(rung)]
    why = {str(finding.missing): None for finding in better if finding.missing is not None}
    log.info(
        "sandbox of provider=%s: rung=%s%s", provider, rung.value, f" (no better one: {'; '.join(why)})" * bool(why)
    )
    if rung is Rung.PLAIN:
        log.warning(
            "servers of provider=%s run WITHOUT a sandbox: students can read and end each other's. %s",
            provider,
            "; ".join(why) or "It was set so.",
        )


def find_sandbox() -> Sentence | None:
    """Try bubblewrap with the real layout, as this user. None where it works, else what to do."""
    program = shutil.which(PROGRAM)
    if program is None:
        return Sentence("{program} is missing: apt-get install {package}", program=PROGRAM, package="bubblewrap")
    root = os.geteuid() == 0
    if root and (lacking := _lacking_capabilities()):
        return Sentence(
            "{program} needs rights that root does not have here ({lacking}), as in a container: run the hub as an "
            "ordinary user, or give the container these rights.",
            program=PROGRAM,
            lacking=", ".join(lacking),
        )
    try:
        with tempfile.TemporaryDirectory(prefix="labspawner-probe-") as folder:
            problem = _try(Path(folder), root, program)
    except (OSError, subprocess.SubprocessError) as exc:
        problem = str(exc)
    return (
        None
        if problem is None
        else Sentence("{program} does not work here: {why}", program=PROGRAM, why=plain(problem))
    )


def _try(folder: Path, root: bool, program: str) -> str | None:
    """What bubblewrap complains about; None when it ran."""
    account = Account(uid=os.geteuid() or 65534, gid=os.getegid() or 65534, name="probe")
    home = "/home/probe"
    for name in ("home", "run"):
        (folder / name).mkdir()
    write_etc(folder / "etc", files_for(account, home=home, hostname="probe"))
    confinement = Confinement(
        account=account,
        user_namespace=not root,
        home=str(folder / "home"),
        home_inside=home,
        run_dir=str(folder / "run"),
        hostname="probe",
        network=Network.NONE,
        tmp_bytes=2**20,
    )
    words = layout(confinement, host=look_at_host(), etc=str(folder / "etc"), program=program)
    done = subprocess.run(  # noqa: S603 - our own layout
        [*words, "--", "/bin/sh", "-c", "exit 0"],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={"PATH": os.environ.get("PATH", os.defpath)},
        timeout=_TRIAL_S,
    )
    if done.returncode == 0:
        return None
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return said[-1].removeprefix("bwrap: ")[:300] if said else f"exit status {done.returncode}"


def _lacking_capabilities(status: Path = Path("/proc/self/status")) -> list[str]:
    for line in status.read_text().splitlines():
        if line.startswith("CapEff:"):
            held = int(line.split()[1], 16)
            return [name for name, bit in _NEEDED.items() if not held >> bit & 1]
    return []


def describe(
    rung: Rung, *, own_uids: bool, limited: Collection[str] = (), network: Network | None = None
) -> tuple[Sentence, ...]:
    """For people: what servers are protected against on this rung, and what not. Pure.

    own_uids: every student has a uid. limited: which of `memory`, `cpu`, `processes` a control group limits.
    """
    if rung is Rung.PLAIN:
        return (
            Sentence(
                "Servers run without a sandbox: each student can read all files of the others and end their work."
            ),
            Sentence("Memory, processor and processes are not limited."),
            Sentence("Let nobody use this hub whom you would not give a shell on this machine."),
        )
    said = [
        Sentence("Each server sees only its own home, its own processes and a small part of this machine, read-only."),
        Sentence("Every student has a user id of their own.")
        if own_uids
        else Sentence("All servers run as the hub's user; only the sandbox keeps them apart."),
    ]
    if rung is Rung.RLIMIT:
        said.append(
            Sentence("Limits hold for each process alone, so many small ones together may still fill this machine.")
        )
    elif lacking := [name for name in ("memory", "cpu", "processes") if name not in limited]:
        said.append(Sentence("This machine cannot limit: {what}.", what=", ".join(lacking)))
    else:
        said.append(Sentence("Memory, processor and processes of each server are limited as a whole."))
    if network is Network.EGRESS:
        said.append(Sentence("Servers reach the internet, but neither this machine nor one another."))
    elif network is Network.NONE:
        said.append(Sentence("Servers reach only the hub."))
    said.append(
        Sentence("The kernel is shared: a flaw in it is not kept in by this sandbox, as it is by a virtual machine.")
    )
    return tuple(said)
