"""Where the real headers of CUDA and NVML lie: in wheels of PyPI, optional dependencies of the tests."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
from pathlib import Path

CUDA_WHEELS = ("nvidia-cuda-runtime-cu12", "nvidia-cuda-runtime")
NVML_WHEELS = ("nvidia-nvml-dev-cu12", "nvidia-nvml-dev")


def folder_of(wheel: str, header: str) -> Path | None:
    """The folder with `header` in an installed wheel, or None."""
    try:
        files = importlib.metadata.files(wheel) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [Path(str(file.locate())) for file in files if file.name == header and file.parent.name == "include"]
    return found[0].parent if found and found[0].is_file() else None


def declared(folder: Path, header: str, options: tuple[str, ...] = ()) -> str:
    """The header as the compiler reads it, in one piece."""
    done = subprocess.run(
        ["cc", "-E", "-P", *options, f"-I{folder}", str(folder / header)], capture_output=True, text=True, check=True
    )
    return re.sub(r"\s+", " ", done.stdout)
