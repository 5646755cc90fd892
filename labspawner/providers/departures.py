"""What the student of a server is told when its host is announced to go away: for its card, and for JupyterLab."""

from __future__ import annotations

import asyncio
from logging import getLogger

from labspawner.deadlines import within
from labspawner.errors import LabError
from labspawner.model import Lease
from labspawner.providers.contract import Departure, Forewarning
from labspawner.sentences import Sentence

log = getLogger(__name__)

_PATIENCE_S = 1.0


async def departure_of(provider: object, lease: Lease) -> Departure | None:
    """The departure that takes the server of `lease` along; None where there is none, or nobody can tell now."""
    if lease.handle is None or not isinstance(provider, Forewarning):
        return None
    try:
        return (await within(_PATIENCE_S, provider.departures([lease.handle]))).get(lease.id)
    except (LabError, asyncio.TimeoutError) as exc:
        log.debug("departures are not known now lease=%s: %s", lease.id, exc)
        return None


def told(at: object) -> Sentence:
    """What the student reads. at: an instant, or what stands for it until it is shown."""
    return Sentence(
        "The machine that this server runs on is taken away at {at}: save your work, and stop it before.", at=at
    )
