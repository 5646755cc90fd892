"""Where a pod is on its way to being ready, from its status and its events."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone

from labspawner.providers.kubernetes.strategies.contract import Kind, Waiting
from labspawner.providers.kubernetes.views import EventView, PodView
from labspawner.providers.kubernetes.words import containers
from labspawner.providers.kubernetes.words.ending import ended
from labspawner.sentences import Sentence

_NO_TIME = datetime.fromtimestamp(0, timezone.utc)
_TIRED = 3  # the kubelet tries without end; a student does not wait so long
STARTING = Sentence("Starting your server")
_STUCK_STARTING = Sentence(
    "Your server was started and did not answer in time. The machine may be busy: try again; if it happens again, "
    "tell your instructor."
)


def waiting(pod: PodView, events: Sequence[EventView], *, unplaced: Callable[[], Waiting]) -> Waiting | None:
    """Why `pod` is not ready; None when it is. unplaced: what to say as long as it has no node."""
    own = about(pod, events)
    gone = ended(pod)
    if gone is not None:
        return gone
    if pod.ready:
        return None
    if not pod.node:
        return unplaced()
    for container in (*pod.init_containers, *pod.containers):
        if container.state == "terminated" and container.exit_code == 0 and container in pod.init_containers:
            continue
        found = containers.waits(container, own)
        if found is not None:
            return found
    main = containers.main_of(pod)
    if main is not None and main.state == "running":
        return Waiting(
            kind=Kind.STARTING,
            message=STARTING,
            detail=_newest(own, {"Unhealthy"}),
            percent=containers.STARTING_PCT,
            stuck=_STUCK_STARTING,
        )
    return _on_the_node(pod, own)


def about(pod: PodView, events: Iterable[EventView]) -> tuple[EventView, ...]:
    """Those of `events` that are of this pod, and not of an earlier one of its name, or of a claim of it; oldest first."""
    found = [
        event
        for event in events
        if (
            event.name == pod.name
            and event.kind in {"Pod", ""}
            and (not event.uid or not pod.uid or event.uid == pod.uid)
        )
        or (event.kind == "PersistentVolumeClaim" and event.name in pod.claims)
    ]
    return tuple(sorted(found, key=lambda event: event.at or _NO_TIME))


def _on_the_node(pod: PodView, events: Sequence[EventView]) -> Waiting:
    """The pod has a node, and its containers do not run yet."""
    for event in reversed(events):
        if event.reason in {"FailedCreatePodSandBox", "FailedPodSandBoxStatus", "NetworkNotReady"}:
            return _network(event)
        if event.reason in {"FailedMount", "FailedAttachVolume", "FailedMapVolume"}:
            return _volume(event)
        if event.reason in {"FailedPrepareDynamicResources", "FailedResourceClaimCreation"}:
            return _stubborn(
                event,
                Sentence(
                    "The machine of your server cannot prepare its GPU. Try again; if it happens again, "
                    "tell your administrator."
                ),
            )
        if event.reason == "Pulling":
            main = containers.main_of(pod)
            return containers.fetching(main.image if main is not None else "")
        if event.reason in {"Pulled", "Scheduled", "Created", "Started", "SuccessfulAttachVolume"}:
            break
    return containers.preparing()


def _network(event: EventView) -> Waiting:
    return _stubborn(
        event,
        Sentence(
            "The machine of your server cannot set up its network. Try again; if it happens again, tell your administrator."
        ),
    )


def _volume(event: EventView) -> Waiting:
    if "Multi-Attach" in event.message:
        words = Sentence(
            "The disk of your home folder is still attached to another machine. Stop your other servers, and try again "
            "in a few minutes."
        )
    elif "not found" in event.message and ("secret" in event.message or "configmap" in event.message):
        words = Sentence(
            "This profile needs a file from the cluster that is not there (a Secret or ConfigMap). Tell your administrator."
        )
    else:
        words = Sentence("The disk of your home folder cannot be attached to the machine. Tell your administrator.")
    return _stubborn(event, words)


def _stubborn(event: EventView, words: Sentence) -> Waiting:
    """What the kubelet tries again and again: at first only slow, then a failure."""
    detail = f"{event.reason}: {event.message}"
    if event.count >= _TIRED:
        return Waiting(kind=Kind.FAILED, message=words, detail=detail, again=True)
    return Waiting(
        kind=Kind.STARTING, message=containers.PREPARING, detail=detail, percent=containers.PREPARING_PCT, stuck=words
    )


def _newest(events: Sequence[EventView], reasons: set[str]) -> str:
    return next((f"{event.reason}: {event.message}" for event in reversed(events) if event.reason in reasons), "")
