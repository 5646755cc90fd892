"""Every error labspawner raises on purpose.

    LabError
    ├── Transient            may be tried again after `retry_after_s`; nothing was left behind
    │   ├── NoRoom               full now: wait in line, or take another variant
    │   ├── ProviderUnavailable  the host does not answer
    │   ├── LeaseConflict        another start or stop of the same server is under way
    │   └── StoreUnavailable     the database does not answer; nothing was written
    └── Permanent            trying the same again gives the same
        ├── NeverFits            larger than the largest host or card
        ├── StartFailed          the server was started and died, or never answered
        ├── SetupError           the host lacks something: a command, a home, disk space
        ├── BadChoice            the request names no profile or option that exists (HTTP 400)
        ├── UnknownLease         no such lease; also a LookupError
        ├── UnknownCourse        no course of this name is written in the console; also a LookupError
        ├── CourseExists         there is a course of this name already
        ├── Conflict             somebody else changed it since it was read (HTTP 412)
        ├── NotAllowed           the profile is not this user's (HTTP 403)
        └── BadConfig            an administrator's setting is wrong; said at hub start

`message` is what the student reads (JupyterHub shows `jupyterhub_message`); `str(e)` is for the log and may name hosts,
never secrets. `log_tail` is for the owner of the server and the log.
"""

from __future__ import annotations

from datetime import datetime, timezone

from labspawner.sentences import Sentence
from labspawner.units import human_bytes


class LabError(Exception):
    """The root: `message` for the student, `detail` for the log."""

    reason = "error"
    status_code = 500

    def __init__(self, message: Sentence, *, detail: str = "", log_tail: str = "") -> None:
        super().__init__(detail or str(message))
        self.message = message
        self.jupyterhub_message = message
        self.log_tail = log_tail


class Transient(LabError):
    """May be tried again after `retry_after_s` seconds."""

    status_code = 503

    def __init__(self, message: Sentence, *, detail: str = "", log_tail: str = "", retry_after_s: float = 5.0) -> None:
        super().__init__(message, detail=detail, log_tail=log_tail)
        self.retry_after_s = retry_after_s


class Permanent(LabError):
    """Trying the same again gives the same."""


class NoRoom(Transient):
    """No host has the resources free now. Nothing was created."""

    reason = "no_room"


class ProviderUnavailable(Transient):
    """The host does not answer, or answers with an error of its own."""

    reason = "unavailable"


class LeaseConflict(Transient):
    """Another start or stop of the same server is under way."""

    reason = "conflict"
    status_code = 409


class StoreUnavailable(Transient):
    """The database of the leases does not answer. The call that failed wrote nothing, unless its connection broke
    while it was being committed."""

    reason = "store"


class NeverFits(Permanent):
    """The request is larger than the largest host or card there is."""

    reason = "never_fits"
    status_code = 400

    def __init__(self, wanted_bytes: int, largest_bytes: int, *, message: Sentence | None = None) -> None:
        """Where no more bytes are wanted than there are, it is cores or places that no host has. message: of a provider
        that knows better what does not fit."""
        if message is not None:
            pass
        elif wanted_bytes > largest_bytes:
            message = Sentence(
                "This profile needs {wanted}, more than any machine here has ({largest}). "
                "Pick a smaller profile, or tell your instructor.",
                wanted=human_bytes(wanted_bytes),
                largest=human_bytes(largest_bytes),
            )
        else:
            message = Sentence("No machine here can run this profile. Pick a smaller one, or tell your instructor.")
        super().__init__(message, detail=f"never fits wanted_bytes={wanted_bytes} largest_bytes={largest_bytes}")


class StartFailed(Permanent):
    """The server was started and died, or did not answer in time."""

    reason = "start_failed"


class SetupError(Permanent):
    """The host lacks something a server needs: a command, a writable home, disk space."""

    reason = "setup"


class BadChoice(Permanent):
    """The request names no profile or option that exists, or has the wrong shape."""

    reason = "bad_choice"
    status_code = 400


class UnknownLease(Permanent, LookupError):
    """No lease has this id: it was never stored, or was pruned long after its end."""

    reason = "unknown_lease"
    status_code = 404


class UnknownCourse(Permanent, LookupError):
    """No course of this name is written in the console, or it has no such revision."""

    reason = "unknown_course"
    status_code = 404


class CourseExists(Permanent):
    """There is a course of this name already. Nothing was written."""

    reason = "course_exists"
    status_code = 409


class Conflict(Permanent):
    """Somebody else changed it since it was read. Nothing was written.

    etag: what it has now. by, at: who made the last change, and when.
    """

    reason = "changed_meanwhile"
    status_code = 412

    def __init__(self, etag: str, by: str, at: datetime) -> None:
        super().__init__(
            Sentence(
                "{by} changed this course on {day} at {time} UTC, after you opened it. Nothing of yours was saved: "
                "look at both versions, then save again.",
                by=by,
                day=f"{at.astimezone(timezone.utc):%Y-%m-%d}",
                time=f"{at.astimezone(timezone.utc):%H:%M}",
            ),
            detail=f"stale etag, current={etag} by={by!r} at={at.isoformat()}",
        )
        self.etag, self.by, self.at = etag, by, at


class NotAllowed(Permanent):
    """The profile belongs to a course that this user is not in, or a limit of theirs is reached."""

    reason = "not_allowed"
    status_code = 403


class BadConfig(Permanent):
    """An administrator's setting is wrong."""

    reason = "config"
    status_code = 503  # for a start that meets it: the student can do nothing, and the hub is not broken
