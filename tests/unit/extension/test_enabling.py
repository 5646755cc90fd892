"""A server that we start finds the extension without installed data files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from labspawner.extension import enabling


def test_our_folders_come_first_and_what_was_there_stays():
    added = enabling.environment({"JUPYTER_PATH": "/opt/course/share/jupyter", "PATH": "/usr/bin"}, "/srv/link")

    assert added["JUPYTER_PATH"] == os.pathsep.join([enabling.DATA_PATH, "/opt/course/share/jupyter"])
    assert added["JUPYTER_CONFIG_PATH"] == enabling.CONFIG_PATH
    assert added["PYTHONPATH"] == "/srv/link"
    assert "PATH" not in added


def test_applying_it_twice_changes_nothing():
    once = enabling.environment({}, "/srv/link")

    assert enabling.environment(once, "/srv/link") == once


def test_without_a_folder_for_the_package_the_python_path_is_left_alone():
    assert "PYTHONPATH" not in enabling.environment({"PYTHONPATH": "/opt/lib"})


def test_the_linked_folder_holds_the_package_and_nothing_else(tmp_path):
    parent = enabling.link_package(tmp_path / "path")

    assert os.listdir(parent) == ["labspawner"]
    assert (Path(parent) / "labspawner" / "extension" / "enabling.py").is_file()


def test_a_link_that_leads_elsewhere_is_replaced(tmp_path):
    (tmp_path / "labspawner").symlink_to("/nowhere")

    enabling.link_package(tmp_path)
    enabling.link_package(tmp_path)

    assert (tmp_path / "labspawner").resolve() == enabling.PACKAGE


def test_an_interpreter_without_labspawner_finds_the_extension_and_imports_no_part_of_jupyter(tmp_path):
    environment = enabling.environment({}, enabling.link_package(tmp_path))
    program = (
        "import sys, labspawner.extension as e, labspawner.extension.enabling\n"
        "print(e._jupyter_server_extension_points()[0]['module'])\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('jupyter_server', 'jupyterhub', 'tornado')])"
    )

    # -S: without the packages of this interpreter's environment
    ran = subprocess.run(
        [sys.executable, "-S", "-c", program], env=environment, capture_output=True, text=True, check=False
    )

    assert ran.stdout.split("\n")[:2] == ["labspawner.extension", "[]"], ran.stderr


def test_the_configuration_enables_exactly_this_extension():
    [path] = (Path(enabling.CONFIG_PATH) / "jupyter_server_config.d").iterdir()

    assert json.loads(path.read_text()) == {"ServerApp": {"jpserver_extensions": {"labspawner.extension": True}}}
