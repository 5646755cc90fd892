"""A hub double and a real Jupyter server that reports to it, shared by the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hubdouble import HubDouble, a_hub
from jupyterserver import JupyterServer, a_jupyter_server


@pytest.fixture(scope="module")
def hub() -> Iterator[HubDouble]:
    with a_hub() as double:
        yield double


@pytest.fixture(scope="module")
def server(hub: HubDouble, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    pytest.importorskip("jupyter_server", reason="jupyter_server is not installed")
    with a_jupyter_server(tmp_path_factory.mktemp("server"), hub_url=hub.url) as running:
        yield running
