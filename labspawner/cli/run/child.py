"""A command as our child, as if we were not there: our signals are its signals, its end is our end.

It dies with us, also by kill -9. What the terminal sends (Ctrl-C) reaches it directly, so only what people and programs
send to us alone is passed on.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

PASSED_ON = frozenset(
    {
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGALRM,
    }
)
NOT_FOUND, NOT_EXECUTABLE = 127, 126
_BY_THE_KERNEL = 128  # SI_KERNEL: the terminal, which told the whole group
_PR_SET_PDEATHSIG = 1
_TRAMPOLINE = Path(__file__).parent / "trampoline.py"


def run_plain(command: Sequence[str], environment: Mapping[str, str], *, output: int | None = None) -> int:
    """Run `command`; its exit status, negative for a signal, as `subprocess` has it. output: its stdout, else ours."""
    with _Signals() as signals:
        try:
            child = subprocess.Popen(  # noqa: S603 - the user's own command
                command,
                env=dict(environment),
                stdout=output,
                preexec_fn=_dying_with_us(signals.before),  # noqa: PLW1509 - there is one thread
            )
        except FileNotFoundError:
            sys.stderr.write(f"labspawner: there is no command {command[0]}\n")
            return NOT_FOUND
        except OSError as error:
            sys.stderr.write(f"labspawner: {command[0]} cannot be executed: {error.strerror}\n")
            return NOT_EXECUTABLE
        return signals.until_end_of(child, lambda: child.pid)


def run_sandboxed(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    around: Callable[[Sequence[str], int], tuple[Sequence[str], Sequence[str]]],
    output: int | None = None,
) -> int:
    """Run `command` inside what `around` puts around it; its exit status, above 128 for a signal, as a shell has it.

    around: from the command and a descriptor for bubblewrap's news, to bubblewrap's command line and arguments.
    """
    with _Signals() as signals:
        before = ",".join(str(int(number)) for number in signals.before)
        inner = (sys.executable, "-I", "-S", str(_TRAMPOLINE), before, *command)
        news, told = os.pipe()
        arguments_fd = os.memfd_create("arguments")
        try:
            argv, arguments = around(inner, told)
            os.write(arguments_fd, b"".join(word.encode() + b"\0" for word in arguments))
            os.lseek(arguments_fd, 0, os.SEEK_SET)
            child = subprocess.Popen(  # noqa: S603 - bubblewrap and the user's own command
                [word.format(fd=arguments_fd) if word == "{fd}" else word for word in argv],
                env=dict(environment),
                stdout=output,
                pass_fds=(arguments_fd, told),
                preexec_fn=_dying_with_us(None),  # noqa: PLW1509 - there is one thread
            )
        finally:
            os.close(told)
            os.close(arguments_fd)
        first = _first_process(news)
        return signals.until_end_of(child, lambda: _second_process(first))


def _first_process(news: int) -> int | None:
    """The first process of the sandbox, from the one JSON object that bubblewrap says; None: it failed. Closes `news`."""
    said = b""
    with os.fdopen(news, "rb", buffering=0) as file:
        while b"}" not in said and (more := file.read(4096)):
            said += more
    try:
        return int(json.loads(said)["child-pid"])
    except (ValueError, KeyError, TypeError):
        return None


def _second_process(first: int | None) -> int | None:
    """The command, in a PID namespace whose first process is bubblewrap's; None: it has not begun, or is gone."""
    try:
        children = Path(f"/proc/{first}/task/{first}/children").read_text(encoding="ascii").split()
        for pid in children:
            status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
            for line in status.splitlines():
                if line.startswith("NSpid:") and line.split()[-1] == "2":
                    return int(pid)
    except OSError:
        pass
    return None


class _Signals:
    """The signals that are passed on, taken instead of acted on."""

    def __enter__(self) -> _Signals:
        self.before = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON | {signal.SIGCHLD})
        return self

    def __exit__(self, *_: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self.before)

    def until_end_of(self, child: subprocess.Popen[bytes], target: Callable[[], int | None]) -> int:
        """Pass on what comes until `child` has ended. target: who gets it, asked each time."""
        while (status := child.poll()) is None:
            info = signal.sigwaitinfo(PASSED_ON | {signal.SIGCHLD})
            if info.si_signo == signal.SIGCHLD or info.si_code == _BY_THE_KERNEL:
                continue
            pid = target()
            if pid is None:  # it has not begun: end what would begin it
                child.kill()
                continue
            with suppress(ProcessLookupError):
                os.kill(pid, info.si_signo)
        return status


def _dying_with_us(mask: set[int] | None) -> Callable[[], None]:
    """What the child does before it becomes the command. mask: the signals it has blocked then; None: as we have."""
    prctl, us = ctypes.CDLL(None).prctl, os.getpid()

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != us:  # we died before that
            os._exit(1)
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    return prepare
