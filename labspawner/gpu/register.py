"""The slices of this user that no hub knows of: one folder each, in the machine's memory, and a lock that says who lives.

A slice is over when its runner is gone (the kernel drops its lock, however it ended) and none of its processes is left in
its region; whoever looks next then removes it. Making and removing happen under one lock of the whole register.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from labspawner.errors import SetupError
from labspawner.gpu import region
from labspawner.gpu.folder import REGION_INSIDE, SliceFolder
from labspawner.gpu.limits import BadLimits, SliceLimits
from labspawner.gpu.region import BadRegion
from labspawner.sentences import Sentence

MARK = "LABSPAWNER_SLICE"
"""In the environment of each process of a registered slice: its name."""

REGISTER_ENV = "LABSPAWNER_SLICES"
"""Another folder for the register, for tests and for machines without memory file systems."""

_FOLDER = "labspawner-slices"
_LOCK, _ABOUT = "lock", "about.json"
_HUB_STATE = "pretended"  # beside the run folders of a hub whose cards do not exist
_NODE = "labspawner-gpu-node"
_SHM = Path("/dev/shm")  # noqa: S108 - what is made there is made exclusively, or checked
_USERS = Path("/run/user")


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What people want to know of a slice. pretended: the state file of the cards that do not exist."""

    command: tuple[str, ...]
    pid: int
    uid: int
    started: datetime
    sandboxed: bool
    pretended: str | None = None


@dataclass(frozen=True, slots=True)
class Registered:
    """A slice of the register that is not over."""

    folder: SliceFolder
    limits: SliceLimits
    about: About


class Register:
    """The slices in one folder of one user. foreign: of another user, whose register is looked at and left as it is."""

    def __init__(self, root: Path, *, foreign: bool = False) -> None:
        self.root = root
        self.foreign = foreign

    @classmethod
    def mine(cls, environment: Mapping[str, str] = os.environ) -> Register:
        """The register of this user, made where it is missing. Raises SetupError where somebody else owns its place."""
        named = environment.get(REGISTER_ENV)
        root = Path(named).absolute() if named else _place(environment, os.getuid())
        try:
            root.mkdir(mode=0o700, parents=named is not None, exist_ok=True)
            found = root.lstat()
        except OSError as exc:
            raise _no_place(root, str(exc)) from exc
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
            raise _no_place(root, "it belongs to somebody else, or others may write to it")
        return cls(root)

    @classmethod
    def all_there_are(cls, environment: Mapping[str, str] = os.environ) -> tuple[Register, ...]:
        """This user's register, and, for root, those of all other users."""
        mine = cls.mine(environment)
        if os.getuid() != 0 or environment.get(REGISTER_ENV):
            return (mine,)
        found = [*_USERS.glob(f"*/{_FOLDER}"), *_SHM.glob(f"{_FOLDER}-*")]
        others = [path for path in sorted(found) if path != mine.root and path.is_dir() and not path.is_symlink()]
        return (mine, *(cls(path, foreign=True) for path in others))

    def slices(self) -> list[Registered]:
        """Those that are not over; what is over is removed on the way."""
        if self.foreign:
            return self._found(lambda _: None)
        with self._locked():
            return self._swept()

    @contextlib.contextmanager
    def slice(
        self, choose: Callable[[list[Registered], Path, str], SliceLimits], *, about: About, preload: str
    ) -> Iterator[Registered]:
        """Make a slice, and remove it on the way out, unless processes of it are left.

        choose: from the slices on the same cards, hubs' too, the folder and the name of the new one to its limits, while
        no other command can make one; it may raise. Raises OSError.
        """
        name = f"run-{about.pid}-{secrets.token_hex(3)}"
        folder = SliceFolder(self.root / name)
        with contextlib.ExitStack() as stack:
            with self._locked():
                limits = choose(on_cards([*self._swept(), *hub_slices()], about.pretended), folder.root, name)
                stack.callback(self._remove_if_over, folder)
                folder.root.mkdir(mode=0o700)
                stack.enter_context(_held(folder.root / _LOCK))
                (folder.root / _ABOUT).write_text(json.dumps(_to_json(about)), encoding="utf-8")
                folder.make(limits, preload=preload)
            yield Registered(folder, limits, about)

    def _remove_if_over(self, folder: SliceFolder) -> None:
        with self._locked():
            if _over(folder):
                folder.remove()

    def _swept(self) -> list[Registered]:
        return self._found(SliceFolder.remove)

    def _found(self, when_over: Callable[[SliceFolder], None]) -> list[Registered]:
        found = []
        for path in sorted(self.root.iterdir()):
            if not path.is_dir() or path.is_symlink():
                continue
            folder = SliceFolder(path)
            if _over(folder):
                when_over(folder)
                continue
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, BadLimits):
                about = _from_json(json.loads((path / _ABOUT).read_text(encoding="utf-8")))
                found.append(Registered(folder, folder.read(), about))
        return found

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self.root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def hub_slices(environment: Mapping[str, str] = os.environ) -> list[Registered]:
    """The slices of servers of hubs on this machine, as far as this user may look at their run folders."""
    bases = [Path("/run/labspawner"), Path(f"/tmp/labspawner-{os.getuid()}")]  # noqa: S108 - looked at only
    if environment.get("XDG_RUNTIME_DIR", "").startswith("/"):
        bases.append(Path(environment["XDG_RUNTIME_DIR"]) / "labspawner")
    found = []
    for root in sorted(path for base in bases for path in base.glob("*/*/slice")):
        folder = SliceFolder(root)
        with contextlib.suppress(OSError, BadLimits):
            limits, made, state = folder.read(), root.stat(), root.parent.parent / _HUB_STATE
            about = About(
                command=("hub", root.parent.parent.name),
                pid=0,
                uid=made.st_uid,
                started=datetime.fromtimestamp(made.st_mtime, timezone.utc),
                sandboxed=limits.region == REGION_INSIDE,
                pretended=str(state) if state.exists() else None,
            )
            found.append(Registered(folder, limits, about))
    return found


