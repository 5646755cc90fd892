from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

from labspawner.testing.stopwatch import Stopwatch
from labspawner.testing.waiting import eventually_sync

STANDS_STILL = """
import sys, time
from labspawner.testing.stopwatch import Stopwatch
with Stopwatch() as watch:
    began = time.monotonic()
    print("begun", flush=True)
    sys.stdin.readline()
    print(watch.seconds, time.monotonic() - began)
"""


def test_it_counts_what_waits_and_what_works():
    with Stopwatch() as watch:
        eventually_sync(lambda: watch.seconds > 0.1)
        while watch.seconds < 0.2:  # busy
            pass

        assert watch.seconds >= 0.2


def test_time_in_which_the_process_may_not_run_does_not_count():
    with subprocess.Popen(
        [sys.executable, "-c", STANDS_STILL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "begun\n"
        began = time.monotonic()
        os.kill(child.pid, signal.SIGSTOP)
        eventually_sync(lambda: time.monotonic() - began > 1.5)
        os.kill(child.pid, signal.SIGCONT)
        counted, passed = map(float, child.communicate("go on\n", timeout=120)[0].split())

    assert counted < passed - 1.0


def test_it_leaves_no_thread():
    with Stopwatch():
        assert "stopwatch" in {thread.name for thread in threading.enumerate()}

    assert "stopwatch" not in {thread.name for thread in threading.enumerate()}
