"""One request as the handlers see it, and what they may answer instead of data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from labspawner.testing.pve.world import Vm

if TYPE_CHECKING:
    from labspawner.testing.pve.inside import Inside

Json = dict[str, Any]
Params = dict[str, Any]


class Refused(Exception):
    """An answer that is no data: its status and the text, which is in the body too unless `empty`."""

    def __init__(self, status: int, text: str, *, errors: dict[str, str] | None = None, empty: bool = False) -> None:
        super().__init__(f"{status} {text}")
        self.status, self.text, self.errors, self.empty = status, text, errors, empty


def invalid(**errors: str) -> Refused:
    """400 as PVE's parameter check gives it: parameter -> text."""
    return Refused(400, "Parameter verification failed.", errors=errors)


def forbidden(path: str = "", *privileges: str) -> Refused:
    """403: by path and privilege, or bare where one of several rights would have done."""
    said = f" ({path}, {'|'.join(privileges)})" if path else ""
    return Refused(403, f"Permission check failed{said}")


@dataclass(frozen=True, slots=True)
class Who:
    """user: `labs@pve`. token: `hub`, or "" for a ticket. root: root itself (a ticket of root@pam), not its token."""

    user: str
    token: str = ""

    @property
    def root(self) -> bool:
        return self.user == "root@pam" and not self.token

    @property
    def name(self) -> str:
        return f"{self.user}!{self.token}" if self.token else self.user


NOBODY = Who("")


@dataclass(slots=True)
class Listed:
    """Data with more beside it in the answer: `total` of task lists and logs."""

    data: Any
    more: Json = field(default_factory=dict)


@dataclass(slots=True)
class Call:
    """asked: the node whose port was asked. node: the one in the path, else the asked one. params: checked."""

    inside: Inside
    method: str
    path: str
    asked: str
    who: Who = NOBODY
    names: dict[str, str] = field(default_factory=dict)
    params: Params = field(default_factory=dict)

    @property
    def node(self) -> str:
        return self.names.get("node", self.asked)

    @property
    def vmid(self) -> int:
        return int(self.names["vmid"])

    def has(self, path: str, *privileges: str) -> bool:
        """Whether the caller has any of these on the path."""
        return self.inside.access.has_any(self.who, path, privileges)

    def need(self, path: str, *privileges: str) -> None:
        if not self.has(path, *privileges):
            raise forbidden(path, *privileges)

    def vm(self) -> Vm:
        """The VM of the path, on the node of the path. Refused as PVE does when its config is not there."""
        vm = self.inside.world.vms.get(self.vmid)
        if vm is None or vm.node != self.node:
            raise Refused(500, no_config(self.node, self.vmid))
        return vm

    def flag(self, name: str) -> bool:
        return str(self.params.get(name, "0")) in ("1", "true", "yes", "on")


def no_config(node: str, vmid: int) -> str:
    return f"Configuration file 'nodes/{node}/qemu-server/{vmid}.conf' does not exist"
