"""Make a forked interpreter as one that was just started with the environment of its student. Standard library only."""

from __future__ import annotations

import gc
import importlib
import locale
import os
import random
import site
import sys
import tempfile
import time
import types
from collections.abc import Iterator, Mapping
from typing import Any

_NO = frozenset({"", None})
_homes: list[tuple[dict[str, Any], str, str]] = []


def renew(environment: Mapping[str, str], argv: list[str], base_path: list[str]) -> None:
    """Replace the environment wholly, and everything in the interpreter that was derived from the old one.

    base_path: `sys.path` without PYTHONPATH and the user's own packages.
    """
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    try:
        locale.setlocale(locale.LC_CTYPE, "")
    except locale.Error:
        locale.setlocale(locale.LC_CTYPE, "C")
    sys.argv[:] = argv
    if hasattr(sys, "orig_argv"):
        sys.orig_argv[:] = [sys.executable, *argv]
    _renew_path(base_path)
    _forget()
    _renew_homes()
    reseed()
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = main
    if environment.get("PYTHONUNBUFFERED") not in _NO:
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(line_buffering=True, write_through=True)  # type: ignore[union-attr]
    gc.enable()


def remember_homes() -> None:
    """Find what the modules that are imported by now made of this process's HOME, for `renew` to make it of another one.

    JupyterLab's folder of settings is the default of a trait, send2trash's is a global. It is looked for here and once:
    a look at every object in each fork would copy the memory that they share.
    """
    home = os.environ["HOME"]
    _homes[:] = [
        (holder, key, home)
        for holder in _holders()
        for key, value in list(holder.items())
        if isinstance(value, (str, bytes)) and _in_home(value, home) is not None
    ]


def _holders() -> Iterator[dict[str, Any]]:
    """Globals of modules, dictionaries among them, and defaults of traits."""
    for name, module in list(sys.modules.items()):
        names = getattr(module, "__dict__", None)  # what stands in for a module may have none
        if type(names) is dict and name not in {"os", "posix", "__main__"}:
            yield names
            yield from [value for value in list(names.values()) if type(value) is dict and value is not names]
    traitlets: Any = sys.modules.get("traitlets")
    if traitlets is None:
        return
    found = [traitlets.HasTraits]
    for owner in found:
        found.extend(each for each in type.__subclasses__(owner) if each not in found)
        yield owner._static_immutable_initial_values
        yield from [vars(trait) for trait in vars(owner).values() if isinstance(trait, traitlets.TraitType)]


def _in_home(value: str | bytes, home: str) -> str | None:
    """What follows the home in a path; None where it is no path in there."""
    text = os.fsdecode(value)
    return text[len(home) :] if text == home or text.startswith(home + "/") else None


def _renew_homes() -> None:
    for holder, key, home in _homes:
        value = holder.get(key)
        if isinstance(value, (str, bytes)) and (rest := _in_home(value, home)) is not None:
            path = os.path.expanduser("~") + rest
            holder[key] = os.fsencode(path) if isinstance(value, bytes) else path


def reseed() -> None:
    """No two forks draw the same random numbers."""
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def _renew_path(base_path: list[str]) -> None:
    first = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [*first, *(path for path in base_path if path not in first)]
    site.USER_BASE = site.USER_SITE = None
    site.ENABLE_USER_SITE = _user_packages_allowed()
    own = site.getusersitepackages()
    if site.ENABLE_USER_SITE and os.path.isdir(own):
        site.addsitedir(own)
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()


def _user_packages_allowed() -> bool:
    """As `site` decides for an interpreter that is started without options."""
    if os.environ.get("PYTHONNOUSERSITE") not in _NO or os.geteuid() != os.getuid() or os.getegid() != os.getgid():
        return False
    if sys.prefix == sys.base_prefix:
        return True
    try:
        with open(os.path.join(sys.prefix, "pyvenv.cfg"), encoding="utf-8") as file:
            pairs = [line.partition("=")[::2] for line in file]
    except OSError:
        return True
    return any(key.strip() == "include-system-site-packages" and value.strip() == "true" for key, value in pairs)


def _forget() -> None:
    """What modules have kept of the host, the zygote's home, or its temporary folder."""
    tempfile.tempdir = None
    tempfile._name_sequence = None  # type: ignore[attr-defined]
    platform = sys.modules.get("platform")
    if platform is not None:
        platform._uname_cache = None  # type: ignore[attr-defined]
    paths = sys.modules.get("jupyter_core.paths")
    for value in vars(paths).values() if paths is not None else ():
        clear = getattr(value, "cache_clear", None)
        if callable(clear):
            clear()
