"""A command imports what it needs, and not what the others need."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from labspawner.cli import main


def test_each_name_is_a_command_of_that_name():
    ctx = click.Context(main)
    names = main.list_commands(ctx)

    assert {"up", "run", "gpu", "doctor"} <= set(names)
    assert [command.name for name in names if (command := main.get_command(ctx, name))] == names
    assert main.get_command(ctx, "no-such") is None


@pytest.mark.parametrize("words", ["run --help", "gpu ls --help", "hold --help", "--version"])
def test_a_command_that_needs_no_hub_imports_none(words: str):
    code = (
        "import sys\nfrom labspawner.cli import main\n"
        f"main({words.split()!r}, standalone_mode=False)\n"
        "print(*sorted({'jupyterhub', 'sqlalchemy', 'aiohttp', 'playwright', 'psutil'} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)

    assert done.stdout.splitlines()[-1] == ""
