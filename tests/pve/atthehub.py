"""A hub's configuration for a double, for commands that are run beside the hub."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from pve.providers import settings_of

from labspawner.cli import main
from labspawner.cli.servers import settings_from
from labspawner.config import open_providers
from labspawner.providers.proxmox.provider import ProxmoxProvider
from labspawner.testing.pve import PveDouble

HUB_ID = "commands"
_COURSE = """
course: dl101
title: Deep Learning
profiles:
  - slug: vm
    title: A machine of your own
    variants: [{{provider: proxmox, template: "{template}", cpu: 1, memory: 1GiB, settings: {settings}}}]
    idle: {{after: 30m, action: {action}}}
"""


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit status."""

    status: int
    text: str
    errors: str

    @property
    def flat(self) -> str:
        """The text with single blanks, as if it had one line."""
        return " ".join(self.text.split())

    def line(self, words: str) -> str:
        """The line with these words, with single blanks."""
        found = next((line for line in self.text.splitlines() if words in line), None)
        assert found is not None, f"{words!r} is not in:\n{self.text}{self.errors}"
        return " ".join(found.split())


class Hub:
    """The folder of a hub on this double. template: as the course file names it; settings, action: of its variant."""

    def __init__(
        self,
        pve: PveDouble,
        folder: Path,
        *,
        template: str = "",
        settings: str = "{}",
        action: str = "hibernate",
        provider: Mapping[str, Any] | None = None,
    ) -> None:
        self.pve, self.folder = pve, folder
        self.config = folder / "jupyterhub_config.py"
        (folder / "courses").mkdir(parents=True)
        course = _COURSE.format(
            template=template or pve.vm(pve.template).config["name"], settings=settings, action=action
        )
        (folder / "courses" / "dl101.yaml").write_text(course, encoding="utf-8")
        vouching = folder / "ca.pem"  # the double's own goes with it
        shutil.copy(pve.ca_file, vouching)
        self.settings = {**settings_of(pve), "ca_file": str(vouching), **(provider or {})}
        self.config.write_text(
            f"c = get_config()\nc.Labspawner.hub_id = {HUB_ID!r}\nc.Labspawner.data_dir = {str(folder / 'data')!r}\n"
            f"c.Labspawner.courses_dir = {str(folder / 'courses')!r}\n"
            f"c.Labspawner.providers = {{'proxmox': {self.settings!r}}}\n",
            encoding="utf-8",
        )

    def run(self, *words: str) -> Said:
        """Run `labspawner WORDS --config ...`."""
        with contextlib.redirect_stderr(io.StringIO()):
            result = CliRunner().invoke(main, [*words, "--config", str(self.config)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Said(result.exit_code, result.stdout, result.stderr)

    def provider(self) -> ProxmoxProvider:
        """The provider as the hub itself opens it: to be closed by who asked."""
        opened = open_providers(settings_from(self.config, None))["proxmox"]
        assert isinstance(opened, ProxmoxProvider)
        return opened
