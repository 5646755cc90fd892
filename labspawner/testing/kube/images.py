"""Images: names that mean a Python environment on this machine, and what a pull says of a name that means nothing."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_IMAGE = "lab/singleuser:1"


@dataclass(frozen=True, slots=True)
class Image:
    """What a container of this image runs.

    environment: the Python environment whose `bin` is first in PATH. command: what runs when the pod names none.
    home: the image's home, for which a folder of the pod stands. present: on the node already; else it is pulled first.
    pull_error: the registry's words, when pulling fails.
    """

    environment: Path = Path(sys.prefix)
    command: tuple[str, ...] = ("jupyterhub-singleuser",)
    home: str = "/home/jovyan"
    variables: Mapping[str, str] = field(default_factory=dict)
    present: bool = True
    pull_error: str = ""


def plain(name: str) -> str:
    """An image's name without what Docker adds to it."""
    return name.removeprefix("docker.io/").removeprefix("library/")


def invalid_name(name: str) -> str:
    """Why `name` is no image reference, in containerd's words; "" when it is one."""
    if re.fullmatch(r"[a-z0-9][a-z0-9._/:-]*(:[\w.-]+)?(@sha256:[0-9a-f]{64})?", name, re.ASCII) or not name:
        return ""
    if re.fullmatch(r"[a-z0-9][a-z0-9._/-]*(:[0-9]+)?(/[a-z0-9._/-]+)?(:\w[\w.-]{0,127})?", name, re.ASCII):
        return ""
    whole = name if "/" in name else f"library/{name}"
    why = "repository name must be lowercase"
    if name != name.lower():
        why = f"repository name ({whole}) must be lowercase"
    parse = f'couldn\'t parse image name "{name}": invalid reference format'
    return f'Failed to apply default image tag "{name}": {parse}: {why}' if name != name.lower() else f"{parse}: {why}"


def unknown(name: str) -> str:
    """What pulling an image says whose registry, or which itself, does not exist."""
    whole = name if "." in name.partition("/")[0] or ":" in name.partition("/")[0] else f"docker.io/{plain(name)}"
    head = f'failed to pull and unpack image "{whole}": failed to resolve reference "{whole}"'
    host, _, rest = whole.partition("/")
    repository, _, tag = rest.rpartition(":") if ":" in rest else (rest, "", "latest")
    if host.endswith(".invalid"):
        url = f"https://{host}/v2/{repository}/manifests/{tag}"
        return f'{head}: failed to do request: Head "{url}": dial tcp: lookup {host} on DNS: no such host'
    return f"{head}: {whole}: not found"
