"""What the state of one container means for a start, and of its end."""

from __future__ import annotations

import re
from collections.abc import Sequence

from labspawner.providers.kubernetes.strategies.contract import Kind, Waiting
from labspawner.providers.kubernetes.views import ContainerView, EventView, PodView
from labspawner.providers.kubernetes.words import images
from labspawner.sentences import Sentence
from labspawner.units import human_bytes

PREPARING_PCT, FETCHING_PCT, STARTING_PCT = 25, 35, 60
_FAST_RETRIES = 2  # pulls of a registry that does not answer, before a start is given up
_EXEC = re.compile(r'exec: \\?"([^"\\]{1,200})\\?"')
_SECRET = re.compile(r'(secret|configmap) "([^"]{1,253})" not found')
_KILLED, _NOT_EXECUTABLE, _NO_COMMAND = 137, 126, 127

LOST = Sentence("The machine that ran your server was lost. Start it again.")
PREPARING = Sentence("Preparing your server")
_STUCK_PREPARING = Sentence(
    "The machine that was chosen for your server did not get it ready in time. Try again; if it happens again, "
    "tell your administrator."
)


def preparing(detail: str = "") -> Waiting:
    """The pod has a node, and no container yet."""
    return Waiting(kind=Kind.STARTING, message=PREPARING, detail=detail, percent=PREPARING_PCT, stuck=_STUCK_PREPARING)


def fetching(image: str) -> Waiting:
    """The image is on its way."""
    return Waiting(
        kind=Kind.STARTING,
        message=Sentence("Fetching the image {image}; the first time on a machine takes minutes", image=image),
        percent=FETCHING_PCT,
        stuck=Sentence(
            "The image {image} was still being fetched when the time for the start was over. Try again: what is "
            "fetched already is kept.",
            image=image,
        ),
    )


def waits(container: ContainerView, events: Sequence[EventView]) -> Waiting | None:
    """What a container that waits, or ended, means; None: nothing is wrong with it."""
    if container.state == "waiting":
        return _waits(container, events)
    if container.state == "terminated":
        return died(container)
    return None


def _waits(container: ContainerView, events: Sequence[EventView]) -> Waiting | None:
    image, reason, message = container.image, container.reason, container.message
    detail = f"{reason}: {message}" if message else reason
    if reason in {"ErrImagePull", "ImagePullBackOff"}:
        return _pull(container, events, detail)
    if (words := _never_fetched(image, reason, message)) is not None:
        return _failed(words, detail)
    if reason == "CreateContainerConfigError":
        return _failed(_configuration(message), detail)
    if reason in {"CreateContainerError", "RunContainerError", "StartError"}:
        return _failed(_not_run(image, message), detail, asks_log=True)
    return died(container, detail=detail) if reason == "CrashLoopBackOff" or container.last_reason else None


def _never_fetched(image: str, reason: str, message: str) -> Sentence | None:
    """What makes the kubelet not even try to fetch an image; None where that is not the reason."""
    if reason == "ErrImageNeverPull":
        return images.not_present(image)
    if reason == "InvalidImageName":
        return images.no_image_name(image)
    if reason == "RegistryUnavailable":
        return images.not_fetched(image, "connection refused")
    return images.not_fetched(image, message) if reason in {"ImageInspectError", "SignatureValidationFailed"} else None


def _pull(container: ContainerView, events: Sequence[EventView], detail: str) -> Waiting:
    said = [container.message, *(event.message for event in events if event.reason == "Failed")]
    why = max(said, key=lambda text: ("pull" in text, len(text)))  # `Error: ErrImagePull` explains nothing
    if why not in detail:
        detail = f"{detail}; {why}"
    tries = max((event.count for event in events if event.reason == "Failed" and "pull" in event.message), default=1)
    if images.answers_later(why) and tries < _FAST_RETRIES:
        return Waiting(
            kind=Kind.STARTING,
            message=Sentence("Fetching the image {image} again: its registry did not answer", image=container.image),
            detail=detail,
            percent=FETCHING_PCT,
            stuck=images.not_fetched(container.image, why),
        )
    return _failed(images.not_fetched(container.image, why), detail)


def _configuration(message: str) -> Sentence:
    missing = _SECRET.search(message)
    if missing is not None:
        return Sentence(
            "This profile needs the {kind} {name}, which is not in the cluster. Tell your administrator.",
            kind="Secret" if missing[1] == "secret" else "ConfigMap",
            name=missing[2],
        )
    if "non-root" in message or "runAsNonRoot" in message:
        return Sentence("The image wants to run as root, which this cluster does not allow. Tell your instructor.")
    if "device plugin" in message:
        return Sentence("The machine of your server cannot hand out its GPU just now. Try again in a few minutes.")
    return Sentence("This profile is set up in a way that the cluster does not accept. Tell your administrator.")


def _not_run(image: str, message: str) -> Sentence:
    program = _EXEC.search(message)
    if program is not None:
        return Sentence(
            "The image {image} has no program {program} that could be started. Tell your instructor: "
            "the image is not made for JupyterHub.",
            image=image,
            program=program[1],
        )
    return Sentence(
        "The machine could not start a container of the image {image}. Tell your administrator.", image=image
    )


def died(container: ContainerView, *, detail: str = "", was_ready: bool = False) -> Waiting:
    """The container ended, whatever becomes of it next. was_ready: its server had answered before."""
    now = container.state == "terminated"
    reason = container.reason if now else container.last_reason
    code = container.exit_code if now else container.last_exit_code
    message = container.message if now else container.last_message
    words = detail or " ".join(filter(None, [reason, message]))
    log = f"container {container.name} ended: exit code {code}, {words}"
    if reason == "ContainerStatusUnknown":
        return _failed(LOST, log, again=True)
    if reason == "OOMKilled":
        return _failed(_too_little_memory(container), log, asks_log=True)
    if reason in {"StartError", "ContainerCannotRun"} or code in {_NOT_EXECUTABLE, _NO_COMMAND}:
        return _failed(_not_run(container.image, message), log, asks_log=reason not in {"StartError"})
    return _failed(_went(code) if was_ready else _did_not_start(code), log, asks_log=True)


def _did_not_start(code: int | None) -> Sentence:
    if code == 0:
        return Sentence(
            "Your server ended by itself right after its start. Tell your instructor: the image's command is "
            "not a JupyterHub server."
        )
    if code == _KILLED:
        return Sentence(
            "Your server was killed while it was starting, most likely because the machine's memory is full. "
            "Try again later, or pick a smaller profile."
        )
    return Sentence(
        "Your server stopped while it was starting (exit code {code}). Try again; if it stops again, "
        "show the last lines of its log to your instructor.",
        code=code,
    )


def _went(code: int | None) -> Sentence:
    if code == 0:
        return Sentence("Your server ended by itself.")
    return Sentence("Your server stopped unexpectedly (exit code {code}). Start it again.", code=code)


def _too_little_memory(container: ContainerView) -> Sentence:
    if container.memory_limit_bytes is None:
        return Sentence("Your server used more memory than there is, and was ended. Pick a larger profile.")
    return Sentence(
        "Your server used more memory than its {limit}, and was ended. Pick a larger profile, or work on less at once.",
        limit=human_bytes(container.memory_limit_bytes),
    )


def _failed(message: Sentence, detail: str, *, again: bool = False, asks_log: bool = False) -> Waiting:
    return Waiting(kind=Kind.FAILED, message=message, detail=detail, again=again, asks_log=asks_log)


def main_of(pod: PodView) -> ContainerView | None:
    """The server's container: the first one."""
    return pod.containers[0] if pod.containers else None
