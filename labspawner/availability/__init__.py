"""What students see before they choose: what is free, for whom, why not, and when next. One computation for all viewers.

`words` is the closed list of reasons, `answer` what is said of one profile, `offers` who may see what, `judging` what that
means for a viewer (pure), `desk` the one shared computation, `wording` the sentences, `streams` and `handlers` what browsers
of the hub's own log-in get.
"""

from labspawner.availability.answer import Answer, Elsewhere
from labspawner.availability.desk import Availability, Picture, Viewer
from labspawner.availability.words import Blocked

__all__ = ["Answer", "Availability", "Blocked", "Elsewhere", "Picture", "Viewer"]
