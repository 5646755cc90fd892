"""`systemd-run` and `systemctl` that write down what they are told and act on a folder, as systemd does on its own.

The machines that build labspawner have no systemd as PID 1, so what is proven with these is our side of it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from unit.local.limits.control_groups import FolderThatActsLikeV2

RUN = r"""#!/bin/sh
echo "systemd-run $*" >> "$HERE/calls"
[ -e "$HERE/refuse" ] && { cat "$HERE/refuse"; exit 1; }
[ -e "$HERE/hang" ] && exec sleep 60
while [ "$1" != -- ]; do
  case "$1" in --unit=*) unit="${1#--unit=}";; --slice=*) slice="${1#--slice=}";; esac
  shift
done
shift
group="$ROOT/$slice/$unit"
[ -e "$group" ] && { echo "Unit $unit already exists."; exit 1; }
[ -e "$ROOT/$slice" ] || cp -r "$HERE/template" "$ROOT/$slice"
cp -r "$HERE/template" "$group"
echo $$ > "$group/cgroup.procs"
exec "$@"
"""

CTL = r"""#!/bin/sh
echo "systemctl $*" >> "$HERE/calls"
[ "$1" = --user ] && shift
case "$1" in
  is-system-running) cat "$HERE/state";;
  show) [ -e "$HERE/mute" ] || echo "/labspawner.slice/$4";;
  stop)
    for procs in $(find "$ROOT/labspawner.slice/$2" -name cgroup.procs 2>/dev/null); do
      for pid in $(cat "$procs"); do kill -9 "$pid" 2>/dev/null; done
    done
    [ -e "$HERE/keeps" ] || rm -rf "$ROOT/labspawner.slice/$2";;
esac
exit 0
"""


class SystemdDouble:
    """Puts the two commands into `here`, for a PATH that begins there. root: the mount of the control groups."""

    def __init__(self, here: Path, root: Path) -> None:
        self.here, self.root = here, root
        root.mkdir()
        template = here / "template"
        template.mkdir()
        controllers = FolderThatActsLikeV2(template)
        for name in ("memory", "pids", "cpu"):
            controllers.write(template / "cgroup.subtree_control", f"+{name}")
        shutil.copytree(template, root, dirs_exist_ok=True)
        self.fs = FolderThatActsLikeV2(root)
        for name, text in (("systemd-run", RUN), ("systemctl", CTL)):
            script = here / name
            script.write_text(text.replace("$HERE", str(here)).replace("$ROOT", str(root)))
            script.chmod(0o755)
        self.say("state", "running")

    def say(self, name: str, text: str = "") -> None:
        """`state`: what systemd says of itself; `refuse`: its words; `hang`, `mute`, `keeps`: what it then does."""
        (self.here / name).write_text(text + "\n")

    def calls(self) -> list[str]:
        """What was run, word by word."""
        return (self.here / "calls").read_text().splitlines()

    def units(self) -> list[str]:
        """The scopes that are there."""
        return sorted(path.name for path in (self.root / "labspawner.slice").glob("*.scope"))
