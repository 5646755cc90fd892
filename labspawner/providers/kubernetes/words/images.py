"""Why an image cannot be fetched or used, told from the words of kubelet and registry."""

from __future__ import annotations

import re

from labspawner.sentences import Sentence

_MISSING = re.compile(
    r"manifest unknown|not found|name unknown|repository does not exist|manifest .* does not exist", re.IGNORECASE
)
_REFUSED = re.compile(
    r"pull access denied|unauthorized|authorization failed|authentication required|no basic auth|insufficient_scope"
    r"|\bdenied\b|\b40[13]\b|forbidden",
    re.IGNORECASE,
)
_SILENT = re.compile(
    r"no such host|server misbehaving|timeout|timed out|connection refused|connection reset|network is unreachable"
    r"|no route to host|deadline exceeded|temporary failure|unexpected EOF|: EOF|\b50[0234]\b|toomanyrequests|\b429\b"
    r"|x509|certificate|http: server gave HTTP response",
    re.IGNORECASE,
)
_OTHER_MACHINE = re.compile(r"no match for platform|no matching manifest|exec format error", re.IGNORECASE)
_DISK_FULL = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
_CERTIFICATE = re.compile(r"x509|certificate|http: server gave HTTP response", re.IGNORECASE)

_REASONS = (
    (
        _OTHER_MACHINE,
        Sentence("The image {image} is not made for the processors of this cluster. Tell your instructor."),
    ),
    (
        _DISK_FULL,
        Sentence(
            "The machine that should run your server has no disk space left for the image {image}. "
            "Tell your administrator."
        ),
    ),
    (
        _REFUSED,
        Sentence(
            "The registry does not give the image {image} to this cluster. Tell your administrator: "
            "it needs a pull secret."
        ),
    ),
    (
        _MISSING,
        Sentence(
            "The image {image} does not exist. Tell your instructor: its name or version is misspelt, "
            "or it was never published."
        ),
    ),
    (
        _CERTIFICATE,
        Sentence("This cluster does not trust the registry of the image {image}. Tell your administrator."),
    ),
    (
        _SILENT,
        Sentence(
            "The registry of the image {image} does not answer. Try again in a few minutes; if it happens again, "
            "tell your administrator."
        ),
    ),
)
_HIDDEN = Sentence(
    "The image {image} does not exist, or its registry does not give it to this cluster. Tell your instructor."
)
_ANYTHING = Sentence("The image {image} cannot be fetched. Tell your administrator.")


def answers_later(message: str) -> bool:
    """Whether the registry only did not answer, so that the next try may work."""
    return _SILENT.search(message) is not None and _MISSING.search(_without_hosts(message)) is None


def not_fetched(image: str, message: str) -> Sentence:
    """What the student reads of an image that could not be fetched. message: the kubelet's."""
    text = _without_hosts(message)
    found = next((words for pattern, words in _REASONS if pattern.search(text)), _ANYTHING)
    if _MISSING.search(text) and _REFUSED.search(text):
        found = _HIDDEN  # what a registry says that does not tell strangers what it has
    return Sentence(found.template, image=image)


def not_present(image: str) -> Sentence:
    """The image is not on the node, and may not be fetched."""
    return Sentence(
        "The image {image} is not on the machine that should run your server, and this cluster may not fetch it. "
        "Tell your administrator.",
        image=image,
    )


def no_image_name(image: str) -> Sentence:
    """The text is no name of an image."""
    return Sentence("{image} is not the name of an image. Tell your instructor.", image=repr(image))


def _without_hosts(message: str) -> str:
    """`host not found` speaks of no image that was not found."""
    return re.sub(r"host not found", "no such host", message, flags=re.IGNORECASE)
