"""A hub without this provider needs nothing of it."""

from __future__ import annotations

import subprocess
import sys

_MODULES = ("client", "tasks", "snapshot", "agent", "answers", "access")


def test_neither_proxmoxer_nor_requests_is_imported_before_the_first_call():
    code = "\n".join(
        [
            "import importlib, sys",
            f"for name in {_MODULES!r}: importlib.import_module(f'labspawner.providers.proxmox.{{name}}')",
            "print([name for name in ('proxmoxer', 'requests', 'urllib3') if name in sys.modules])",
        ]
    )

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert said.stdout.strip() == "[]"


def test_without_proxmoxer_the_first_call_says_what_to_install(nobody):
    code = "\n".join(
        [
            "import asyncio, sys",
            "sys.modules['proxmoxer'] = None",
            "from labspawner.errors import BadConfig",
            "from labspawner.providers.proxmox.client import Access, Client",
            "async def main():",
            f"    client = Client(Access(endpoints=({nobody!r},), token='a@pve!b=c'))",
            "    try:",
            "        await client.get('/version')",
            "    except BadConfig as exc:",
            "        print(exc.message)",
            "    await client.close()",
            "asyncio.run(main())",
        ]
    )

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "labspawner[proxmox]" in said.stdout
