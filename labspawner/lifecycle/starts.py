"""The starts that are under way: who has one, who may not have another, and who changes their mind in line."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from labspawner.errors import BadChoice, LeaseConflict, NotAllowed
from labspawner.lifecycle.admission import Admission
from labspawner.lifecycle.book import LeaseBook
from labspawner.lifecycle.choosing import Switch
from labspawner.lifecycle.orders import Order, Variant
from labspawner.model import Lease, LeaseId, Phase
from labspawner.naming import new_lease_id
from labspawner.sentences import Sentence

NOT_IN_LINE = Sentence("Your server does not wait in line any more. Load the page again.")


@dataclass(eq=False, slots=True)
class Start:
    """One start under way. lease_id: once it is chosen. parked: what is being resumed, as it was. over: when nothing of
    it is at work any more, its roll-back included. stopped: by `abort`. given_up: whatever comes now comes too late."""

    order: Order
    lease_id: LeaseId | None = None
    parked: Lease | None = None
    task: asyncio.Task[Lease] | None = None
    switch: Switch = field(default_factory=Switch)
    stopped: bool = False
    given_up: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def server(self) -> tuple[str, str]:
        return self.order.user, self.order.server_name


class Starts:
    """At most one start per server."""

    def __init__(self, book: LeaseBook, admission: Admission) -> None:
        self._book = book
        self._admission = admission
        self._starts: dict[tuple[str, str], Start] = {}

    def all(self) -> list[Start]:
        return list(self._starts.values())

    def of(self, user: str, server_name: str) -> Start | None:
        """The start of this server that is under way."""
        return self._starts.get((user, server_name))

    def busy(self) -> set[LeaseId]:
        """The leases that are being launched, or rolled back, right now."""
        return {start.lease_id for start in self._starts.values() if start.lease_id is not None}

    def begin(self, order: Order) -> Start:
        """Count the start from now on. Raises NotAllowed over the limit, LeaseConflict beside another one."""
        self.check(order)
        start = self._starts[order.user, order.server_name] = Start(order)
        return start

    def end(self, start: Start) -> None:
        """Nothing of it is at work any more."""
        if self._starts.get(start.server) is start:
            del self._starts[start.server]
        start.over.set()

    def check(self, order: Order) -> None:
        """Raises what a start of this order would be refused with, whatever is free."""
        if self.of(order.user, order.server_name) is not None:
            raise LeaseConflict(
                Sentence("Your server is already starting or running. Reload this page."),
                detail=f"a start is under way user={order.user} server={order.server_name!r}",
            )
        others = self.servers_of(order.user, order.profile) - {order.server_name}
        if order.per_user is not None and len(others) >= order.per_user:
            raise NotAllowed(
                Sentence(
                    "You already run {count} of this profile, and {limit} is the limit. Stop one of them first.",
                    count=len(others),
                    limit=order.per_user,
                )
            )

    def servers_of(self, user: str, profile: str) -> set[str]:
        """The names of the servers of this profile that a user has, those that are starting among them."""
        leases = [
            lease.server_name
            for lease in self._book.of_user(user)
            if lease.profile == profile and lease.phase is not Phase.PARKED
        ]
        starts = [
            start.order.server_name
            for start in self._starts.values()
            if (start.order.user, start.order.profile) == (user, profile)
        ]
        return {*leases, *starts}

    def others(self, user: str, server_name: str) -> tuple[Variant, ...]:
        """What a start that stands in line could take instead of what it waits for, where its profile lets students pick."""
        start = self.of(user, server_name)
        if start is None or not start.order.ask or start.parked is not None or not start.switch.possible:
            return ()
        return start.order.variants[1:]

    async def switch(self, user: str, server_name: str, index: int) -> None:
        """Start what stands in line as another variant of its profile, now. index: as `Variant.index`.

        Raises LeaseConflict where it does not stand in line (any more), BadChoice for a variant that it has not, and
        what admission raises where that has no room either; the place in line is kept then.
        """
        start = self.of(user, server_name)
        if start is None or not start.switch.possible:
            raise LeaseConflict(NOT_IN_LINE)
        variant = next((one for one in self.others(user, server_name) if one.index == index), None)
        if variant is None:
            raise BadChoice(Sentence("This profile cannot be started in this way. Load the page again."))
        held = LeaseId(f"switch:{new_lease_id()}")
        await self._admission.take(held, variant.provider, variant.resources, held=True)
        if not start.switch.to(held, variant):
            self._admission.give_back(held)
            raise LeaseConflict(NOT_IN_LINE)
