"""The end of a pod: asked for, waited for, and said where it does not come."""

from __future__ import annotations

import asyncio
import math
from logging import getLogger

from labspawner.errors import ProviderUnavailable
from labspawner.model import LeaseId
from labspawner.providers.kubernetes.answers import ApiRefused
from labspawner.providers.kubernetes.cluster import Cluster, Seen
from labspawner.providers.kubernetes.manifest import HUB
from labspawner.sentences import Sentence

log = getLogger(__name__)

_LOOK_EVERY_S = 1.0
_NOT_FOUND = 404


async def pods_of(cluster: Cluster, lease_id: LeaseId, name: str | None) -> list[Seen]:
    """The pods of this lease. Where none is known, a list is made first: one that was made just now may not have come
    through the watch yet. name: of the pod that its handle names. Raises ApiRefused or ApiSilent."""
    pods = await cluster.settled()
    found = await cluster.of_lease(lease_id)
    if not found and name is not None:
        await pods.refresh()
        found = await cluster.of_lease(lease_id)
    return found


async def end_pod(cluster: Cluster, seen: Seen, *, grace_s: float, stop_s: float) -> None:
    """Delete one pod, and return when it is gone from the cluster. stop_s: how long beyond its grace that may take.

    Raises ApiRefused or ApiSilent, and ProviderUnavailable for a pod that does not go.
    """
    name = seen.view.name
    # Grace 0 would only make the API server forget the pod, while its processes still run and hold its GPU.
    grace = max(1, math.ceil(grace_s))
    until = asyncio.get_running_loop().time() + grace + stop_s
    cluster.attend(name)
    try:
        await _ask(cluster, name, grace)
        while await _there(cluster, seen):
            left_s = until - asyncio.get_running_loop().time()
            if left_s <= 0:
                raise await _stuck(cluster, name, grace + stop_s)
            await cluster.news(name, timeout_s=min(_LOOK_EVERY_S, left_s))
    finally:
        cluster.leave(name)


async def delete_claim(cluster: Cluster, name: str, *, hub_id: str) -> bool:
    """Delete the claim `name` where it is there, and not another hub's; whether it was. Raises ApiRefused or ApiSilent."""
    path = await cluster.path("persistentvolumeclaims", name)
    try:
        claim = await cluster.api.call("GET", path)
        owner = ((claim.get("metadata") or {}).get("labels") or {}).get(HUB)
        if owner not in {None, hub_id}:
            log.warning("claim %s belongs to hub %s, and stays", name, owner)
            return False
        await cluster.api.call("DELETE", path)
    except ApiRefused as exc:
        if exc.status != _NOT_FOUND:
            raise
        return False
    return True


async def _ask(cluster: Cluster, name: str, grace: int) -> None:
    body = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": grace}
    try:
        await cluster.api.call(
            "DELETE", await cluster.path("pods", name), query={"gracePeriodSeconds": str(grace)}, body=body
        )
    except ApiRefused as exc:
        if exc.status != _NOT_FOUND:
            raise
        await (await cluster.pods()).refresh()


async def _there(cluster: Cluster, seen: Seen) -> bool:
    """Whether exactly this pod is still known; of one that cannot be told it is."""
    now = (await cluster.pods()).get(seen.view.name)
    return now is not None and now.view.uid == seen.view.uid


async def _stuck(cluster: Cluster, name: str, waited_s: float) -> ProviderUnavailable:
    pods = await cluster.pods()
    now = pods.get(name)
    node = now.view.node if now is not None else ""
    return ProviderUnavailable(
        Sentence(
            "Your server was told to stop, and its machine has not confirmed that it did. Your administrator can find "
            "out why; try again later."
        ),
        detail=f"pod {name} on node {node or '-'} is still there {waited_s:.0f} s after its deletion was asked for: "
        "is its node down? `kubectl delete --force` only makes the cluster forget it",
        retry_after_s=60.0,
    )
