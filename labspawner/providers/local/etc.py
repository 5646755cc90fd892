"""The few files of /etc that are made for one account. They hold nothing of the host's users. Blocking."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from labspawner.providers.local.confinement import Account
from labspawner.providers.local.layout import PRELOAD

_NOBODY = 65534
_NSSWITCH = """\
passwd: files
group: files
shadow: files
hosts: files dns
networks: files
protocols: files
services: files
"""


def files_for(account: Account, *, home: str, hostname: str, resolv_conf: str = "") -> dict[str, str]:
    """What stands in each file, by its name. Pure. home: as it is inside."""
    users = {0: "root:x:0:0:root:/root:/usr/sbin/nologin", _NOBODY: "nobody:x:65534:65534:nobody:/:/usr/sbin/nologin"}
    groups = {0: "root:x:0:", 5: "tty:x:5:", _NOBODY: "nogroup:x:65534:"}
    users[account.uid] = f"{account.name}:x:{account.uid}:{account.gid}:{account.name}:{home}:/bin/bash"
    groups[account.gid] = f"{account.name}:x:{account.gid}:"
    return {
        "passwd": "".join(f"{line}\n" for line in users.values()),
        "group": "".join(f"{line}\n" for line in groups.values()),
        "hosts": f"127.0.0.1 localhost\n127.0.1.1 {hostname}\n::1 localhost ip6-localhost ip6-loopback\n",
        "hostname": f"{hostname}\n",
        "nsswitch.conf": _NSSWITCH,
        "resolv.conf": resolv_conf,
        PRELOAD: "",
    }


def write_etc(folder: Path, files: dict[str, str]) -> None:
    """Make `folder` hold `files`, readable by all; what is already so is left alone, so that running servers keep it.

    Two that write at once do no harm: each file is replaced whole. Raises OSError.
    """
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    for name, text in files.items():
        path = folder / name
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if path.read_text() == text:
                continue
        descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=f".{name}.")
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
                os.fchmod(file.fileno(), 0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
