"""What a sandboxed server sees, as bubblewrap's command line. Pure, but for `look_at_host`.

An allow-list: what is not named here, or in the `Confinement`, does not exist inside. Three traps shape it. Folders that
bubblewrap makes for a bind are 0700, so each is made first, 0755. What it binds is nosuid and nodev, but the tmpfs it
binds onto belongs, in a user namespace, to the student, so that is read-only in the end. `--die-with-parent` would end the
servers with the hub, so it is not used. And bubblewrap's own init stays for as long as anything inside lives, a daemon that
a student left behind too: so the holder is process 1 itself, and its end is the end of all.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from labspawner.providers.local.confinement import Bind, Confinement

PROGRAM = "bwrap"
RUN_INSIDE = "/run/labspawner"
HOLDER = ("/bin/sh", "-c", "cat >/dev/null; exit 0")
"""What holds the namespaces until its stdin ends. A shell that waits buries the orphans that it inherits; one that reads
would be interrupted by their end."""
PRELOAD = "ld.so.preload"
MADE_FILES = ("passwd", "group", "hosts", "hostname", "nsswitch.conf", "resolv.conf")

_ROOT_NAMES = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_TREES = ("/opt", "/sys/devices/system/cpu", "/sys/devices/system/node", "/var/lib/texmf")
_ETC = (
    # the loader, names of commands, time
    *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime", "timezone", "locale.alias"),
    # certificates (never /etc/ssl/private)
    *("ssl/certs", "ssl/openssl.cnf", "ca-certificates", "ca-certificates.conf", "crypto-policies"),
    *("pki/tls/certs", "pki/tls/cert.pem", "pki/tls/openssl.cnf", "pki/ca-trust/extracted"),
    # the network's dictionaries
    *("services", "protocols", "rpc", "networks", "host.conf", "gai.conf"),
    # shells and terminals
    *("profile", "profile.d", "bash.bashrc", "bashrc", "bash_completion.d", "inputrc", "terminfo", "shells"),
    # what programs are set up with
    *("fonts", "mime.types", "magic", "magic.mime", "mailcap", "os-release", "debian_version", "lsb-release"),
    *(
        "jupyter",
        "ipython",
        "pip.conf",
        "conda",
        "condarc",
        "gitconfig",
        "wgetrc",
        "vim",
        "nanorc",
        "xdg",
        "xml",
        "sgml",
    ),
    *("R", "texmf", "perl", "python3", "matplotlibrc", "openmpi", "OpenCL", "vulkan", "glvnd", "nvidia", "groff"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """How the root of this machine is built. links: name -> target, as for `bin -> usr/bin`; folders: real ones."""

    links: tuple[tuple[str, str], ...] = ()
    folders: tuple[str, ...] = ()


def look_at_host(root: Path = Path("/")) -> HostView:
    """What stands in `root` of the names that programs start from. Blocks, for microseconds."""
    present = [name for name in _ROOT_NAMES if (root / name).is_dir()]
    links = {name: str((root / name).readlink()) for name in present if (root / name).is_symlink()}
    return HostView(links=tuple(links.items()), folders=tuple(name for name in present if name not in links))


def layout(
    confinement: Confinement, *, host: HostView, etc: str, hidden: Collection[str] = (), program: str = PROGRAM
) -> tuple[str, ...]:
    """The command line of bubblewrap up to, and without, the command that holds the namespaces.

    etc: a folder of the host with the files `MADE_FILES` and an empty `ld.so.preload`, made for this account.
    hidden: paths of the host that are never seen, also where they stand below something that is. program: bubblewrap.
    """
    mounts = _Mounts()
    for name, target in host.links:
        mounts.add("--symlink", target, f"/{name}")
    mounts.put("/usr", "--ro-bind", "/usr")
    for name in host.folders:
        mounts.put(f"/{name}", "--ro-bind", f"/{name}")
    mounts.add("--proc", "/proc")
    mounts.add("--dev", "/dev")
    size = str(confinement.tmp_bytes)
    for shared in ("/tmp", "/dev/shm"):  # noqa: S108 - inside, each has its own
        mounts.add("--perms", "1777", "--size", size, "--tmpfs", shared)
        mounts.made.add(shared)
    mounts.folder("/var")
    mounts.add("--symlink", "../tmp", "/var/tmp")  # noqa: S108
    seen = [*_system(confinement, etc), *confinement.binds]
    masks = [path for path in hidden if any(_below(path, bind.target) for bind in seen if bind.source == bind.target)]
    for target, bind in sorted(
        [*((path, None) for path in masks), *((bind.target, bind) for bind in seen)], key=_depth
    ):
        if bind is None:
            mounts.mask(target)
        else:
            mounts.put(target, _verb(bind), bind.source)
    for device in confinement.devices:
        mounts.put(device, "--dev-bind-try", device)
    mounts.put(confinement.home_inside, "--bind", confinement.home)
    mounts.put(RUN_INSIDE, "--ro-bind", confinement.run_dir)
    closed = [word for path in (*mounts.masked, "/dev", "/") for word in ("--remount-ro", path)]
    return (program, *_namespaces(confinement), *mounts.words, *closed)


def _namespaces(confinement: Confinement) -> tuple[str, ...]:
    """All but the mounts. No `--die-with-parent`: servers outlive the hub."""
    words = ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net", "--unshare-cgroup-try"]
    words += ["--as-pid-1"]
    words += ["--hostname", confinement.hostname]
    if confinement.user_namespace:
        account = confinement.account
        words += ["--unshare-user", "--uid", str(account.uid), "--gid", str(account.gid), "--disable-userns"]
        # Of all capabilities the one that gives nothing here: whoever has none may not trace who has one, so the process
        # that holds the sandbox, outside all limits and filters, is not the student's to take over.
        return (*words, "--cap-add", "CAP_WAKE_ALARM")
    return (*words, "--cap-drop", "ALL")


def _system(confinement: Confinement, etc: str) -> Iterator[Bind]:
    """What every server sees of this machine beside /usr."""
    for tree in _TREES:
        yield Bind(source=tree, target=tree, optional=True)
    for name in _ETC:
        yield Bind(source=f"/etc/{name}", target=f"/etc/{name}", optional=True)
    for name in MADE_FILES:
        yield Bind(source=f"{etc}/{name}", target=f"/etc/{name}")
    yield Bind(source=confinement.preload or f"{etc}/{PRELOAD}", target=f"/etc/{PRELOAD}")


def _verb(bind: Bind) -> str:
    return ("--bind" if bind.writable else "--ro-bind") + ("-try" if bind.optional else "")


def _depth(entry: tuple[str, Bind | None]) -> tuple[int, bool]:
    """The outer first; what is shown at the very path that is hidden is shown."""
    return len(PurePosixPath(entry[0]).parts), entry[1] is not None


def _below(path: str, tree: str) -> bool:
    return PurePosixPath(path).is_relative_to(tree)


@dataclass(slots=True)
class _Mounts:
    """The words so far, the folders that exist inside because of them, and the trees that came from the host."""

    words: list[str] = field(default_factory=list)
    made: set[str] = field(default_factory=lambda: {"/", "/proc", "/dev"})
    trees: list[str] = field(default_factory=list)
    masked: list[str] = field(default_factory=list)

    def add(self, *words: str) -> None:
        self.words += words

    def put(self, target: str, verb: str, source: str) -> None:
        """`source` at `target`, whose parents are there, and readable."""
        self.folder(str(PurePosixPath(target).parent))
        self.add(verb, source, target)
        self.trees.append(target)

    def mask(self, path: str) -> None:
        """Nothing at `path`, which is below something seen."""
        self.add("--perms", "0755", "--tmpfs", path)
        self.made.add(path)
        self.masked.insert(0, path)

    def folder(self, path: str) -> None:
        """Make `path` with mode 0755, unless the host's own tree has it."""
        for parent in (*reversed(PurePosixPath(path).parents), PurePosixPath(path)):
            text = str(parent)
            if text not in self.made and not self._from_host(text):
                self.made.add(text)
                self.add("--perms", "0755", "--dir", text)

    def _from_host(self, path: str) -> bool:
        """Whether `path` is in a tree of the host, with no mask of ours in between."""
        nearest = max((tree for tree in self.trees if _below(path, tree)), key=len, default="")
        mask = max((mask for mask in self.masked if _below(path, mask)), key=len, default="")
        return len(nearest) > len(mask)


def visible(path: str, trees: Sequence[str]) -> bool:
    """Whether a path of the host is seen inside at its own place, in the system's trees or in `trees`."""
    full = os.path.normpath(path)
    roots = ("/usr", *(f"/{name}" for name in _ROOT_NAMES), *_TREES, *trees)
    return any(_below(full, root) for root in roots)
