"""A pytest plugin for KubeSpawner's own suite: our child class takes the place of KubeSpawner.

It must run before the suite imports the class: `pytest -p ksut_plugin` with this folder on PYTHONPATH.
"""

from __future__ import annotations

import kubespawner
import kubespawner.spawner

from labspawner.providers.kubernetes.child import ChildSpawner

kubespawner.KubeSpawner = kubespawner.spawner.KubeSpawner = ChildSpawner
