"""Why a start failed, in words for the student. Pure."""

from __future__ import annotations

import errno
import re
from pathlib import PurePath

from labspawner.errors import LabError, ProviderUnavailable, SetupError, StartFailed
from labspawner.sentences import Sentence

_PORT_TAKEN = re.compile(
    r"address already in use|port \d+ is (?:already in use|not available)|EADDRINUSE", re.IGNORECASE
)
_DISK_FULL = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_IMPORT = re.compile(r"^(?:ModuleNotFoundError|ImportError): (.{1,200})", re.MULTILINE)

_PORT_TAKEN_TWICE = Sentence("The network port for your server was taken by something else, twice. Try again.")


def port_was_taken(log_tail: str) -> bool:
    """Whether the server died because something else listens on its port."""
    return _PORT_TAKEN.search(log_tail) is not None


def not_found(command: str) -> SetupError:
    """The command is not installed."""
    name = PurePath(command).name
    if name.startswith(("jupyterhub-singleuser", "jupyter")):
        message = Sentence(
            "{command} is not installed in the hub's environment. Administrator: pip install jupyterlab", command=name
        )
    else:
        message = Sentence(
            "The command {command} of this profile is not installed on the server. Tell your instructor.", command=name
        )
    return SetupError(message, detail=f"command not found: {command!r}")


def not_seen(command: str) -> SetupError:
    """The command stands where no sandbox shows it."""
    return SetupError(
        Sentence(
            "The command {command} of this profile is not visible to servers. "
            "Administrator: add its folder to read_only_paths.",
            command=PurePath(command).name,
        ),
        detail=f"command not visible in the sandbox: {command!r}",
    )


def refused(exc: OSError | ValueError, command: str) -> LabError:
    """The operating system would not start the process."""
    number = exc.errno if isinstance(exc, OSError) else None
    detail = f"cannot start {command!r}: {exc}"
    if number == errno.ENOENT:
        return not_found(command)
    if number == errno.EADDRINUSE:
        return StartFailed(_PORT_TAKEN_TWICE, detail=detail, log_tail="Address already in use")
    if number in {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE}:
        return ProviderUnavailable(
            Sentence("The server machine is too busy to start one more server. Try again in a minute."),
            detail=detail,
            retry_after_s=30.0,
        )
    if number in FULL:
        return SetupError(
            Sentence("There is no disk space left for the log of your server. Tell your administrator."), detail=detail
        )
    if number in {errno.EACCES, errno.EPERM, errno.ENOEXEC}:
        return SetupError(
            Sentence(
                "The command {command} of this profile may not be run on the server. Tell your instructor.",
                command=PurePath(command).name,
            ),
            detail=detail,
        )
    return SetupError(Sentence("Your server could not be started. Tell your administrator."), detail=detail)


def died(exit_code: int, log_tail: str) -> StartFailed:
    """The server ended before it answered. exit_code: negative for a signal, as `subprocess` has it."""
    found = _IMPORT.search(log_tail)
    if exit_code in {-9, 137}:
        message = Sentence(
            "Your server was killed while it was starting, most likely because the machine's memory is full. "
            "Try again later, or pick a smaller profile."
        )
    elif port_was_taken(log_tail):
        message = _PORT_TAKEN_TWICE
    elif _DISK_FULL.search(log_tail):
        message = Sentence("Your server found the disk full while it was starting. Delete files, then try again.")
    elif found is not None:
        message = Sentence(
            "Your server stopped while it was starting: a Python package is missing or broken ({problem}). "
            "Tell your instructor; packages that you installed yourself are in ~/.local.",
            problem=found[1].strip(),
        )
    else:
        message = Sentence(
            "Your server stopped while it was starting (exit code {code}). Try again; if it stops again, "
            "show the last lines of its log to your instructor.",
            code=exit_code,
        )
    return StartFailed(message, detail=f"server died at start exit_code={exit_code}", log_tail=log_tail)


def silent(waited_s: float, log_tail: str) -> StartFailed:
    """The server lives but never answered."""
    message = Sentence(
        "Your server did not answer within {seconds} seconds and was stopped. The machine may be busy: try again; "
        "if it happens again, tell your instructor.",
        seconds=round(waited_s),
    )
    return StartFailed(message, detail=f"no answer within {waited_s:g} s", log_tail=log_tail)
