"""The part in the browser is complete as it stands: there is no build that would notice."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import labspawner
from labspawner.extension import enabling

LAB = Path(enabling.DATA_PATH) / "labextensions" / "@labspawner" / "lab"
PACKAGE = json.loads((LAB / "package.json").read_text())


def test_an_upgrade_is_seen_by_browsers_because_the_entry_names_a_digest_of_all_files():
    digest = hashlib.sha256()
    for path in sorted((LAB / "static").iterdir()):
        digest.update(path.read_bytes())

    assert PACKAGE["jupyterlab"]["_build"]["load"] == f"static/remoteEntry.js?v={digest.hexdigest()[:12]}"


def test_it_has_the_version_of_the_package():
    assert PACKAGE["version"] == labspawner.__version__


def test_every_sentence_is_there_in_both_languages():
    words = (LAB / "static" / "words.js").read_text()
    english, chinese = words.split("'zh-CN': {")

    def keys(text):
        return re.findall(r"^    (\w+): ", text.split("\n  }")[0], re.MULTILINE)

    assert keys(english) == keys(chinese)
    assert len(keys(english)) > 15


@pytest.mark.parametrize("name", ["remoteEntry.js", "plugins.js", "watch.js", "words.js"])
def test_node_can_read_it(name, tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    module = tmp_path / f"{name}.mjs"
    module.write_bytes((LAB / "static" / name).read_bytes())

    ran = subprocess.run([node, "--check", str(module)], capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("language", ["en", "zh-CN"])
def test_the_first_hour_of_a_day_is_00_and_not_24(language, tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    shutil.copy(LAB / "static" / "words.js", tmp_path / "words.mjs")
    script = tmp_path / "say.mjs"
    script.write_text(
        "import { Words } from './words.mjs';\n"
        f"console.log(new Words({language!r}).clock(Date.UTC(2026, 10, 2, 0, 5)));\n"
    )

    ran = subprocess.run([node, str(script)], env={"TZ": "UTC"}, capture_output=True, text=True, check=False)

    assert (ran.returncode, ran.stdout) == (0, "00:05\n"), ran.stderr
