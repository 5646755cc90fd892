"""Why a profile cannot be started now: a closed list, each with a sentence that students read."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from labspawner.sentences import Sentence


class Blocked(str, Enum):
    """Why a profile cannot be started at once. The values are part of the REST API: none is renamed or given another
    meaning. Only what `joinable` names can be waited for in line."""

    CLOSED_HOURS = "closed_hours"  # its class hours are over, or have not begun
    NOT_YOURS = "not_yours"  # the viewer is not in the course; never told apart from a profile that is not there
    DRAFT = "draft"  # the course is not published: only those who help to run it are offered its profiles
    PROVIDER_MISSING = "provider_missing"  # the hub has no such provider
    PROVIDER_SILENT = "provider_silent"  # it does not answer now, so nobody knows what is free
    FULL = "full"  # no host has the room now
    HELD_BY_OTHERS = "held_by_others"  # full, because somebody clicked a moment ago and has not started yet
    IN_LINE = "in_line"  # there may be room, and others wait for it
    NEVER_FITS = "never_fits"  # larger than any host, even an empty one
    NO_GPU_HERE = "no_gpu_here"  # it needs a GPU, and the provider has none
    PER_USER_LIMIT = "per_user_limit"  # the viewer has as many of it as the profile allows

    @property
    def joinable(self) -> bool:
        """Whether waiting in line helps."""
        return self in _JOINABLE

    @property
    def sentence(self) -> Sentence:
        """What a student reads where nothing more is known."""
        return SENTENCES[self]


_JOINABLE = frozenset({Blocked.FULL, Blocked.HELD_BY_OTHERS, Blocked.IN_LINE, Blocked.PROVIDER_SILENT})

SENTENCES: Mapping[Blocked, Sentence] = {
    Blocked.CLOSED_HOURS: Sentence("closed now"),
    Blocked.NOT_YOURS: Sentence("not one of your profiles"),
    Blocked.DRAFT: Sentence("not published yet"),
    Blocked.PROVIDER_MISSING: Sentence("not set up here"),
    Blocked.PROVIDER_SILENT: Sentence("its machines do not answer"),
    Blocked.FULL: Sentence("full now"),
    Blocked.HELD_BY_OTHERS: Sentence("full now: the last place was just taken"),
    Blocked.IN_LINE: Sentence("others are waiting in line"),
    Blocked.NEVER_FITS: Sentence("no machine here is large enough"),
    Blocked.NO_GPU_HERE: Sentence("needs a GPU, and there is none here"),
    Blocked.PER_USER_LIMIT: Sentence("you already have as many as you may"),
}
