"""A pytest plugin for JupyterHub's own suite: SPAWNER_UNDER_TEST (`module:Class`) replaces SimpleLocalProcessSpawner.

It must run before `jupyterhub.tests.mocking` is imported, since the suite's spawners are subclasses made at import.
"""

from __future__ import annotations

import importlib
import os

import jupyterhub.spawner
from jupyterhub.handlers.base import BaseHandler

module_name, _, class_name = os.environ["SPAWNER_UNDER_TEST"].partition(":")
jupyterhub.spawner.SimpleLocalProcessSpawner = getattr(importlib.import_module(module_name), class_name)

# A hub waits 10 s for a start before it answers 202 in the place of 201, and many tests want the latter. What they start
# takes longer on a machine that is busy with something else; tests that want a 202 say so by a setting, which is kept.
PATIENCE_S = 110
for waiting in ("slow_spawn_timeout", "slow_stop_timeout"):
    setattr(BaseHandler, waiting, property(lambda self, name=waiting: self.settings.get(name, PATIENCE_S)))
