"""Whether to cull a server, when it would be, and why. Pure: time and the world are arguments, an answer has its reason.

`decide` says what is to be done now, `forecast` when that would be to cull if nothing happened meanwhile.
"""

from __future__ import annotations

from labspawner.culling.deciding import Cull, Keep, Verdict, cause_of, decide
from labspawner.culling.forecasting import Forecast, forecast, if_nothing_happens
from labspawner.culling.idleness import HOST_STALE_AFTER
from labspawner.culling.policy import CullPolicy
from labspawner.culling.view import ServerView, evidence

__all__ = [
    "HOST_STALE_AFTER",
    "Cull",
    "CullPolicy",
    "Forecast",
    "Keep",
    "ServerView",
    "Verdict",
    "cause_of",
    "decide",
    "evidence",
    "forecast",
    "if_nothing_happens",
]
