"""Which variant of an order is started: the first that is free, else the first worth waiting for."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta

from labspawner.deadlines import within
from labspawner.errors import LabError, NoRoom, Transient
from labspawner.lifecycle.admission import Admission
from labspawner.lifecycle.orders import Order, Report, Variant
from labspawner.model import Lease, LeaseId, Progress
from labspawner.sentences import Sentence
from labspawner.units import human_duration


async def choose(admission: Admission, lease: Lease, order: Order, report: Report) -> Variant:
    """Promise the resources of a variant to the lease, and answer which; waits in line as long as the order says.

    Raises the error of the variant that came nearest, or NoRoom when nothing became free in time.
    """
    errors: list[LabError] = []
    worth_waiting: list[Variant] = []
    for variant in _candidates(lease, order):
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
        await within(order.wait_s, _stand_in_line(admission, lease.id, worth_waiting[0], report))
    except asyncio.TimeoutError as exc:
        raise NoRoom(
            Sentence(
                "Nothing became free in {waited}. Try again later, or pick another profile.",
                waited=human_duration(timedelta(seconds=order.wait_s)),
            ),
            detail=f"waited in vain lease={lease.id} provider={worth_waiting[0].provider} wait_s={order.wait_s:.0f}",
            retry_after_s=300,
        ) from exc
    return worth_waiting[0]


def _candidates(lease: Lease, order: Order) -> list[Variant]:
    if lease.handle is not None:  # a parked server can only be resumed where it is
        return [variant for variant in order.variants if variant.provider == lease.handle.provider][:1]
    return list(order.variants if order.fallback else order.variants[:1])


async def _stand_in_line(admission: Admission, lease_id: LeaseId, variant: Variant, report: Report) -> None:
    waiting = admission.wait(lease_id, variant.provider, variant.resources)
    async with contextlib.aclosing(waiting) as places:
        async for sentence in places:
            report(Progress(0, sentence))
