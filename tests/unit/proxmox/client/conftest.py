"""A scripted server and clients of it."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from unit.proxmox.client.scripted import TOKEN, Scripted, scripted

from labspawner.providers.proxmox.client import Access, Client


@pytest.fixture
def pve(tmp_path: Path) -> Iterator[Scripted]:
    with scripted(tmp_path) as lab:
        lab.on("GET", "/version", {"version": "8.4.21"})
        yield lab


@pytest.fixture
async def a_client() -> AsyncIterator[Callable[..., Client]]:
    """Makes clients of some servers, all pinned; they are closed at the end."""
    made: list[Client] = []

    def build(*labs: Scripted, client: dict[str, Any] | None = None, **access: Any) -> Client:
        values: dict[str, Any] = {
            "endpoints": tuple(lab.url for lab in labs),
            "token": TOKEN,
            "fingerprint": {lab.url: lab.fingerprint for lab in labs},
        }
        made.append(Client(Access(**{**values, **access}), **(client or {})))
        return made[-1]

    yield build
    for each in made:
        await each.close()


@pytest.fixture
def nobody() -> Iterator[str]:
    """The URL of a port that refuses connections, and that nobody else can take."""
    with socket.socket() as kept:
        kept.bind(("127.0.0.1", 0))
        yield f"https://127.0.0.1:{kept.getsockname()[1]}"


@pytest.fixture
def mute() -> Iterator[str]:
    """The URL of a port that takes connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield f"https://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def held() -> Iterator[threading.Event]:
    """What a reply waits for; set at the end, whatever comes."""
    event = threading.Event()
    yield event
    event.set()
