"""Where a course file comes from: its last commit, asked of plain `git`, without a network and within a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from labspawner.deadlines import within

_MAX_OUTPUT = 64 * 1024
_MAX_KNOWN = 1000
_SEPARATOR = "\x1f"
_FORMAT = _SEPARATOR.join(("%H", "%aI", "%an", "%s"))
# A work tree can name programs that git runs by itself; none of them is wanted for a look. `--no-pager` and these suffice
# for `log`, `rev-parse` and `hash-object`.
_QUIET = (
    *("--no-pager", "--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"),
    *("-c", "log.showSignature=false", "-c", "core.sshCommand=false", "-c", "protocol.allow=never"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """The last commit of a course file. hash: 40 or 64 hexadecimal characters. changed: the file is not as committed."""

    hash: str
    at: datetime
    subject: str
    author: str
    changed: bool

    @property
    def short(self) -> str:
        """The first ten characters, as people name a commit."""
        return self.hash[:10]


class Origins:
    """Where course files come from, asked of git at most once in `fresh_s` for each file as it is, and one at a time."""

    def __init__(self, *, fresh_s: float = 60.0, deadline_s: float = 5.0) -> None:
        self._fresh_s = fresh_s
        self._deadline_s = deadline_s
        self._known: dict[Path, tuple[tuple[int, ...], float, Commit | None]] = {}
        self._one_at_a_time = asyncio.Lock()

    async def of(self, path: Path) -> Commit | None:
        """See `origin`."""
        async with self._one_at_a_time:
            stamp = await asyncio.to_thread(_stamp, path)
            now = asyncio.get_running_loop().time()
            known = self._known.get(path)
            if known is None or known[0] != stamp or now - known[1] >= self._fresh_s:
                found = await origin(path, deadline_s=self._deadline_s)
                known = self._known[path] = (stamp, now, found)
            if len(self._known) > _MAX_KNOWN:
                self._known.pop(next(iter(self._known)))
            return known[2]


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        info = path.stat()
    except OSError:
        return ()
    return (info.st_mtime_ns, info.st_ctime_ns, info.st_size, info.st_ino)


async def origin(path: Path, *, deadline_s: float = 5.0) -> Commit | None:
    """The last commit of the file at `path`; None where it is in no git work tree, was never committed, there is no git, or
    git has no answer within `deadline_s`. Nothing is written, and nothing is fetched."""
    try:
        return await within(deadline_s, _look(path))
    except (OSError, ValueError, asyncio.TimeoutError):
        return None


async def _look(path: Path) -> Commit | None:
    path = await asyncio.to_thread(path.resolve)  # a link may lead from the hub's folder into the work tree
    found = await _git(path, "log", "-1", f"--format={_FORMAT}", "--no-show-signature", "--", path.name)
    parts = found.strip("\n").split(_SEPARATOR, 3)
    if len(parts) != 4:
        return None
    committed = (await _git(path, "rev-parse", "--verify", "--quiet", f"HEAD:./{path.name}")).strip()
    now = (await _git(path, "hash-object", "--no-filters", "--", path.name)).strip()
    return Commit(
        hash=parts[0],
        at=datetime.fromisoformat(parts[1].replace("Z", "+00:00")),
        subject=parts[3],
        author=parts[2],
        changed=committed != now,
    )


async def _git(path: Path, *arguments: str) -> str:
    """What git says of the folder of `path`; empty where it refuses. Whatever happens, no process is left."""
    words: Sequence[str] = ("git", *_QUIET, "-C", str(path.parent), *arguments)
    process = await asyncio.create_subprocess_exec(
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=_environment(),
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        output = b""
        while len(output) < _MAX_OUTPUT and (more := await process.stdout.read(_MAX_OUTPUT)):
            output += more
        if len(output) >= _MAX_OUTPUT:
            return ""
        return output.decode("utf-8", "replace") if await process.wait() == 0 else ""
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await asyncio.shield(process.wait())


def _environment() -> dict[str, str]:
    """Enough to run git, and nothing that turns it to another work tree, a prompt or a network."""
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG", "TMPDIR"}}
    return {
        **kept,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_ALLOW_PROTOCOL": "",
        "GIT_LITERAL_PATHSPECS": "1",
    }
