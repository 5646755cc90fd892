"""Which variant of an order is started: the first that is free, else the first worth waiting for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from labspawner.deadlines import StrayCancellation, within
from labspawner.errors import LabError, NoRoom, Transient
from labspawner.lifecycle.admission import Admission
from labspawner.lifecycle.holds import Holds
from labspawner.lifecycle.orders import Order, Report, Variant
from labspawner.model import Lease, LeaseId, Progress
from labspawner.sentences import Sentence
from labspawner.units import human_duration


class Switch:
    """Another variant that the student picks while they wait for the first: `fallback: ask`."""

    def __init__(self) -> None:
        self._asked: asyncio.Future[tuple[LeaseId, Variant]] | None = None

    @property
    def possible(self) -> bool:
        """Whether the start stands in line now."""
        return self._asked is not None and not self._asked.done()

    def to(self, held: LeaseId, variant: Variant) -> bool:
        """Take `variant`, whose resources are promised to `held`; False where the start does not wait any more."""
        if self._asked is None or self._asked.done():
            return False
        self._asked.set_result((held, variant))
        return True

    @contextlib.contextmanager
    def waiting(self) -> Iterator[asyncio.Future[tuple[LeaseId, Variant]]]:
        """While a start stands in line."""
        self._asked = asyncio.get_running_loop().create_future()
        try:
            yield self._asked
        finally:
            self._asked.cancel()
            self._asked = None


async def choose(
    admission: Admission, holds: Holds, lease: Lease, order: Order, report: Report, switch: Switch
) -> Variant:
    """Promise the resources of a variant to the lease, and answer which; waits in line as long as the order says.

    What is held for the student is used first. Raises the error of the variant that came nearest, or NoRoom when nothing
    became free in time.
    """
    errors: list[LabError] = []
    worth_waiting: list[Variant] = []
    candidates = _candidates(lease, order)
    if (held := holds.spend(order.user, order.profile, lease.id, candidates)) is not None:
        return held
    for variant in candidates:
        try:
            await admission.try_now(lease.id, variant.provider, variant.resources)
        except LabError as exc:
            errors.append(exc)
            if isinstance(exc, Transient):
                worth_waiting.append(variant)
        else:
            return variant
    if not worth_waiting or order.wait_s <= 0:
        # "Try again later" is the truth as long as one variant could ever fit.
        raise next((error for error in errors if isinstance(error, Transient)), errors[0])
    try:
        return await within(order.wait_s, _wait(admission, lease.id, worth_waiting[0], report, switch))
    except asyncio.TimeoutError as exc:
        raise NoRoom(
            Sentence(
                "Nothing became free in {waited}. Try again later, or pick another profile.",
                waited=human_duration(timedelta(seconds=order.wait_s)),
            ),
            detail=f"waited in vain lease={lease.id} provider={worth_waiting[0].provider} wait_s={order.wait_s:.0f}",
            retry_after_s=300,
        ) from exc


async def _wait(admission: Admission, lease_id: LeaseId, variant: Variant, report: Report, switch: Switch) -> Variant:
    """Stand in line for `variant` until it is promised, or until the student picked another: the one that it is now."""
    with switch.waiting() as asked:
        standing = asyncio.get_running_loop().create_task(_stand_in_line(admission, lease_id, variant, report))
        try:
            either: set[asyncio.Future[Any]] = {standing, asked}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not standing.done():
                standing.cancel()
                await asyncio.wait({standing})
            if not standing.cancelled():
                standing.result()
                return variant  # both may come at once: the place that was waited for is the better one
            held, other = asked.result()
            if not admission.pass_on(held, lease_id, other.resources):
                raise StrayCancellation(f"nothing was promised to {held}")
            return other
        finally:
            if not standing.done():
                standing.cancel()
                await asyncio.wait({standing})
            if asked.done() and not asked.cancelled():
                admission.give_back(asked.result()[0])


def _candidates(lease: Lease, order: Order) -> list[Variant]:
    if lease.handle is not None:  # a parked server can only be resumed where it is
        return [variant for variant in order.variants if variant.provider == lease.handle.provider][:1]
    return list(order.variants if order.fallback else order.variants[:1])


async def _stand_in_line(admission: Admission, lease_id: LeaseId, variant: Variant, report: Report) -> None:
    waiting = admission.wait(lease_id, variant.provider, variant.resources)
    async with contextlib.aclosing(waiting) as places:
        async for sentence in places:
            report(Progress(0, sentence))
