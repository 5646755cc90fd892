"""What all tests share: how much Hypothesis tries, that the long tests begin first, and that Ctrl-C works."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import settings

# A laptop's run tries enough to catch a slip; HYPOTHESIS_PROFILE=thorough is for an evening.
settings.register_profile("quick", max_examples=40, deadline=None)
settings.register_profile("thorough", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_configure(config: pytest.Config) -> None:
    """Let Ctrl-C be Ctrl-C: whoever starts us in the background has it ignored, and so would all that tests start."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGQUIT: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    for number, handler in usual.items():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Browser and hub tests first: one of them begun last would keep a single core busy while the others wait."""
    items.sort(key=lambda item: 0 if item.get_closest_marker("web") else 1 if item.get_closest_marker("hub") else 2)