def on_cards(slices: Iterable[Registered], pretended: str | None) -> list[Registered]:
    """Those of `slices` that are on the machine's own cards, or on the ones that the state file `pretended` plays: all
    pretended cards are called the same."""
    return [one for one in slices if one.about.pretended == pretended]


def node_file(register: Register, folder: Path = _SHM, *, environment: Mapping[str, str] = os.environ) -> Path:
    """The file in `folder` through which all slices of this machine share compute time; all users may write to it, and
    it stays.

    It is never trusted for more than lending. Where the common one cannot be, or the register was put elsewhere: the
    register's own.
    """
    path = folder / _NODE
    own = register.root / _NODE
    if environment.get(REGISTER_ENV):
        own.touch(mode=0o600)
        return own
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except FileExistsError:
        if path.is_file() and not path.is_symlink() and os.access(path, os.R_OK | os.W_OK):
            return path
    except OSError:
        pass
    else:
        os.fchmod(descriptor, 0o666)
        os.close(descriptor)
        return path
    own.touch(mode=0o600)
    return own


def _place(environment: Mapping[str, str], uid: int) -> Path:
    """In memory where there is any: a region is written all the time."""
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and Path(runtime).is_dir() and os.access(runtime, os.W_OK):
        return Path(runtime) / _FOLDER
    shared = _SHM if os.access(_SHM, os.W_OK) else Path(tempfile.gettempdir())
    return shared / f"{_FOLDER}-{uid}"


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold the lock of `path` for as long as we live; no child inherits it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _over(folder: SliceFolder) -> bool:
    """Whether nobody runs the slice any more, and nobody is left in it."""
    try:
        with (folder.root / _LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # cut off while it was made
        pass
    try:
        return not region.read(folder.region).processes
    except (OSError, BadRegion):
        return True


def _to_json(about: About) -> dict[str, object]:
    return {
        "command": list(about.command),
        "pid": about.pid,
        "uid": about.uid,
        "started": about.started.isoformat(),
        "sandboxed": about.sandboxed,
        "pretended": about.pretended,
    }


def _from_json(data: dict[str, object]) -> About:
    command = data["command"]
    return About(
        command=tuple(str(word) for word in command) if isinstance(command, list) else (),
        pid=int(str(data["pid"])),
        uid=int(str(data["uid"])),
        started=datetime.fromisoformat(str(data["started"])).astimezone(timezone.utc),
        sandboxed=bool(data["sandboxed"]),
        pretended=None if data.get("pretended") is None else str(data["pretended"]),
    )


def _no_place(root: Path, why: str) -> SetupError:
    return SetupError(
        Sentence("There is no place for GPU slices of yours. Administrator: {why}", why=f"{root}: {why}"),
        detail=f"{root}: {why}",
    )
