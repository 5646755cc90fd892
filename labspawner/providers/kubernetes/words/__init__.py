"""What scheduler, kubelet, image pull and API server say, in words for students, with the cluster's own words for the log.

Everything here is a pure function of views; `Waiting.kind` says what to do, `Waiting.message` what to show.
"""

from labspawner.providers.kubernetes.words.ending import ended
from labspawner.providers.kubernetes.words.errors import error_of
from labspawner.providers.kubernetes.words.placing import Need, unplaced
from labspawner.providers.kubernetes.words.refusing import refusal, unreachable
from labspawner.providers.kubernetes.words.starting import waiting

__all__ = ["Need", "ended", "error_of", "refusal", "unplaced", "unreachable", "waiting"]
