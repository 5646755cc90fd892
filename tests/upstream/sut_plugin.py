"""A pytest plugin for JupyterHub's own suite: SPAWNER_UNDER_TEST (`module:Class`) replaces SimpleLocalProcessSpawner.

It must run before `jupyterhub.tests.mocking` is imported, since the suite's spawners are subclasses made at import.
"""

from __future__ import annotations

import importlib
import os

import jupyterhub.spawner

module_name, _, class_name = os.environ["SPAWNER_UNDER_TEST"].partition(":")
jupyterhub.spawner.SimpleLocalProcessSpawner = getattr(importlib.import_module(module_name), class_name)
