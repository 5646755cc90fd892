"""One real JupyterHub for all tests of a worker that leave it standing, and `new_hub` for those that do not."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from labspawner.testing.hub import RealHub
from labspawner.testing.tinyserver import command
from labspawner.testing.waiting import eventually_sync

_TINY = "[" + ", ".join(f'"{word}"' for word in command()) + "]"

COURSE = f"""
course: py101
title: {{en: Python Basics, zh-CN: Python 程序设计基础}}
profiles:
  - slug: base
    title: {{en: Python notebook, zh-CN: Python 笔记本}}
    variants: [{{provider: local, settings: {{command: {_TINY}}}}}]
  - slug: choosy
    title: Choosy
    variants: [{{provider: local, settings: {{command: {_TINY}}}}}]
    options:
      interface:
        title: Interface
        choices:
          lab: {{title: Lab, default: true}}
          classic: {{title: Classic, set: {{settings: {{environment: {{FLAVOUR: classic}}}}}}}}
  - slug: mock
    title: JupyterHub's own stand-in
    variants: [{{provider: local}}]
  - slug: sim
    title: Simulated
    variants: [{{provider: sim, settings: {{start_s: 0.05}}}}]
  - slug: slow
    title: Slow
    variants: [{{provider: sim, settings: {{start_s: 3}}}}]
  - slug: stalls-reserve
    title: Stalls
    variants: [{{provider: sim, settings: {{start_s: 0.05, stall_at: reserve}}}}]
  - slug: stalls-create
    title: Stalls
    variants: [{{provider: sim, settings: {{start_s: 0.05, stall_at: create}}}}]
  - slug: stalls-boot
    title: Stalls
    variants: [{{provider: sim, settings: {{start_s: 0.05, stall_at: boot}}}}]
  - slug: adapter
    title: Adapter
    variants: [{{provider: simple}}]
"""
OTHER_COURSE = f"""
course: dl101
title: Deep Learning
profiles:
  - slug: base
    title: Not for everyone
    variants: [{{provider: local, settings: {{command: {_TINY}}}}}]
"""
LONELY_COURSE = f"""
course: lonely
title: One profile only
profiles:
  - slug: only
    title: The only one
    variants: [{{provider: local, settings: {{command: {_TINY}}}}}]
"""
PROVIDERS = {
    "local": {"min_free_disk": "1MiB"},
    "sim": {},
    "simple": {
        "kind": "adapter",
        "spawner_class": "simple",
        "config": {"home_dir_template": "homes/{username}"},
    },
}
NewHub = Callable[..., RealHub]


@pytest.fixture(scope="session")
def _hubs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewHub]:
    made: list[RealHub] = []

    def make(**changes: object) -> RealHub:
        values = {
            "courses": {"py101.yaml": COURSE, "dl101.yaml": OTHER_COURSE, "lonely.yaml": LONELY_COURSE},
            "groups": {"course-py101": ["student1"], "course-dl101": [], "course-lonely": []},
            "providers": PROVIDERS,
        }
        made.append(RealHub(tmp_path_factory.mktemp("hub"), **{**values, **changes}))
        return made[-1]

    yield make
    for hub in made:
        hub.close()


@pytest.fixture(scope="session")
def hub(_hubs: NewHub) -> RealHub:
    """A running hub that many tests share: use users of your own, and leave it as it was."""
    started = _hubs()
    started.start()
    # Its first look at the courses is over then: it may have begun before a test writes one.
    eventually_sync(lambda: "labspawner ready" in started.log(), 60.0, "the hub has read its courses")
    return started


@pytest.fixture
def new_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewHub]:
    """Make a hub of one's own, not started yet; the values of the shared one unless changed."""
    made: list[RealHub] = []

    def make(**changes: object) -> RealHub:
        values = {
            "courses": {"py101.yaml": COURSE, "dl101.yaml": OTHER_COURSE},
            "groups": {"course-py101": ["student1", "student2", "student3"]},
            "providers": PROVIDERS,
        }
        made.append(RealHub(tmp_path_factory.mktemp("hub"), **{**values, **changes}))
        return made[-1]

    yield make
    for hub in made:
        hub.close()


_NUMBERS = itertools.count(1)


@pytest.fixture
def student(hub: RealHub) -> Iterator[str]:
    """A new member of course py101 in the shared hub; whatever they still run in the end is stopped."""
    name = f"member{next(_NUMBERS)}"
    hub.add_user(name, "course-py101")
    yield name
    for server in hub.servers(name):
        hub.stop_server(name, name=server)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/tests/hub/" in str(item.path):
            item.add_marker(pytest.mark.hub)
