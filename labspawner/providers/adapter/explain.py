"""Why a start failed, in words for the student. Pure."""

from __future__ import annotations

from labspawner.errors import LabError, SetupError, StartFailed
from labspawner.sentences import Sentence, plain


def failed(exc: Exception, spawner: str) -> LabError:
    """What a Spawner class raised: its own words for the student where it has some, never `str(exc)`."""
    detail = f"{spawner} failed: {type(exc).__name__}: {exc}"
    words = getattr(exc, "jupyterhub_message", None) or getattr(exc, "message", None)
    if isinstance(words, str) and words:
        return StartFailed(plain(words), detail=detail)
    if isinstance(exc, FileNotFoundError):
        return SetupError(
            Sentence("A command that your server needs is not installed. Tell your administrator."), detail=detail
        )
    if isinstance(exc, OSError):
        return SetupError(
            Sentence("Your server could not be started on its machine. Tell your administrator."), detail=detail
        )
    return StartFailed(
        Sentence("Your server could not be started. Try again; if it fails again, tell your instructor."), detail=detail
    )


def died(exit_status: object) -> StartFailed:
    """The server ended before it answered."""
    return StartFailed(
        Sentence(
            "Your server stopped while it was starting (exit code {code}). Try again; if it stops again, "
            "tell your instructor.",
            code=str(exit_status),
        ),
        detail=f"server died at start exit_status={exit_status}",
    )


def too_slow(waited_s: float) -> StartFailed:
    """The server did not answer in time."""
    return StartFailed(
        Sentence(
            "Your server did not answer within {seconds} seconds and was stopped. Try again; if it happens again, "
            "tell your instructor.",
            seconds=round(waited_s),
        ),
        detail=f"no answer within {waited_s:g} s",
    )
