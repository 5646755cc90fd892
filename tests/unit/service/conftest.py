from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from unit.service.desktops import Desktop, a_desktop


@pytest.fixture
async def desktop(tmp_path: Path) -> AsyncIterator[Desktop]:
    """The desktop service; alice has a virtual machine that is on."""
    async with a_desktop(tmp_path) as running:
        yield running
