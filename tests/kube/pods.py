"""Requests for servers in pods, that run on the double and on a real cluster alike: python3 and its standard library do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from labspawner.model import LaunchRequest
from labspawner.testing import tinyserver
from labspawner.testing.requests import launch_request

_SOURCE = Path(tinyserver.__file__).read_text()


def in_an_image(command: tuple[str, ...]) -> tuple[str, ...]:
    """A command line of the tiny server, as an image can run it that has never heard of it."""
    at = command.index(tinyserver.__file__)
    return ("python3", "-I", "-c", _SOURCE, *command[at + 1 :])


def pod_request(image: str, **changes: Any) -> LaunchRequest:
    """A request for a tiny server in a pod of `image`; settings: the variant's others. command: of this machine."""
    settings = {"image": image, **changes.pop("settings", {})}
    command = in_an_image(changes.pop("command", tinyserver.command()))
    return launch_request(**{"settings": settings, "command": command, **changes})
