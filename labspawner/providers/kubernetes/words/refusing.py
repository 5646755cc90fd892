"""What the API server refuses, in words: quota, rights, policies, an expired token, and no answer at all."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from labspawner.errors import LabError, LeaseConflict, NoRoom, ProviderUnavailable, SetupError, StartFailed
from labspawner.providers.kubernetes.views import quantity
from labspawner.sentences import Sentence

_QUOTA = re.compile(r"exceeded quota: (?P<name>[^,]+), requested: (?P<rest>.*)", re.DOTALL)
_ASKED = re.compile(r"^(?P<asked>.*?), used: (?P<used>.*?), limited: (?P<limited>.*)$", re.DOTALL)
_RIGHT = re.compile(r'User "(?P<user>[^"]*)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]*)"')

_NOT_TRUSTED = Sentence("The cluster does not know this hub any more: its access has expired. Tell your administrator.")
_NOT_ACCEPTED = Sentence("This profile is set up in a way that the cluster does not accept. Tell your administrator.")
_REFUSED = Sentence("The cluster refused to start your server. Tell your administrator.")
_POLICIES = (
    (
        re.compile("failed quota: .* must specify"),
        Sentence(
            "This cluster wants every profile to say how much memory and how many processors it needs. "
            "Tell your instructor."
        ),
    ),
    (
        re.compile("violates PodSecurity"),
        Sentence(
            "The security rules of this cluster do not allow what this profile asks for. Tell your administrator."
        ),
    ),
    (
        re.compile("is being terminated"),
        Sentence("The namespace for servers is being deleted. Tell your administrator."),
    ),
    (
        re.compile("(maximum|minimum) .* usage per"),
        Sentence("This profile asks for more or less than the cluster allows one server. Tell your instructor."),
    ),
    (
        re.compile("service ?account", re.IGNORECASE),
        Sentence("The service account for servers is missing from the cluster. Tell your administrator."),
    ),
    (
        re.compile("PriorityClass|RuntimeClass"),
        Sentence("This profile names a class that the cluster does not have. Tell your administrator."),
    ),
    (
        re.compile("privileged"),
        Sentence("A server with a GPU slice may not be privileged. Tell your administrator."),
    ),
)
_AWAY = Sentence("The cluster does not answer. Try again in a few minutes.")


def refusal(status_code: int, body: object, *, doing: str = "") -> LabError:
    """What a `Status` of the API server means for a start. body: JSON as text, or read; doing: for the log, for example
    `create pods`. Never raises, whatever the body is."""
    status = _status(body)
    message = str(status.get("message") or "")
    detail = f"{doing or 'request'} refused: HTTP {status_code} {status.get('reason') or ''} {message}".rstrip()
    if status_code == 403:
        return _forbidden(message, detail)
    if status_code == 409:
        return LeaseConflict(Sentence("Your last server is still being stopped. Try again in a minute."), detail=detail)
    if status_code in {401, 429} or status_code >= 500:
        return ProviderUnavailable(_NOT_TRUSTED if status_code == 401 else _AWAY, detail=detail, retry_after_s=30.0)
    if status_code in {400, 422}:
        return SetupError(_NOT_ACCEPTED, detail=detail)
    if status_code == 404 and "namespaces" in message:
        return SetupError(
            Sentence("The namespace for servers is missing from the cluster. Tell your administrator."), detail=detail
        )
    return StartFailed(_REFUSED, detail=detail)


def unreachable(exc: BaseException | None = None, *, doing: str = "") -> ProviderUnavailable:
    """The API server did not answer, or not in time."""
    why = f": {type(exc).__name__}: {exc}" if exc is not None else ""
    return ProviderUnavailable(
        _AWAY, detail=f"{doing or 'request'}: the API server does not answer{why}", retry_after_s=30.0
    )


def _forbidden(message: str, detail: str) -> LabError:
    quota = _QUOTA.search(message)
    if quota is not None:
        return _over_quota(quota["rest"], detail)
    if "exceeding resource quota" in message:  # HAMi's webhook
        return NoRoom(
            Sentence("All the GPU memory that servers may have on this cluster is in use. Try again in a few minutes."),
            detail=detail,
            retry_after_s=60.0,
        )
    right = _RIGHT.search(message)
    if right is not None:
        words = Sentence(
            "This hub may not {verb} {resource} in the cluster. Tell your administrator: `labspawner doctor` shows what "
            "to add.",
            verb=right["verb"],
            resource=right["resource"],
        )
    else:
        words = next((words for pattern, words in _POLICIES if pattern.search(message)), _REFUSED)
    return SetupError(words, detail=detail)


def _over_quota(rest: str, detail: str) -> LabError:
    """Full as long as it could ever fit; else somebody must raise the quota."""
    found = _ASKED.match(rest)
    if found is not None and _never(found["asked"], found["limited"]):
        return SetupError(
            Sentence(
                "This profile asks for more than all servers together may have on this cluster. Tell your administrator."
            ),
            detail=detail,
        )
    return NoRoom(
        Sentence(
            "All that servers may have on this cluster is in use ({what}). Try again in a few minutes.",
            what=", ".join(_names(found["asked"])) if found is not None else "quota",
        ),
        detail=detail,
        retry_after_s=60.0,
    )


def _never(asked: str, limited: str) -> bool:
    limits = dict(_pairs(limited))
    return any(quantity(amount) > quantity(limits.get(name, amount)) for name, amount in _pairs(asked))


def _names(asked: str) -> list[str]:
    return [name.removeprefix("requests.").removeprefix("limits.") for name, _ in _pairs(asked)]


def _pairs(text: str) -> list[tuple[str, str]]:
    return [(name, amount) for part in text.split(",") for name, sep, amount in [part.strip().partition("=")] if sep]


def _status(body: object) -> Mapping[str, object]:
    if isinstance(body, (bytes, bytearray)):
        body = bytes(body).decode("utf-8", "replace")
    if isinstance(body, str):
        try:
            body = json.loads(body)
        except (ValueError, RecursionError):
            return {"message": str(body)[:500]}
    return body if isinstance(body, Mapping) else {}
