"""What a zygote imports, so that a server need not. Standard library only.

A fixed list, and then what a rehearsal finds: a fork that sets up a server up to the point where it would listen says
which modules it has imported. So the extensions of a site need no list of their own.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import warnings
from typing import Any

from . import fresh, linux

REQUIRED = ("jupyterhub.singleuser",)
WANTED = (
    "jupyter_server.serverapp",
    "jupyterlab.labapp",
    "nbconvert.nbconvertapp",
    "ipykernel.kernelspec",
    "jupyter_client.ioloop",
    "tornado.platform.asyncio",
)
_REHEARSAL_S = 60
_OWN = ("_labspawner_warm", "__main__", "__mp_main__")


class CannotFork(Exception):
    """A fork of this interpreter would not be a clean server; the text says why."""


def preload() -> None:
    """Import all that a server will need. Raises CannotFork: it is missing, fails, or starts threads."""
    before = set(sys.modules)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in REQUIRED:
            try:
                importlib.import_module(name)
            except Exception as exc:
                raise CannotFork(f"cannot import {name}: {type(exc).__name__}: {exc}") from exc
        for name in WANTED:
            _try_to_import(name)
        _must_be_alone()
        for name in _rehearse():
            _try_to_import(name)
    if _must_be_alone() and "numpy.random" in set(sys.modules) - before:
        fresh.reseed()
    fresh.remember_homes()
    gc.collect()
    gc.freeze()


def watched() -> dict[str, Any]:
    """What the environment is made of, each path with what changes when it does; None for a path that is not there."""
    prefixes = {sys.prefix, "/usr", "/usr/local"}
    paths = {os.path.join(sys.prefix, "pyvenv.cfg"), "/etc/jupyter"}
    paths.update(path for path in sys.path if os.path.isdir(path))
    for prefix in prefixes:
        for part in (
            "etc/jupyter",
            "share/jupyter/labextensions",
            "share/jupyter/kernels",
            "share/jupyter/lab/settings",
        ):
            paths.add(os.path.join(prefix, part))
    for path in list(paths):
        if "jupyter" in path and os.path.isdir(path):
            paths.update(entry.path for entry in os.scandir(path) if entry.is_dir())
    return {path: state_of(path) for path in sorted(paths)}


def state_of(path: str) -> list[int] | None:
    """What changes when a folder or file does; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_dev, status.st_ino, status.st_mtime_ns]


def _must_be_alone() -> bool:
    if linux.threads() != 1:
        raise CannotFork(f"{linux.threads() - 1} thread(s) run after the imports")
    return True


def _try_to_import(name: str) -> None:
    try:
        importlib.import_module(name)
    except Exception:  # an optional module; the server will say so itself where it needs it
        sys.modules.pop(name, None)
    except SystemExit:
        sys.modules.pop(name, None)


def _rehearse() -> list[str]:
    """The names of the modules that a server imports while it is set up; none where the rehearsal fails."""
    reading, writing = os.pipe()
    known = set(sys.modules)
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        home = tempfile.mkdtemp(prefix="labspawner-rehearsal-")  # the fork's own: the zygote may be killed meanwhile
        try:
            signal.signal(signal.SIGALRM, _end)
            signal.alarm(_REHEARSAL_S)
            _play(home)
        except BaseException:  # noqa: S110 - whatever was imported until then is what we came for
            pass
        finally:
            signal.alarm(0)
            os.chdir("/")
            shutil.rmtree(home, ignore_errors=True)
            names = [name for name in list(sys.modules) if name not in known and not name.startswith(_OWN)]
            with os.fdopen(writing, "w") as file:
                json.dump(names, file)
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        said = file.read()
    os.waitpid(pid, 0)
    return json.loads(said) if said else []


def _end(*_: Any, **__: Any) -> None:
    raise CannotFork("the rehearsal ends here")


def _play(home: str) -> None:
    """Set up a server for nobody, which listens nowhere and asks no hub."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    nowhere = "http://127.0.0.1:1/hub/api"
    environment = {
        "PATH": home,  # empty: an extension that looks for programs finds none, and leaves none running
        "HOME": home,
        "JUPYTERHUB_API_TOKEN": format(random.getrandbits(128), "032x"),
        "JUPYTERHUB_CLIENT_ID": "jupyterhub-user-nobody",
        "JUPYTERHUB_USER": "nobody",
        "JUPYTERHUB_API_URL": nowhere,
        "JUPYTERHUB_ACTIVITY_URL": "",
        "JUPYTERHUB_BASE_URL": "/",
        "JUPYTERHUB_OAUTH_CALLBACK_URL": "/user/nobody/oauth_callback",
        "JUPYTERHUB_OAUTH_SCOPES": "[]",
        "JUPYTERHUB_OAUTH_ACCESS_SCOPES": "[]",
        "JUPYTERHUB_SERVICE_PREFIX": "/user/nobody/",
        "JUPYTERHUB_SERVICE_URL": "http://127.0.0.1:9/user/nobody/",
    }
    fresh.renew({**os.environ, **environment}, ["jupyterhub-singleuser", "--allow-root"], list(sys.path))
    os.chdir(home)
    from jupyter_server.serverapp import ServerApp
    from jupyterhub import singleuser

    async def agree(_self: Any) -> None:
        return None

    ServerApp.init_httpserver = lambda self: None  # type: ignore[method-assign]
    ServerApp.start = _end  # type: ignore[method-assign]
    with contextlib.suppress(ImportError):
        from jupyterhub.singleuser.extension import JupyterHubSingleUser

        JupyterHubSingleUser.check_hub_version = agree
    singleuser.main()
