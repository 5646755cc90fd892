"""What a handle says of its VM: enough to find it again, and to know it from another that got its id. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from labspawner.model import Handle, Json, LeaseId

_TEXTS = ("node", "name", "address", "source", "upid", "uuid", "mac", "ssh", "nonce")


class Stage(str, Enum):
    """How far a launch was when it wrote the handle. RESERVING: it takes an id and an address. CLONING: it asks for the
    clone. CLONED: PVE took the order. MADE: the VM is there, and has been looked at."""

    RESERVING = "reserving"
    CLONING = "cloning"
    CLONED = "cloned"
    MADE = "made"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a handle says.

    node: where the VM was made; it may have moved since. template, source: of the clone, and the template's node. since:
    when the clone was asked for, in seconds of the epoch. upid: of its task. uuid, mac: of the VM as it was made. ssh: what
    stands after `ssh `, where the profile has that. desktop: it has a screen and no Jupyter. nonce: what the nonce of its
    call home hashes to, where it was given one for this start; the nonce itself is kept nowhere. called: it had its
    environment by that call, so nothing in it answers the hub later.
    """

    stage: Stage = Stage.RESERVING
    vmid: int | None = None
    node: str = ""
    name: str = ""
    address: str = ""
    template: int | None = None
    source: str = ""
    since: int = 0
    upid: str = ""
    uuid: str = ""
    mac: str = ""
    ssh: str = ""
    desktop: bool = False
    nonce: str = ""
    called: bool = False

    def with_(self, **changes: Any) -> Record:
        """The same with `changes`."""
        return replace(self, **changes)

    def handle(self, lease_id: LeaseId, provider: str) -> Handle:
        """The handle that says this; what is not known is left out."""
        said: dict[str, Json] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            if value:
                said[name] = value.value if isinstance(value, Stage) else value
        return Handle(lease_id=lease_id, provider=provider, data=said)


def record_of(handle: Handle) -> Record:
    """What `handle` says; one of another age or hand says nothing."""
    data = handle.data
    stage = data.get("stage")
    return Record(
        stage=Stage(stage) if stage in set(Stage) else Stage.RESERVING,
        vmid=_number(data, "vmid") or None,
        template=_number(data, "template") or None,
        since=_number(data, "since"),
        desktop=data.get("desktop") is True,
        called=data.get("called") is True,
        **{name: _text(data, name) for name in _TEXTS},
    )


def _number(data: Mapping[str, Json], name: str) -> int:
    value = data.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _text(data: Mapping[str, Json], name: str) -> str:
    value = data.get(name)
    return value if isinstance(value, str) else ""
