"""Becomes the command, inside the sandbox: run as a file, before anything of ours can be imported.

    python -I -S trampoline.py <blocked signals, by comma> command...

bubblewrap must outlive a Ctrl-C, which the terminal sends to everybody, so it is started with such signals blocked; the
command must not be, so what was blocked before us is set here. Exit status 127: not found, 126: cannot be executed.
"""

import os
import signal
import sys


def main() -> int:
    """Never returns where the command could be started."""
    blocked = [signal.Signals(int(number)) for number in sys.argv[1].split(",") if number]
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python, and the command would inherit that
        signal.signal(ignored, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    command = sys.argv[2:]
    try:
        os.execvp(command[0], command)  # noqa: S606 - the user's own command
    except FileNotFoundError:
        sys.stderr.write(f"labspawner: there is no command {command[0]}\n")
        return 127
    except OSError as error:
        sys.stderr.write(f"labspawner: {command[0]} cannot be executed: {error.strerror}\n")
        return 126


if __name__ == "__main__":
    sys.exit(main())
