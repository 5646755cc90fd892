"""Single keys from a terminal, while a table is drawn."""

from __future__ import annotations

import asyncio
import os
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress


async def next_key(pressed: asyncio.Queue[str], timeout_s: float) -> str:
    """The next key, or nothing after `timeout_s`."""
    try:
        return await asyncio.wait_for(pressed.get(), timeout_s)
    except asyncio.TimeoutError:
        return ""


@contextmanager
def keys(pressed: asyncio.Queue[str], keyboard: int | None) -> Iterator[bool]:
    """Put each key into `pressed` as it is pressed; the terminal is as before afterwards. False where there is none."""
    descriptor = sys.stdin.fileno() if keyboard is None and sys.stdin.isatty() else keyboard
    if descriptor is None:
        yield False
        return
    before = termios.tcgetattr(descriptor)
    loop = asyncio.get_running_loop()

    def read() -> None:
        try:
            letters = os.read(descriptor, 64).decode(errors="replace")
        except OSError:
            letters = ""
        for letter in letters or "q":  # nothing: the terminal was closed
            pressed.put_nowait(letter)

    tty.setcbreak(descriptor, termios.TCSANOW)  # what was typed early counts too
    loop.add_reader(descriptor, read)
    try:
        yield True
    finally:
        loop.remove_reader(descriptor)
        with suppress(termios.error):  # it was closed
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
