"""What students see before they choose: what is free, for whom, why not, and when next. One computation for all viewers.

`words` is the closed list of reasons, `answer` what is said of one profile, `offers` who may see what, `counting` how many
fit (pure), `desk` the one shared computation, `streams` and `handlers` what browsers of the hub's own log-in get.
"""

from labspawner.availability.answer import Answer
from labspawner.availability.words import Blocked

__all__ = ["Answer", "Blocked"]
