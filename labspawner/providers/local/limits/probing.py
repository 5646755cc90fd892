"""Whether control groups work here: found out by making one, putting a process into it, and taking it away again."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path, PurePosixPath

from labspawner.naming import safe_name
from labspawner.providers.local.confinement import Limits
from labspawner.providers.local.limits.cgroupfs import PROC_SELF, CgroupFs, Mounts, find_mounts
from labspawner.providers.local.limits.dialects import V1, V2, WANTED, Dialect
from labspawner.providers.local.limits.groups import TREE, Group, Groups, Probed, make

TRIAL = Limits(cpu=1.0, memory_bytes=64 * 2**20, processes=16)
_TRIAL_S = 10.0
_JOIN = 'for file; do echo $$ > "$file" || exit 1; done; echo joined; read line'
_V1_HELPERS = ("cpuacct", "freezer")
_IN_WORDS = {"memory": "memory", "cpu": "CPU", "pids": "processes"}


def probe(
    *,
    hub_id: str,
    provider: str,
    parent: str | None = None,
    fs: CgroupFs | None = None,
    mounts: Mounts | None = None,
) -> Probed:
    """Say what control groups can do here, by trial.

    parent: the group, as a path from the mount, in which the tree `labspawner` is made; it must exist. Default: the
    topmost that we may change. Takes some ten milliseconds; leaves nothing behind.
    """
    fs = fs or CgroupFs()
    mounts = mounts or find_mounts(PROC_SELF)
    found, problems = _dialects(fs, mounts, parent)
    for dialect in found:
        problem = _try_out(dialect, hub_id)
        if problem is None:
            words = f"control groups version {dialect.version} limit {what_is_limited(dialect.controllers)}"
            return Probed(Groups(dialect, hub_id=hub_id, provider=provider, words=words), words)
        problems.append(f"version {dialect.version}: {problem}")
    return Probed(None, "no control groups: " + ("; ".join(problems) or "none are mounted"))


def _dialects(fs: CgroupFs, mounts: Mounts, parent: str | None) -> tuple[list[Dialect], list[str]]:
    """The generations worth a trial, the better first, and why not the others."""
    found: list[Dialect] = []
    problems: list[str] = []
    if mounts.v2 is not None:
        folder = _v2_parent(fs, mounts.v2, mounts.own.get("", "/"), parent)
        if folder is None:
            problems.append("version 2: no group that we are in may be changed by us")
        else:
            v2 = V2(fs, folder)
            if v2.controllers:
                found.append(v2)
            else:
                problems.append(f"version 2: {folder} has none of the controllers {', '.join(WANTED)}")
    if mounts.v1:
        folders = {
            name: mounts.v1[name] / (parent or "").strip("/") for name in (*WANTED, *_V1_HELPERS) if name in mounts.v1
        }
        usable = {name: folder for name, folder in folders.items() if fs.writable(folder)}
        if usable.keys() & set(WANTED):
            found.append(V1(fs, usable))
        else:
            problems.append("version 1: none of its groups may be changed by us")
    return found, problems


def _v2_parent(fs: CgroupFs, mount: Path, own: str, parent: str | None) -> Path | None:
    """The topmost group above our own in which we may make others and pass controllers on.

    Only such a group will do: a process may be moved only below a group that its mover may write to, and a user
    manager of systemd gives its user one.
    """
    if parent is not None:
        candidates = [mount / parent.strip("/")]
    else:
        parts = [part for part in own.split("/") if part]
        candidates = [mount.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]
    for folder in candidates:
        if all(fs.writable(folder / name) for name in ("", "cgroup.procs", "cgroup.subtree_control")):
            return folder
    return None


def _try_out(dialect: Dialect, hub_id: str) -> str | None:
    """What does not work, in words; None when all does."""
    trials = PurePosixPath(TREE, safe_name(hub_id), "_trial")
    _bury(dialect, trials)
    name = trials / str(os.getpid())
    group = Group(dialect, name)
    try:
        make(dialect, name)
        dialect.limit(name, TRIAL)
        return what_fails(group, dialect.controllers)
    except OSError as exc:
        return _in_words(exc)
    finally:
        group.kill()
        group.remove()


def _bury(dialect: Dialect, trials: PurePosixPath) -> None:
    """Remove the trials of hubs that were killed in the middle of one."""
    names = {path.name for folder in dialect.folders(trials) for path in dialect.fs.groups_in(folder)}
    for name in names:
        if not Path("/proc", name).exists():
            lost = Group(dialect, trials / name)
            lost.kill()
            lost.remove()


def what_fails(group: Group, controllers: frozenset[str]) -> str | None:
    """What of a group with the limits TRIAL does not work, in words: joining its leaves, or a limit. None: all does."""
    limits = group.limits_of()
    found = {"memory": limits.memory_bytes, "cpu": limits.cpu, "pids": limits.processes}
    deaf = [_IN_WORDS[key] for key in WANTED if key in controllers and found[key] is None]
    return _join(group) or (f"limits of {', '.join(deaf)} are not taken" if deaf else None)


def _join(group: Group) -> str | None:
    """Put a process into each leaf, as the real ones will be."""
    for files in (group.outside_files, group.inside_files):
        child = subprocess.Popen(  # noqa: S603 - a fixed program and our own paths
            ["/bin/sh", "-c", _JOIN, "sh", *files],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={},
        )
        with child:
            assert child.stdout is not None
            said = child.stdout.readline()
            inside = child.pid in group.pids()
            try:
                _, complaint = child.communicate(timeout=_TRIAL_S)
            except subprocess.TimeoutExpired:
                child.kill()
                complaint = b"it hangs"
        if said.strip() != b"joined":
            return f"a process could not join: {complaint.decode(errors='replace').strip()}"
        if not inside:
            return "a process joined and is not listed"
    return None


def _in_words(exc: OSError) -> str:
    where = exc.filename or ""
    if exc.errno in {16, 95} and str(where).endswith("subtree_control"):
        return f"{Path(where).parent} has processes of its own, so the kernel gives no controllers to groups below it"
    return f"{exc.strerror or exc}: {where}" if where else str(exc)


def what_is_limited(controllers: frozenset[str]) -> str:
    """`memory, CPU, processes`, or `memory, not CPU, processes`."""
    good = [_IN_WORDS[name] for name in WANTED if name in controllers]
    bad = [_IN_WORDS[name] for name in WANTED if name not in controllers]
    return ", ".join(good) + (f", not {', '.join(bad)}" if bad else "")
