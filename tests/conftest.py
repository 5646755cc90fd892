"""What all tests share: how much Hypothesis tries, that the long tests begin first, that Ctrl-C works, and whose coverage
is measured."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

TESTS = Path(__file__).parent

# A laptop's run tries enough to catch a slip, and the same each time: what it finds, it finds for whoever made it.
# HYPOTHESIS_PROFILE=thorough is for an evening, and looks elsewhere each time. A slow machine fails neither.
_SLOW = [HealthCheck.too_slow]
settings.register_profile("quick", max_examples=40, deadline=None, derandomize=True, suppress_health_check=_SLOW)
settings.register_profile("thorough", max_examples=2000, deadline=None, suppress_health_check=_SLOW)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

# A process whose coverage is measured takes 0.15 s of CPU more to begin and to end, and a hub a third more for all it
# does. Programs in tests/native are guests in a slice, which import nothing of ours; the hubs behind tests/web do what
# those of tests/hub do. Their children are not measured, except where a file is named here.
UNMEASURED = ("native", "web")
MEASURED = ("native/test_run_cli.py", "native/test_watchdog.py")
MINUTES = ("test_stories.py", "test_as_ordinary_user.py")
"""Files with tests that take minutes, which they mostly wait."""
_BROWSER = 1
_CHILDREN = pytest.StashKey[str]()
"""The file of settings with which children are measured; empty where nothing is measured."""


def pytest_configure(config: pytest.Config) -> None:
    """Let Ctrl-C be Ctrl-C: whoever starts us in the background has it ignored, and so would all that tests start."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGQUIT: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    for number, handler in usual.items():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: one of them begun last would keep a single core busy while the others wait.

    Each of n workers begins with its own n-th of the list, in order: the second with the browser.
    """
    items.sort(key=_turn)
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    browser = [item for item in items if _turn(item) == _BROWSER]
    rest = [item for item in items if _turn(item) != _BROWSER]
    first = len(items) // workers if workers > 1 else sum(_turn(item) < _BROWSER for item in rest)
    items[:] = [*rest[:first], *browser, *rest[first:]]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Say in the environment whether children of this test are measured, before its first fixture starts one."""
    stash = item.config.stash
    if _CHILDREN not in stash:
        stash[_CHILDREN] = _settings_of_children() if "COVERAGE_PROCESS_CONFIG" in os.environ else ""
    if not stash[_CHILDREN]:
        return
    path = item.path.relative_to(TESTS)
    if path.parts[0] in UNMEASURED and path.as_posix() not in MEASURED:
        os.environ.pop("COVERAGE_PROCESS_START", None)
    else:
        os.environ["COVERAGE_PROCESS_START"] = stash[_CHILDREN]


def _turn(item: pytest.Item) -> int:
    if item.path.name in MINUTES:
        return 0
    return _BROWSER if item.get_closest_marker("web") else 2 if item.get_closest_marker("hub") else 3


def pytest_unconfigure(config: pytest.Config) -> None:
    if file := config.stash.get(_CHILDREN, ""):
        Path(file).unlink(missing_ok=True)


def _settings_of_children() -> str:
    """Instead of ours, which coverage left in the environment: with `source`, each child would look for all files that it
    did not import and write them down, and `omit` would count from its own folder."""
    import coverage

    del os.environ["COVERAGE_PROCESS_CONFIG"]
    ours = coverage.Coverage.current()
    assert ours is not None
    root = TESTS.parent
    omitted = "\n    ".join(str(root / pattern) for pattern in ours.get_option("run:omit") or ())
    lines = [
        "[run]",
        "branch = true",
        "parallel = true",
        "concurrency = thread",
        f"data_file = {Path(str(ours.get_option('run:data_file'))).absolute()}",
        f"include = {root}/labspawner/*",
        f"omit = {omitted}",
    ]
    with tempfile.NamedTemporaryFile("w", prefix="labspawner-coverage-", suffix=".ini", delete=False) as file:
        file.write("\n".join(lines) + "\n")
    return file.name
