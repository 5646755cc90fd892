"""axe-core in front of a page: what it finds that would shut somebody out."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

_USUAL = (Path("/usr/lib/node_modules"), Path("/usr/local/lib/node_modules"))
_RUN = """
async () => {
  const found = await axe.run(document, { resultTypes: ["violations"] });
  const where = (node) => `    ${node.html.slice(0, 160)}\\n      ${node.failureSummary.slice(0, 300)}`;
  return found.violations
    .filter((one) => ["serious", "critical"].includes(one.impact))
    .map((one) => [`${one.id}: ${one.help}`, ...one.nodes.slice(0, 4).map(where)].join("\\n"));
}
"""


@functools.cache
def script() -> Path | None:
    """Where npm put axe-core on this machine; None where it did not."""
    npm = shutil.which("npm")
    folders = list(_USUAL)
    if npm is not None:
        asked = subprocess.run([npm, "root", "--global"], capture_output=True, text=True, timeout=120, check=False)
        folders.insert(0, Path(asked.stdout.strip() or "/nowhere"))
    found = (folder / "axe-core" / "axe.min.js" for folder in folders)
    return next((path for path in found if path.is_file()), None)


def faults(page: Any) -> list[str]:
    """The serious and critical violations of the page as it is now. Skips where axe-core is not installed.

    The page's window has to be made with `bypass_csp`, since our own policy would not let the script in.
    """
    path = script()
    if path is None:
        pytest.skip("axe-core is not installed (npm install --global axe-core)")
    page.add_script_tag(path=str(path))
    found: list[str] = page.evaluate(_RUN)
    return found
