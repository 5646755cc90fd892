"""From a checked choice to what the engine is asked for. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from labspawner.courses import Choice, pin, resolve, revision
from labspawner.lifecycle import Order, Variant

DEFAULT_READY_TIMEOUT_S = 120.0


def order_for(
    choice: Choice,
    *,
    user: str,
    server_name: str,
    base_url: str,
    command: tuple[str, ...],
    environment: Mapping[str, str],
) -> Order:
    """What to start for `choice`, with the profile as it is now; nothing in it is shared with the course."""
    profile = choice.profile
    picked = choice.variant
    resolved = [resolve(choice, index) for index in (picked, *(i for i in range(len(profile.variants)) if i != picked))]
    return Order(
        user=user,
        server_name=server_name,
        profile=choice.profile_key,
        profile_rev=revision(profile),
        pinned=pin(choice.course, profile, picked, choice.options),
        variants=tuple(
            Variant(
                provider=variant.provider,
                resources=variant.resources,
                settings=variant.settings,
                ready_timeout_s=variant.start_timeout_s or DEFAULT_READY_TIMEOUT_S,
                index=variant.index,
                pinned={"variant": variant.to_json(), "index": variant.index},
            )
            for variant in resolved
        ),
        fallback=profile.fallback == "auto",
        ask=profile.fallback == "ask",
        wait_s=profile.queue_for.total_seconds() if profile.queue == "wait" else 0.0,
        per_user=profile.limits.per_user,
        base_url=base_url,
        command=command,
        environment=environment,
    )
