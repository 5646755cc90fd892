"""Where the library is that holds the limits, and whether it is one for this machine."""

from __future__ import annotations

import os
import platform
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from labspawner.errors import SetupError
from labspawner.sentences import Sentence

LIBRARY_ENV = "LABSPAWNER_LIBVGPU"
"""For developers: a library that was built by hand."""

NAME = "libvgpu.so"
IN_PACKAGE = "lib"
_MACHINES = {"x86_64": 62, "aarch64": 183}  # e_machine in elf.h
_ELF_HEAD = struct.Struct("<4sBBB9xHH")
_VERSION = re.compile(rb"labspawner-libvgpu ([0-9A-Za-z.+-]{1,64})\0")


@dataclass(frozen=True, slots=True)
class Library:
    """A libvgpu.so that this machine can load. version: of the labspawner that it was built from; "" if it does not say."""

    path: Path
    version: str = ""


def find_library(environment: Mapping[str, str] = os.environ) -> Library:
    """The library of this installation. Raises SetupError that says where it was looked for, or why it is of no use."""
    named = environment.get(LIBRARY_ENV)
    path = Path(named) if named else installed(NAME)
    if path is None:
        raise SetupError(
            Sentence(
                "This installation of labspawner has no GPU library: it was built without a C compiler. Install one "
                "(Debian: apt install gcc libc6-dev), and then labspawner again."
            ),
            detail=f"no {IN_PACKAGE}/{NAME} in the package; {LIBRARY_ENV} is not set",
        )
    return Library(path=path.absolute(), version=_checked(path.absolute()))


def installed(name: str) -> Path | None:
    """A file of `labspawner/lib` of this installation: beside our modules, or, for an editable one, where its built
    files are. None: it was not built."""
    beside = Path(__file__).parent.parent / IN_PACKAGE / name
    if beside.exists():
        return beside
    try:
        located = Path(str(metadata.distribution("labspawner").locate_file(f"labspawner/{IN_PACKAGE}/{name}")))
    except metadata.PackageNotFoundError:
        return None
    return located if located.exists() else None


def _checked(path: Path) -> str:
    """The version that `path` says it has. Raises SetupError where this machine cannot load it."""
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise _useless(path, str(exc)) from exc
    if len(content) < _ELF_HEAD.size:
        raise _useless(path, "it is no shared library")
    magic, bits, order, _, kind, machine = _ELF_HEAD.unpack_from(content)
    if magic != b"\x7fELF" or (bits, order, kind) != (2, 1, 3):  # 64 bit, little endian, ET_DYN
        raise _useless(path, "it is no shared library")
    if machine != _MACHINES.get(platform.machine(), machine):
        raise _useless(path, f"it was built for another processor than {platform.machine()}")
    found = _VERSION.search(content)
    return found[1].decode("ascii") if found else ""


def _useless(path: Path, why: str) -> SetupError:
    return SetupError(
        Sentence("The GPU library of this installation cannot be used. Administrator: {why}", why=f"{path}: {why}"),
        detail=f"{path}: {why}",
    )
