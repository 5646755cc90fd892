"""What goes wrong, in a form that pages, programs (RFC 9457 `application/problem+json`) and people can all read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Any

from labspawner.courses import Problem as Flaw
from labspawner.errors import LabError, Transient
from labspawner.pages import i18n
from labspawner.sentences import Sentence
from labspawner.service.console import words

TYPE_ROOT = "https://labspawner.invalid/problems/"
"""Names of kinds of problems; nothing is there to be fetched, and `.invalid` says so."""


class Problem(Exception):
    """A request that ends here. Its class says the status; `message` is for people, `members` for programs.

    kind: names the problem for programs, in `type`.
    """

    status = 400
    kind = "bad-request"

    def __init__(self, message: Sentence, *, kind: str = "", status: int = 0, **members: Any) -> None:
        super().__init__(str(message))
        self.message = message
        self.kind = kind or type(self).kind
        self.status = status or type(self).status
        self.members: dict[str, Any] = members


class LogIn(Problem):
    """Nobody is logged in, or the token is no longer one."""

    status, kind = 401, "log-in"


class Refused(Problem):
    """Who asks may not."""

    status, kind = 403, "refused"


class Missing(Problem):
    """There is nothing of that name, or none that who asks may know of."""

    status, kind = 404, "missing"


class Exists(Problem):
    """Something stands in the way: the name is taken, or it is in another state."""

    status, kind = 409, "conflict"


class Stale(Problem):
    """Somebody else changed it since it was read: who and when; `etag` and `current` are what is in force."""

    status, kind = 412, "stale"

    def __init__(self, message: Sentence, *, by: str, at: datetime, etag: str, current: str = "") -> None:
        super().__init__(message, by=by, at=at.isoformat(), etag=etag)
        self.by, self.at, self.etag, self.current = by, at, etag, current


class TooLarge(Problem):
    """The body is larger than this address takes; it was not read."""

    status, kind = 413, "too-large"


class WrongType(Problem):
    """The body is of another kind than this address takes."""

    status, kind = 415, "wrong-type"


class Invalid(Problem):
    """What was sent can be read, and says something that cannot be. flaws: what, and where."""

    status, kind = 422, "invalid"

    def __init__(self, message: Sentence, flaws: Sequence[Flaw] = (), **members: Any) -> None:
        super().__init__(message, **members)
        self.flaws = tuple(flaws)


class NeedsMatch(Problem):
    """A change without `If-Match` could undo somebody else's."""

    status, kind = 428, "needs-if-match"


class TooMany(Problem):
    """Too much at once; `retry_after_s` later it may do."""

    status, kind = 429, "too-many"

    def __init__(self, message: Sentence, *, retry_after_s: float = 5.0) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.retry_after_s = retry_after_s


class Away(Problem):
    """The hub, or the database, does not answer just now. Nothing was changed."""

    status, kind = 503, "away"


_WORDS: Mapping[int, tuple[str, Sentence]] = {
    400: ("bad-request", words.UNREADABLE),
    401: ("log-in", words.LOG_IN),
    403: ("refused", words.FORGED),
    404: ("missing", words.NO_PAGE),
    405: ("method", words.NO_METHOD),
    413: ("too-large", words.TOO_LARGE),
}


def of_exception(cause: BaseException | None, status: int) -> Problem:
    """Any exception as a problem; of one that is not ours nothing is told but its status."""
    if isinstance(cause, Problem):
        return cause
    if isinstance(cause, LabError):
        told = cause.status_code if cause.status_code < 600 else 500
        problem = Problem(cause.message, kind=cause.reason.replace("_", "-"), status=told)
        if isinstance(cause, Transient):
            problem.members["retry_after_s"] = cause.retry_after_s
        return problem
    kind, message = _WORDS.get(status, ("broken", words.BROKEN))
    return Problem(message, kind=kind, status=status)


def as_json(problem: Problem, *, language: str, instance: str) -> dict[str, Any]:
    """The body of the answer. instance: the path that was asked for."""
    return {
        "type": TYPE_ROOT + problem.kind,
        "title": i18n.translate(title_of(problem.status), language),
        "status": problem.status,
        "detail": i18n.translate(problem.message, language),
        "instance": instance,
        **_flaws(problem, language),
        **problem.members,
    }


def _flaws(problem: Problem, language: str) -> dict[str, Any]:
    """What is wrong in a text, and where, in the reader's language."""
    if not isinstance(problem, Invalid) or not problem.flaws:
        return {}
    told = [
        {
            "line": flaw.line,
            "column": flaw.column,
            "path": flaw.path,
            "message": i18n.translate(flaw.message, language),
        }
        for flaw in problem.flaws
    ]
    return {"problems": told}


def title_of(status: int) -> Sentence:
    """The few words above the sentence."""
    return words.TITLES.get(status) or Sentence(_phrase(status))


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
