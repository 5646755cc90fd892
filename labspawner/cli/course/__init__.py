"""`labspawner course`: what the console's buttons do, from a terminal or a script, over its REST API."""

from __future__ import annotations

from labspawner.cli.course.command import course

__all__ = ["course"]
